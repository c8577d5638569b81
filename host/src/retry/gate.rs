//! What holds retries back for a whole channel: the throttle of the service config, and the budget of the options.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tonic::Code;
use tower::retry::budget::{Budget as _, TpsBudget};

use super::{CallPolicy, Pushback};

/// Parameters of a throttle (gRFC A6, `retryThrottling`), in thousandths of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Throttling {
    /// 1,000 to 1,000,000.
    pub(crate) max: u32,
    /// At least 1.
    pub(crate) ratio: u32,
}

/// Stops retries while too many RPCs of a channel fail (gRFC A6, "Throttling Retry Attempts and Hedged RPCs").
#[derive(Debug)]
pub(crate) struct Throttle {
    throttling: Throttling,
    tokens: AtomicU32,
}

/// A token, in thousandths.
const TOKEN: u32 = 1000;

impl Throttle {
    pub(crate) const fn new(throttling: Throttling) -> Self {
        Self { throttling, tokens: AtomicU32::new(throttling.max) }
    }

    /// Returns the throttle for these parameters: `before` if it has the same, because a new config that says the same
    /// must not forget the failures.
    pub(crate) fn follow(before: Option<&Arc<Self>>, throttling: Option<Throttling>) -> Option<Arc<Self>> {
        let throttling = throttling?;
        let same = before.filter(|before| before.throttling == throttling);
        Some(same.map_or_else(|| Arc::new(Self::new(throttling)), Arc::clone))
    }

    /// Records a failure.
    fn failed(&self) {
        self.update(|tokens| tokens.saturating_sub(TOKEN));
    }

    /// Records that an RPC ended with OK.
    pub(crate) fn succeeded(&self) {
        // Usually the bucket is full: the load avoids a write to a shared cache line.
        if self.tokens.load(Ordering::Relaxed) < self.throttling.max {
            self.update(|tokens| tokens.saturating_add(self.throttling.ratio).min(self.throttling.max));
        }
    }

    /// Returns whether retries are allowed.
    fn is_open(&self) -> bool {
        self.tokens.load(Ordering::Relaxed) > self.throttling.max / 2
    }

    fn update(&self, change: impl Fn(u32) -> u32) {
        let _ = self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tokens| Some(change(tokens)));
    }
}

/// Tells the throttle how an RPC ended after its response had begun: what ended before is told by the attempts.
#[derive(Debug)]
pub(crate) struct Throttled {
    throttle: Arc<Throttle>,
    policy: Option<Arc<CallPolicy>>,
}

impl Throttled {
    /// The RPC has ended with this code.
    pub(crate) fn ended(&self, code: Code, pushback: Pushback) {
        if code == Code::Ok {
            self.throttle.succeeded();
        } else if let Some(policy) = &self.policy
            && (policy.counts(code) || pushback == Pushback::Stop)
        {
            self.throttle.failed();
        }
    }
}

/// Decides for one RPC whether the channel allows another attempt.
#[derive(Clone, Default)]
pub(crate) struct Gate {
    pub(crate) throttle: Option<Arc<Throttle>>,
    pub(crate) budget: Option<Arc<TpsBudget>>,
}

impl Gate {
    /// Returns who is told how the response of an RPC with this policy ends.
    pub(crate) fn throttled(&self, policy: Option<&Arc<CallPolicy>>) -> Option<Throttled> {
        let throttle = Arc::clone(self.throttle.as_ref()?);
        Some(Throttled { throttle, policy: policy.cloned() })
    }

    /// Records that an RPC has begun.
    pub(crate) fn begun(&self) {
        if let Some(budget) = &self.budget {
            budget.deposit();
        }
    }

    /// Records that an attempt failed with a code that counts, or with pushback that forbids retries.
    pub(crate) fn failed(&self) {
        if let Some(throttle) = &self.throttle {
            throttle.failed();
        }
    }

    /// Returns whether the throttle allows another attempt.
    pub(crate) fn is_open(&self) -> bool {
        self.throttle.as_ref().is_none_or(|throttle| throttle.is_open())
    }

    /// Takes the permission for one more attempt. Call it last: a permission that is not used is lost.
    pub(crate) fn take(&self) -> bool {
        self.is_open() && self.budget.as_ref().is_none_or(|budget| budget.withdraw())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_throttle_closes_at_half_and_opens_above() {
        let throttle = Arc::new(Throttle::new(Throttling { max: 4000, ratio: 500 }));
        let gate = Gate { throttle: Some(Arc::clone(&throttle)), budget: None };
        gate.failed();
        assert!(gate.take());
        gate.failed();
        assert!(!gate.take(), "2 of 4 tokens are not more than half");
        throttle.succeeded();
        assert!(gate.take());
        (0..100).for_each(|_| gate.failed());
        (0..4).for_each(|_| throttle.succeeded());
        assert!(!gate.is_open(), "never below zero: four successes make two tokens");
        throttle.succeeded();
        assert!(gate.is_open());
        (0..100).for_each(|_| throttle.succeeded());
        assert_eq!(throttle.tokens.load(Ordering::Relaxed), 4000, "never above the maximum");
    }

    #[test]
    fn a_config_that_says_the_same_keeps_the_tokens() {
        let (same, other) = (Throttling { max: 4000, ratio: 500 }, Throttling { max: 4000, ratio: 501 });
        let first = Throttle::follow(None, Some(same)).expect("a throttle");
        first.failed();
        let second = Throttle::follow(Some(&first), Some(same)).expect("a throttle");
        assert!(Arc::ptr_eq(&first, &second));
        let third = Throttle::follow(Some(&first), Some(other)).expect("a throttle");
        assert_eq!(third.tokens.load(Ordering::Relaxed), 4000);
        assert!(Throttle::follow(Some(&first), None).is_none());
    }
}
