//! The timers of an instance.

use std::collections::BTreeMap;

use tokio::time::Instant;

/// The pending timers of an instance, by the policy's own numbers.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    pub(super) due: BTreeMap<u32, Instant>,
    /// Whether a timer was set since the last call of [`Self::take_new`].
    pub(super) new: bool,
}

impl Timers {
    /// Returns when the next timer is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }

    /// Returns whether a timer was set since the last call.
    pub(crate) fn take_new(&mut self) -> bool {
        std::mem::take(&mut self.new)
    }

    /// Removes the timers that are due, and returns them, the earliest first.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<u32> {
        let mut due: Vec<_> =
            self.due.iter().filter(|(_, at)| **at <= now).map(|(id, at)| (*at, *id)).collect();
        due.sort_unstable();
        self.due.retain(|_, at| *at > now);
        due.into_iter().map(|(_, id)| id).collect()
    }
}
