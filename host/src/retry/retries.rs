//! Decides about retries of one RPC.

use std::time::Duration;

use tonic::Code;

use super::{Gate, Pushback, RetryPolicy};

/// The retries of one RPC.
#[derive(Debug)]
pub(crate) struct Retries<'a> {
    policy: &'a RetryPolicy,
    max_attempts: u32,
    /// Attempts so far.
    attempts: u32,
    /// Retries since the last pushback: the exponent of the backoff.
    backoffs: i32,
}

impl<'a> Retries<'a> {
    /// `max_attempts` is the channel's limit.
    pub(crate) fn new(policy: &'a RetryPolicy, max_attempts: u32) -> Self {
        Self { policy, max_attempts: policy.max_attempts.min(max_attempts), attempts: 1, backoffs: 0 }
    }

    /// Decides after an attempt that failed with `code`. Returns the time to wait before the next attempt; `None`: the RPC
    /// ends with this failure. `can_replay`: the request can be sent again. `jitter` is from 0 to 1.
    pub(crate) fn after(
        &mut self,
        code: Code,
        pushback: Pushback,
        can_replay: bool,
        gate: &Gate,
        jitter: f64,
    ) -> Option<Duration> {
        let is_retryable = self.policy.codes.contains(code);
        // Before all other conditions: a failure counts for the throttle even if it is not retried.
        if is_retryable || pushback == Pushback::Stop {
            gate.failed();
        }
        if !is_retryable
            || pushback == Pushback::Stop
            || !can_replay
            || self.attempts >= self.max_attempts
            || !gate.take()
        {
            return None;
        }
        self.attempts += 1;
        Some(match pushback {
            Pushback::After(wait) => {
                self.backoffs = 0;
                wait
            }
            Pushback::None | Pushback::Stop => {
                let backoff = self.backoff(jitter);
                self.backoffs = self.backoffs.saturating_add(1);
                backoff
            }
        })
    }

    fn backoff(&self, jitter: f64) -> Duration {
        let RetryPolicy { initial_backoff, max_backoff, backoff_multiplier, .. } = self.policy;
        let grown = initial_backoff.as_secs_f64() * backoff_multiplier.powi(self.backoffs);
        let limited = grown.min(max_backoff.as_secs_f64());
        Duration::try_from_secs_f64(limited * (0.8 + 0.4 * jitter)).unwrap_or(*max_backoff)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::{Throttle, Throttling};
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn policy(max_attempts: u32) -> RetryPolicy {
        let policy = RetryPolicy::new(max_attempts, [Code::Unavailable]).expect("a policy");
        policy.with_backoff(100 * MS, 300 * MS, 2.0).expect("a policy")
    }

    #[test]
    fn waits_grow_and_start_again_after_pushback() {
        let policy = policy(9);
        let mut retries = Retries::new(&policy, 9);
        let gate = Gate::default();
        let mut fails = |pushback| retries.after(Code::Unavailable, pushback, true, &gate, 0.5);
        assert_eq!(fails(Pushback::None), Some(100 * MS));
        assert_eq!(fails(Pushback::None), Some(200 * MS));
        assert_eq!(fails(Pushback::None), Some(300 * MS));
        assert_eq!(fails(Pushback::After(7 * MS)), Some(7 * MS));
        assert_eq!(fails(Pushback::None), Some(100 * MS));
        assert_eq!(fails(Pushback::Stop), None);
    }

    #[test]
    fn other_codes_and_requests_that_are_gone_are_not_retried() {
        let policy = policy(5);
        let gate = Gate::default();
        let first =
            |code, can_replay| Retries::new(&policy, 5).after(code, Pushback::None, can_replay, &gate, 0.0);
        assert_eq!(first(Code::Unavailable, true), Some(80 * MS));
        assert_eq!(first(Code::Internal, true), None);
        assert_eq!(first(Code::Unavailable, false), None);
    }

    #[test]
    fn failures_count_for_the_throttle_even_if_they_are_not_retried() {
        let throttle = Arc::new(Throttle::new(Throttling { max: 4000, ratio: 100 }));
        let gate = Gate { throttle: Some(throttle), budget: None };
        let policy = policy(2);
        let mut retries = Retries::new(&policy, 5);
        let mut fails = |code, pushback| retries.after(code, pushback, true, &gate, 0.0).is_some();
        assert!(fails(Code::Unavailable, Pushback::None));
        assert!(!fails(Code::Internal, Pushback::Stop), "a stop counts, whatever the code");
        assert!(!gate.is_open());
    }

    proptest! {
        #[test]
        fn attempts_and_waits_are_bounded(
            max in 2u32..20, limit in 1u32..20, jitter in 0.0f64..=1.0, multiplier in 0.01f64..1e9,
        ) {
            let policy = policy(max).with_backoff(MS, 50 * MS, multiplier).expect("a policy");
            let mut retries = Retries::new(&policy, limit);
            let mut attempts = 1;
            while let Some(wait) = retries.after(Code::Unavailable, Pushback::None, true, &Gate::default(), jitter) {
                prop_assert!(wait <= 60 * MS);
                attempts += 1;
            }
            prop_assert_eq!(attempts, max.min(limit).max(1));
        }
    }
}
