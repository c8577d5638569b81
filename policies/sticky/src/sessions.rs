//! The endpoint of each session.

use std::collections::BinaryHeap;

use hotpick_guest::random::mix;
use hotpick_guest::recent::Recent;
use hotpick_guest::{Nanos, Saved, SubConn};

/// Sessions by the hash of their name. The most recently used ones are kept, each until its time to live after its last
/// use.
#[derive(Debug)]
pub(crate) struct Sessions {
    homes: Recent<u64, Home>,
    ttl: Nanos,
    /// Clients choose the names. The seed prevents them from choosing names that collide.
    seed: u64,
}

#[derive(Clone, Copy, Debug)]
struct Home {
    at: SubConn,
    used: Nanos,
}

/// Format of [`Sessions::save`]: the seed, the time to live, and for each session its hash, its endpoint, and its age
/// in units of 1/255 of the time to live.
const SCHEMA: u32 = u32::from_be_bytes(*b"SES2");
/// Format of version 0.1.0, without the time to live and ages.
const WITHOUT_AGES: u32 = u32::from_be_bytes(*b"SES1");
/// Most sessions that are handed over. The host accepts 256 KiB.
const HANDED_OVER: usize = 20_000;
/// Age of a session whose time to live has passed.
const OLDEST: u64 = 255;

impl Sessions {
    /// Creates an empty map for at most this many sessions.
    pub(crate) fn new(most: u32, ttl: Nanos, seed: u64) -> Self {
        Self { homes: Recent::new(most as usize, usize::MAX), ttl, seed }
    }

    /// Returns the endpoint of a session, and counts this as a use. `None` if the session is unknown or expired.
    pub(crate) fn get(&mut self, session: u64, now: Nanos) -> Option<SubConn> {
        let home = self.homes.get_mut(mix(session ^ self.seed))?;
        if now.saturating_sub(home.used) >= self.ttl {
            return None;
        }
        home.used = now;
        Some(home.at)
    }

    /// Sets the endpoint of a session.
    pub(crate) fn set(&mut self, session: u64, home: SubConn, now: Nanos) {
        self.homes.insert(mix(session ^ self.seed), Home { at: home, used: now }, 0);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.homes.len()
    }

    /// Saves the most recently used sessions.
    pub(crate) fn save(&self, now: Nanos) -> Saved {
        let live = self.homes.iter().filter(|(_, home)| now.saturating_sub(home.used) < self.ttl);
        let mut latest: Vec<_> = live.map(|(session, home)| (home.used, *session, home.at)).collect();
        // Sorting would take longer than the host allows.
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
        let (seed, rest) = saved.data.split_first_chunk().ok_or("saved sessions are truncated: no seed")?;
        let (ttl, entries, length) = match saved.schema {
            SCHEMA => {
                let (ttl, entries) =
                    rest.split_first_chunk().ok_or("saved sessions are truncated: no time to live")?;
                (Nanos::from_le_bytes(*ttl), entries, 13)
            }
            WITHOUT_AGES => (0, rest, 12),
            other => return Err(format!("unknown format {other} of saved sessions")),
        };
        self.seed = u64::from_le_bytes(*seed);
        let mut sorted = BinaryHeap::new();
        for entry in entries.chunks(length) {
            let (session, home) = entry.split_first_chunk().ok_or("saved sessions are truncated")?;
            let (at, age) = home.split_first_chunk().ok_or("saved sessions are truncated")?;
            let age = Nanos::from(age.first().copied().unwrap_or(0)).saturating_mul(ttl / OLDEST);
            sorted.push((now.saturating_sub(age), u64::from_le_bytes(*session), SubConn::from_le_bytes(*at)));
        }
        // Insert the most recent ones last, so that they stay if there is space for fewer.
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
            // The 50 most recently used sessions are always kept. Here as many are read as are set.
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
        // Use these once more.
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
        // Session 30,000 is 11,000 s old.
        let mut later = Sessions::new(100_000, ttl, 8);
        later.restore(&saved, 41_000 * SECOND).expect("taken over");
        assert_eq!(later.get(30_000, 129_000 * SECOND), Some(5));
        assert_eq!(later.get(30_000, 231_000 * SECOND), None);
        // With space for a few, the most recent ones are kept.
        let mut few = Sessions::new(100, ttl, 8);
        few.restore(&saved, 41_000 * SECOND).expect("taken over");
        let kept = (0..500).filter(|session| few.get(*session, 41_000 * SECOND) == Some(5)).count();
        // Sessions of nearly the same age have equal saved ages.
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
