//! Where each session lives.

use std::collections::BinaryHeap;

use hotpick_guest::random::mix;
use hotpick_guest::recent::Recent;
use hotpick_guest::{Nanos, Saved, SubConn};

/// Sessions by the hash of their name: those used last, each until it was not used for the time to live.
#[derive(Debug)]
pub(crate) struct Sessions {
    homes: Recent<u64, Home>,
    ttl: Nanos,
    /// Names come from clients: none may choose which of them collide.
    seed: u64,
}

#[derive(Clone, Copy, Debug)]
struct Home {
    at: SubConn,
    used: Nanos,
}

/// The format of [`Sessions::save`]: the seed, the time to live, and for each session its hash, its home and its age, in
/// parts of the time to live.
const SCHEMA: u32 = u32::from_be_bytes(*b"SES2");
/// That of version 0.1.0: without the time to live and ages.
const WITHOUT_AGES: u32 = u32::from_be_bytes(*b"SES1");
/// So many are handed over: the host takes 256 KiB.
const HANDED_OVER: usize = 20_000;
/// What an age of the whole time to live is handed over as.
const OLDEST: u64 = 255;

impl Sessions {
    /// Room for so many.
    pub(crate) fn new(most: u32, ttl: Nanos, seed: u64) -> Self {
        Self { homes: Recent::new(most as usize, usize::MAX), ttl, seed }
    }

    /// Where a session is. It is used by that.
    pub(crate) fn get(&mut self, session: u64, now: Nanos) -> Option<SubConn> {
        let home = self.homes.get_mut(mix(session ^ self.seed))?;
        if now.saturating_sub(home.used) >= self.ttl {
            return None;
        }
        home.used = now;
        Some(home.at)
    }

    /// Where a session is from now on.
    pub(crate) fn set(&mut self, session: u64, home: SubConn, now: Nanos) {
        self.homes.insert(mix(session ^ self.seed), Home { at: home, used: now }, 0);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.homes.len()
    }

    /// The latest of them.
    pub(crate) fn save(&self, now: Nanos) -> Saved {
        let live = self.homes.iter().filter(|(_, home)| now.saturating_sub(home.used) < self.ttl);
        let mut latest: Vec<_> = live.map(|(session, home)| (home.used, *session, home.at)).collect();
        // Not sorted: that takes longer than there is.
        if latest.len() > HANDED_OVER {
            let older = latest.len() - HANDED_OVER;
            latest.select_nth_unstable(older);
            latest.drain(..older);
        }
        let mut data = [self.seed.to_le_bytes(), self.ttl.to_le_bytes()].concat();
        let age = |used: Nanos| {
            let age = now.saturating_sub(used) / (self.ttl / OLDEST).max(1);
            u8::try_from(age).unwrap_or(u8::MAX)
        };
        for (used, session, at) in latest {
            data.extend(session.to_le_bytes());
            data.extend(at.to_le_bytes());
            data.push(age(used));
        }
        Saved { schema: SCHEMA, data }
    }

    pub(crate) fn restore(&mut self, saved: &Saved, now: Nanos) -> Result<(), String> {
        let (seed, rest) = saved.data.split_first_chunk().ok_or("sessions without their seed")?;
        let (ttl, entries, length) = match saved.schema {
            SCHEMA => {
                let (ttl, entries) = rest.split_first_chunk().ok_or("sessions without their time")?;
                (Nanos::from_le_bytes(*ttl), entries, 13)
            }
            WITHOUT_AGES => (0, rest, 12),
            other => return Err(format!("format {other} is not one of sessions")),
        };
        self.seed = u64::from_le_bytes(*seed);
        let mut sorted = BinaryHeap::new();
        for entry in entries.chunks(length) {
            let (session, home) = entry.split_first_chunk().ok_or("half a session")?;
            let (at, age) = home.split_first_chunk().ok_or("half a session")?;
            let age = Nanos::from(age.first().copied().unwrap_or(0)).saturating_mul(ttl / OLDEST);
            sorted.push((now.saturating_sub(age), u64::from_le_bytes(*session), SubConn::from_le_bytes(*at)));
        }
        // The latest last: where there is room for fewer, they stay.
        for (used, session, at) in sorted.into_sorted_vec() {
            self.homes.insert(session, Home { at, used }, 0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    #[test]
    fn one_that_is_used_stays_and_one_that_is_not_is_forgotten_when_its_time_is_over() {
        let mut sessions = Sessions::new(100, 10, 7);
        sessions.set(1, 11, 0);
        sessions.set(2, 12, 0);
        for now in 1..10 {
            assert_eq!(sessions.get(1, now), Some(11));
        }
        assert_eq!(sessions.get(2, 10), None, "though no other one came");
        assert_eq!(sessions.get(1, 18), Some(11));
        assert_eq!(sessions.get(1, 28), None);
    }

    #[test]
    fn there_is_room_for_so_many_and_no_more() {
        let mut sessions = Sessions::new(100, SECOND, 7);
        for session in 0..10_000 {
            sessions.set(session, 1, 0);
            assert!(sessions.len() <= 100);
            // The last fifty that were used are always there: here as many were asked for as were set.
            assert_eq!(sessions.get(session.saturating_sub(20), 0), Some(1));
        }
    }

    #[test]
    fn the_latest_sessions_are_handed_over_with_their_ages() {
        let ttl = 100_000 * SECOND;
        let mut sessions = Sessions::new(100_000, ttl, 7);
        for session in 0..40_000 {
            sessions.set(session, 5, session * SECOND);
        }
        // These were used once more.
        for session in 0..500 {
            assert_eq!(sessions.get(session, 40_000 * SECOND), Some(5));
        }
        let saved = sessions.save(41_000 * SECOND);
        assert!(saved.data.len() <= 256 * 1024);
        let mut next = Sessions::new(100_000, ttl, 8);
        next.restore(&saved, 41_000 * SECOND).expect("taken over");
        assert_eq!(next.len(), 20_000);
        let mut known = (0..500).chain(20_500..40_000);
        assert!(known.all(|session| next.get(session, 41_000 * SECOND) == Some(5)));
        // 30,000 is 11,000 s old.
        let mut later = Sessions::new(100_000, ttl, 8);
        later.restore(&saved, 41_000 * SECOND).expect("taken over");
        assert_eq!(later.get(30_000, 129_000 * SECOND), Some(5));
        assert_eq!(later.get(30_000, 231_000 * SECOND), None);
        // Room for a few: the latest.
        let mut few = Sessions::new(100, ttl, 8);
        few.restore(&saved, 41_000 * SECOND).expect("taken over");
        let kept = (0..500).filter(|session| few.get(*session, 41_000 * SECOND) == Some(5)).count();
        // Those of nearly the same age are alike.
        assert!(kept >= 25, "{kept} of {}", few.len());
    }

    #[test]
    fn what_is_no_list_of_sessions_is_refused_and_what_0_1_0_saved_is_none_the_worse() {
        let mut sessions = Sessions::new(100, SECOND, 7);
        let old = [7u64.to_le_bytes().to_vec(), mix(3 ^ 7).to_le_bytes().to_vec(), vec![9, 0, 0, 0]].concat();
        sessions.restore(&Saved { schema: WITHOUT_AGES, data: old.clone() }, 0).expect("taken over");
        assert_eq!(sessions.get(3, 0), Some(9));
        for (schema, data) in
            [(1, old), (SCHEMA, vec![1, 2]), (SCHEMA, vec![0; 20]), (WITHOUT_AGES, vec![0; 10])]
        {
            assert!(sessions.restore(&Saved { schema, data }, 0).is_err(), "{schema}");
        }
    }
}
