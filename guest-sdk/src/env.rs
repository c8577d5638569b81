//! Clock, random numbers, log, and names of methods.

use crate::Nanos;
#[cfg(target_arch = "wasm32")]
use crate::bindings::hotpick::policy::env as host;
#[cfg(not(target_arch = "wasm32"))]
use crate::fake as host;

pub use crate::bindings::hotpick::policy::env::Level;

/// Returns the name of a method, `/package.Service/Method`, from [`PickInfo::method`](crate::PickInfo::method). Empty
/// for [`OTHER_METHOD`](crate::OTHER_METHOD) and for unknown numbers.
#[must_use]
pub fn method_name(id: u32) -> String {
    host::method_name(id)
}

/// Returns the time of the host's monotonic clock. In a pick, [`PickInfo::now`](crate::PickInfo::now) is cheaper.
#[must_use]
pub fn now() -> Nanos {
    host::now()
}

/// Returns a uniformly distributed random number. In a pick, [`PickInfo::random`](crate::PickInfo::random) is cheaper.
#[must_use]
pub fn random() -> u64 {
    host::random()
}

/// Writes a message to the host's log, which accepts about 50 messages per second, of up to 1 KiB each.
pub fn log(level: Level, message: &str) {
    host::log(level, message);
}

/// Returns whether messages of this level are written. Useful before an expensive message is made.
#[must_use]
pub fn level_enabled(level: Level) -> bool {
    host::level_enabled(level)
}
