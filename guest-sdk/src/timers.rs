//! One-shot timers, delivered to [`Alarms::fired`](crate::Alarms::fired).

use crate::Nanos;
#[cfg(target_arch = "wasm32")]
use crate::bindings::hotpick::policy::timers as host;
#[cfg(not(target_arch = "wasm32"))]
use crate::fake as host;

/// Sets a timer: [`fired`](crate::Alarms::fired) is called with this number after `delay`. A delay below the host's
/// minimum (about 10 ms) is raised to it. Replaces a timer with the same number.
///
/// # Errors
///
/// Too many timers are set.
pub fn schedule(id: u32, delay: Nanos) -> Result<(), String> {
    host::schedule(id, delay)
}

/// Cancels a timer. Has no effect if it is not set.
pub fn cancel(id: u32) {
    host::cancel(id);
}
