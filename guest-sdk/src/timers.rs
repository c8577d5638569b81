//! One-shot timers, delivered to [`Alarms::fired`](crate::Alarms::fired).

use crate::Nanos;
#[cfg(target_arch = "wasm32")]
use crate::bindings::hotpick::policy::timers as host;
#[cfg(not(target_arch = "wasm32"))]
use crate::fake as host;

/// Has [`fired`](crate::Alarms::fired) called with this number after `delay`, of which the host takes at
/// least some 10 ms. A timer of the same number is set anew.
///
/// # Errors
///
/// There are too many timers.
pub fn schedule(id: u32, delay: Nanos) -> Result<(), String> {
    host::schedule(id, delay)
}

/// Takes a timer back, if it has not been delivered.
pub fn cancel(id: u32) {
    host::cancel(id);
}
