//! What the host tells of the world.

use crate::Nanos;
#[cfg(target_arch = "wasm32")]
use crate::bindings::hotpick::policy::env as host;
#[cfg(not(target_arch = "wasm32"))]
use crate::fake as host;

pub use crate::bindings::hotpick::policy::env::Level;

/// The name of a method, `/package.Service/Method`, from [`PickInfo::method`](crate::PickInfo::method).
#[must_use]
pub fn method_name(id: u32) -> String {
    host::method_name(id)
}

/// The host's monotonic clock. A pick has it in [`PickInfo::now`](crate::PickInfo::now), at no cost.
#[must_use]
pub fn now() -> Nanos {
    host::now()
}

/// A uniform random number. A pick has one in [`PickInfo::random`](crate::PickInfo::random), at no cost.
#[must_use]
pub fn random() -> u64 {
    host::random()
}

/// Writes to the host's log, which takes some 50 lines a second, of 1 KiB.
pub fn log(level: Level, message: &str) {
    host::log(level, message);
}

/// Whether a line of this level would be written: ask before making a long one.
#[must_use]
pub fn level_enabled(level: Level) -> bool {
    host::level_enabled(level)
}
