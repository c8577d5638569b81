//! Where each session lives.

use hotpick_guest::random::mix;
use hotpick_guest::{Map, Nanos, Saved, SubConn};

/// Sessions by the hash of their name, in two generations: those used since the last turn, and those used before it.
/// At a turn the older ones are forgotten. That is as good as a list in order of use, and costs a pick nothing.
#[derive(Debug)]
pub(crate) struct Sessions {
    young: Map<u64, SubConn>,
    old: Map<u64, SubConn>,
    /// Of the last turn.
    turned: Nanos,
    /// A turn comes after this time, or when so many are young.
    ttl: Nanos,
    most: usize,
    /// Names come from clients: none may choose which of them collide.
    seed: u64,
}

/// The format of [`Sessions::save`].
const SCHEMA: u32 = u32::from_be_bytes(*b"SES1");
/// So many are handed over: the host takes 256 KiB.
const HANDED_OVER: usize = 20_000;
const ENTRY: usize = 12;

impl Sessions {
    /// Room for at most so many, each for `ttl` after it was used last, at least.
    pub(crate) fn new(most: u32, ttl: Nanos, seed: u64, now: Nanos) -> Self {
        let most = (most as usize).div_ceil(2);
        Self { young: Map::default(), old: Map::default(), turned: now, ttl, most, seed }
    }

    /// Where a session is.
    pub(crate) fn get(&mut self, session: u64, now: Nanos) -> Option<SubConn> {
        let session = mix(session ^ self.seed);
        if let Some(home) = self.young.get(&session) {
            return Some(*home);
        }
        let home = self.old.remove(&session)?;
        self.put(session, home, now);
        Some(home)
    }

    /// Where a session is from now on.
    pub(crate) fn set(&mut self, session: u64, home: SubConn, now: Nanos) {
        self.put(mix(session ^ self.seed), home, now);
    }

    fn put(&mut self, session: u64, home: SubConn, now: Nanos) {
        if now.saturating_sub(self.turned) >= self.ttl || self.young.len() >= self.most {
            self.old = std::mem::take(&mut self.young);
            self.turned = now;
        }
        self.young.insert(session, home);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// The latest of them.
    pub(crate) fn save(&self) -> Saved {
        let mut data = self.seed.to_le_bytes().to_vec();
        for (session, home) in self.young.iter().chain(&self.old).take(HANDED_OVER) {
            data.extend(session.to_le_bytes());
            data.extend(home.to_le_bytes());
        }
        Saved { schema: SCHEMA, data }
    }

    pub(crate) fn restore(&mut self, saved: &Saved) -> Result<(), String> {
        if saved.schema != SCHEMA {
            return Err(format!("format {} is not one of sessions", saved.schema));
        }
        let (seed, entries) = saved.data.split_first_chunk().ok_or("sessions without their seed")?;
        self.seed = u64::from_le_bytes(*seed);
        for entry in entries.chunks_exact(ENTRY).take(self.most) {
            let (session, home) = entry.split_first_chunk().ok_or("half a session")?;
            let home = home.first_chunk().ok_or("half a session")?;
            self.young.insert(u64::from_le_bytes(*session), SubConn::from_le_bytes(*home));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_used_stays_and_one_that_is_not_is_forgotten() {
        let mut sessions = Sessions::new(100, 10, 7, 0);
        sessions.set(1, 11, 0);
        sessions.set(2, 12, 0);
        for now in 1..50 {
            assert_eq!(sessions.get(1, now), Some(11));
            // Others come, one at a time.
            sessions.set(1_000 + now, 13, now);
        }
        assert_eq!(sessions.get(2, 50), None);
    }

    #[test]
    fn there_is_room_for_so_many_and_no_more() {
        let mut sessions = Sessions::new(100, 1_000, 7, 0);
        for session in 0..10_000 {
            sessions.set(session, 1, 0);
            assert!(sessions.len() <= 100);
            // The last fifty that were used are always there: here as many were asked for as were set.
            assert_eq!(sessions.get(session.saturating_sub(20), 0), Some(1));
        }
    }

    #[test]
    fn sessions_are_handed_over() {
        let mut sessions = Sessions::new(100_000, 1_000, 7, 0);
        for session in 0..30_000u32 {
            sessions.set(session.into(), session % 5, 0);
        }
        let saved = sessions.save();
        assert!(saved.data.len() <= 256 * 1024);
        let mut next = Sessions::new(100_000, 1_000, 8, 0);
        next.restore(&saved).expect("taken over");
        assert_eq!(next.len(), 20_000);
        let known =
            (0..30_000u32).filter(|session| next.get((*session).into(), 0) == Some(session % 5)).count();
        assert_eq!(known, 20_000);
        assert!(next.restore(&Saved { schema: 1, data: saved.data }).is_err());
        assert!(next.restore(&Saved { schema: SCHEMA, data: vec![1, 2] }).is_err());
    }
}
