//! The options of a channel's retries.

use std::sync::Arc;
use std::time::Duration;

use tower::retry::budget::TpsBudget;

use super::{CallPolicy, RetryPolicy};
use crate::setters::setters;

/// How a channel retries and hedges, beside what the service config says of each method.
///
/// ```no_run
/// use hotpick::Channel;
/// use hotpick::retry::{RetryBudget, RetryOptions};
///
/// # fn example() -> Result<(), hotpick::channel::ConnectError> {
/// // No service config: RPCs that fail with UNAVAILABLE are retried, up to a fifth of all RPCs.
/// let channel = Channel::builder("dns:///shop.example:443")
///     .retries(RetryOptions::within(RetryBudget::default()))
///     .connect_lazy()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RetryOptions {
    /// Whether retry and hedging policies are obeyed. Transparent retries, of RPCs that no server has processed, take place
    /// even if they are not. Default: true.
    pub enabled: bool,
    /// The policy of RPCs whose method has neither a retry policy nor a hedging policy in the service config. Default: none.
    pub policy: Option<RetryPolicy>,
    /// Limit of all retries and hedges of the channel together. Default: none.
    pub budget: Option<RetryBudget>,
    /// Largest number of attempts of one RPC, the first one included; a policy with more is treated as one with this many.
    /// Default: 5, as in gRFC A6. At least 1.
    pub max_attempts: u32,
    /// Bytes of a request that are kept to be sent again, for an RPC with a policy. An RPC that sends more is not attempted
    /// again. Default: 256 KiB for each RPC.
    pub buffer: usize,
}

setters!(RetryOptions {
    with_enabled: enabled: bool,
    with_policy: policy: Option<RetryPolicy>,
    with_budget: budget: Option<RetryBudget>,
    with_max_attempts: max_attempts: u32,
    with_buffer: buffer: usize,
});

/// Limits retries to a part of all RPCs, so that retries cannot multiply the load on servers that fail: one token for
/// each RPC buys `ratio` retries while it is not older than `window`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct RetryBudget {
    /// Retries for each RPC. Default: 0.2. From 0 to 1,000.
    pub ratio: f32,
    /// Retries per second that are allowed in any case, for channels with few RPCs. Default: 10.
    pub min_per_second: u32,
    /// How long an RPC counts. Default: 10 s. From 1 s to 60 s.
    pub window: Duration,
}

setters!(RetryBudget {
    with_ratio: ratio: f32,
    with_min_per_second: min_per_second: u32,
    with_window: window: Duration,
});

impl Default for RetryOptions {
    fn default() -> Self {
        Self { enabled: true, policy: None, budget: None, max_attempts: 5, buffer: 256 << 10 }
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { ratio: 0.2, min_per_second: 10, window: Duration::from_secs(10) }
    }
}

impl RetryOptions {
    /// Retries every RPC that fails with UNAVAILABLE, three attempts at most, within this budget: for channels without a
    /// service config. The RPCs of all methods must be safe to be processed twice, because a server may have processed an RPC
    /// that failed.
    #[must_use]
    pub fn within(budget: RetryBudget) -> Self {
        Self { policy: Some(RetryPolicy::unavailable()), budget: Some(budget), ..Self::default() }
    }

    /// Returns the name, the value and the range of an option that is out of its range.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String, &'static str)> {
        if self.max_attempts == 0 {
            return Err(("max_attempts", "0".to_owned(), "at least 1"));
        }
        let Some(budget) = &self.budget else { return Ok(()) };
        if !(0.0..=1000.0).contains(&budget.ratio) {
            return Err(("ratio", budget.ratio.to_string(), "0 to 1000"));
        }
        if budget.min_per_second > 1_000_000 {
            return Err(("min_per_second", budget.min_per_second.to_string(), "0 to 1000000"));
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(60)).contains(&budget.window) {
            return Err(("window", format!("{:?}", budget.window), "1 s to 60 s"));
        }
        Ok(())
    }

    /// Returns the policy of RPCs whose method has none.
    pub(crate) fn default_policy(&self) -> Option<Arc<CallPolicy>> {
        self.policy.clone().map(|policy| Arc::new(CallPolicy::Retry(policy)))
    }

    pub(crate) fn new_budget(&self) -> Option<Arc<TpsBudget>> {
        self.budget.map(|budget| Arc::new(TpsBudget::new(budget.window, budget.min_per_second, budget.ratio)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_range_are_found() {
        let within = |budget| RetryOptions::within(budget).check();
        let budget = RetryBudget::default();
        assert_eq!(within(budget), Ok(()));
        assert_eq!(within(budget.with_ratio(f32::NAN)).map_err(|error| error.0), Err("ratio"));
        assert_eq!(within(budget.with_ratio(-1.0)).map_err(|error| error.0), Err("ratio"));
        let window = Duration::from_millis(999);
        assert_eq!(within(budget.with_window(window)), Err(("window", "999ms".to_owned(), "1 s to 60 s")));
        let attempts = RetryOptions::default().with_max_attempts(0).check();
        assert_eq!(attempts.map_err(|error| error.0), Err("max_attempts"));
        for ratio in [0.0, 0.2, 1000.0] {
            let options = RetryOptions::within(budget.with_ratio(ratio).with_min_per_second(1_000_000));
            assert!(options.check().is_ok() && options.new_budget().is_some());
        }
    }
}
