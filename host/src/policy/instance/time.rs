//! Time as policies see it: nanoseconds since an arbitrary moment.

use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::Instant;

/// Returns the current time.
pub(crate) fn now() -> u64 {
    time(Instant::now())
}

/// Converts a moment.
pub(crate) fn time(moment: Instant) -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    // Does not start at zero, so that a policy can subtract some time without an underflow.
    const HEAD_START: u64 = 3_600_000_000_000;
    HEAD_START + nanos(moment.saturating_duration_since(*START))
}

/// Converts a duration to nanoseconds, at most `u64::MAX`.
pub(crate) fn nanos(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(duration.subsec_nanos()))
}
