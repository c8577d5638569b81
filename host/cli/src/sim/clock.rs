//! The paused clock of a simulation.

use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::Instant;

use super::servers::Nanos;

/// Longest step of the clock: timers of the host are due within it.
const STEP: Nanos = 1_000_000;

/// Advances the clock to a moment that no earlier simulation has reached, and that does not depend on how long it took.
pub(super) async fn align() {
    const DISTANCE: u64 = 1_000_000;
    static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
    let passed = Instant::now().saturating_duration_since(*FIRST);
    let next = Duration::from_secs((passed.as_secs() / DISTANCE + 1) * DISTANCE);
    tokio::time::advance(next - passed).await;
}

/// Advances the clock. What the host does meanwhile (timers, outcomes) happens at its time, to a millisecond.
pub(super) async fn advance(now: &mut Nanos, to: Nanos) {
    while *now < to {
        let step = (to - *now).min(STEP);
        tokio::time::advance(Duration::from_nanos(step)).await;
        *now += step;
    }
}
