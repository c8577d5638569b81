//! The interface `timers`: one-shot timers, delivered to `alarms.fired`.

use std::time::Duration;

use tokio::time::Instant;

use super::state::HostState;
use super::tape::Question;
use crate::policy::instance::bindings::hotpick::policy::timers;

impl timers::Host for HostState {
    fn schedule(&mut self, id: u32, delay: u64) -> Result<(), String> {
        self.answered(Question::schedule(delay ^ u64::from(id)), |state| state.set_timer(id, delay))
    }

    fn cancel(&mut self, id: u32) {
        self.timers.due.remove(&id);
    }
}

impl HostState {
    fn set_timer(&mut self, id: u32, delay: u64) -> Result<(), String> {
        let timers = &mut self.timers.due;
        if !timers.contains_key(&id) && timers.len() >= self.limits.timers {
            return Err(format!("at most {} timers can be pending", self.limits.timers));
        }
        let delay = Duration::from_nanos(delay).max(self.limits.timer);
        let at = Instant::now().checked_add(delay).ok_or("the delay is too long")?;
        timers.insert(id, at);
        self.timers.new = true;
        Ok(())
    }
}
