//! The interface `timers`: one-shot timers, delivered to `alarms.fired`.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::State;
use crate::policy::bindings::hotpick::policy::timers;

/// The timers of an instance that are under way, by the policy's own numbers.
#[derive(Debug, Default)]
pub(in crate::policy) struct Timers(BTreeMap<u32, Instant>);

impl Timers {
    /// When the next one is due.
    pub(in crate::policy) fn next(&self) -> Option<Instant> {
        self.0.values().min().copied()
    }

    /// Takes those that are due now, the earliest first.
    pub(in crate::policy) fn take_due(&mut self) -> Vec<u32> {
        let now = Instant::now();
        let mut due: Vec<_> =
            self.0.iter().filter(|(_, at)| **at <= now).map(|(id, at)| (*at, *id)).collect();
        due.sort_unstable();
        self.0.retain(|_, at| *at > now);
        due.into_iter().map(|(_, id)| id).collect()
    }
}

impl timers::Host for State {
    fn schedule(&mut self, id: u32, delay: u64) -> Result<(), String> {
        let timers = &mut self.timers.0;
        if !timers.contains_key(&id) && timers.len() >= self.limits.timers {
            return Err(format!("at most {} timers", self.limits.timers));
        }
        let delay = Duration::from_nanos(delay).max(self.limits.timer);
        let at = Instant::now().checked_add(delay).ok_or("a delay that never ends")?;
        timers.insert(id, at);
        Ok(())
    }

    fn cancel(&mut self, id: u32) {
        self.timers.0.remove(&id);
    }
}
