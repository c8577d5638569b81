//! Exponential backoff with jitter (gRPC's `doc/connection-backoff.md`).

use std::time::Duration;

use crate::setters::setters;

/// Exponentially growing waits between connection attempts.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Backoff {
    /// The wait after the first failure.
    pub base: Duration,
    /// Factor by which each further failure multiplies the wait.
    pub multiplier: f64,
    /// Fraction by which a wait varies at random, up or down (0 to 1).
    pub jitter: f64,
    /// Maximum wait, before jitter.
    pub max: Duration,
    /// Lifetime after which the loss of a connection resets the backoff. The loss of a connection that has answered an
    /// RPC resets it at any time. If every loss did, a peer that closes connections at once would be dialled in a loop.
    pub proven_after: Duration,
}

setters!(Backoff {
    with_base: base: Duration,
    with_multiplier: multiplier: f64,
    with_jitter: jitter: f64,
    with_max: max: Duration,
    with_proven_after: proven_after: Duration,
});

impl Default for Backoff {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(1),
            multiplier: 1.6,
            jitter: 0.2,
            max: Duration::from_secs(120),
            proven_after: Duration::from_secs(5),
        }
    }
}

/// Maximum wait, regardless of the options: Tokio's clock cannot represent all durations.
const A_YEAR: Duration = Duration::from_secs(86_400 * 365);

impl Backoff {
    /// Returns the wait after `failures` consecutive failures (at least 1). `random` is uniform in 0..1.
    pub(crate) fn delay(&self, failures: u32, random: f64) -> Duration {
        let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.base.as_secs_f64() * self.multiplier.max(1.0).powi(exponent);
        let seconds = seconds.min(self.max.as_secs_f64());
        let jitter = 1.0 + self.jitter.clamp(0.0, 1.0) * (2.0 * random - 1.0);
        Duration::try_from_secs_f64(seconds * jitter).unwrap_or(A_YEAR).min(A_YEAR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_as_grpc_specifies() {
        let backoff = Backoff::default();
        let waits: Vec<_> = (1..=4).map(|failures| backoff.delay(failures, 0.5).as_millis()).collect();
        assert_eq!(waits, [1000, 1600, 2560, 4096]);
        assert_eq!(backoff.delay(50, 0.5), Duration::from_secs(120));
    }
}
