//! The timers of an instance.

use std::collections::BTreeMap;

use tokio::time::Instant;

/// The timers of an instance that are under way, by the policy's own numbers.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    pub(super) due: BTreeMap<u32, Instant>,
    /// One has been set.
    pub(super) new: bool,
}

impl Timers {
    /// When the next one is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }

    /// Whether one has been set since this was last asked.
    pub(crate) fn take_new(&mut self) -> bool {
        std::mem::take(&mut self.new)
    }

    /// Takes those that are due now, the earliest first.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<u32> {
        let mut due: Vec<_> =
            self.due.iter().filter(|(_, at)| **at <= now).map(|(id, at)| (*at, *id)).collect();
        due.sort_unstable();
        self.due.retain(|_, at| *at > now);
        due.into_iter().map(|(_, id)| id).collect()
    }
}
