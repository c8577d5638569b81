//! The interface `timers`: one-shot timers, delivered to `alarms.fired`.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::State;
use crate::policy::bindings::hotpick::policy::timers;

/// The timers of an instance that are under way, by the policy's own numbers.
#[derive(Debug, Default)]
pub(in crate::policy) struct Timers {
    due: BTreeMap<u32, Instant>,
    /// One has been set.
    new: bool,
}

impl Timers {
    /// When the next one is due.
    pub(in crate::policy) fn next(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }

    /// Whether one has been set since this was last asked.
    pub(in crate::policy) fn take_new(&mut self) -> bool {
        std::mem::take(&mut self.new)
    }

    /// Takes those that are due now, the earliest first.
    pub(in crate::policy) fn take_due(&mut self, now: Instant) -> Vec<u32> {
        let mut due: Vec<_> =
            self.due.iter().filter(|(_, at)| **at <= now).map(|(id, at)| (*at, *id)).collect();
        due.sort_unstable();
        self.due.retain(|_, at| *at > now);
        due.into_iter().map(|(_, id)| id).collect()
    }
}

impl timers::Host for State {
    fn schedule(&mut self, id: u32, delay: u64) -> Result<(), String> {
        let timers = &mut self.timers.due;
        if !timers.contains_key(&id) && timers.len() >= self.limits.timers {
            return Err(format!("at most {} timers", self.limits.timers));
        }
        let delay = Duration::from_nanos(delay).max(self.limits.timer);
        let at = Instant::now().checked_add(delay).ok_or("a delay that never ends")?;
        timers.insert(id, at);
        self.timers.new = true;
        Ok(())
    }

    fn cancel(&mut self, id: u32) {
        self.timers.due.remove(&id);
    }
}
