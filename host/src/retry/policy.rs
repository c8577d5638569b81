//! The two policies of gRFC A6.

use std::time::Duration;

use tonic::Code;

use super::Codes;

/// How an RPC is attempted more than once.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum CallPolicy {
    Retry(RetryPolicy),
    Hedging(HedgingPolicy),
}

impl CallPolicy {
    /// Returns whether a failure with this code counts for the throttle.
    pub(crate) const fn counts(&self, code: Code) -> bool {
        match self {
            Self::Retry(policy) => policy.codes.contains(code),
            Self::Hedging(policy) => policy.non_fatal.contains(code),
        }
    }
}

/// When an RPC that has failed is attempted again (gRFC A6, `retryPolicy`).
///
/// ```
/// use std::time::Duration;
/// use hotpick::retry::RetryPolicy;
/// use tonic::Code;
///
/// let policy = RetryPolicy::new(3, [Code::Unavailable, Code::ResourceExhausted])?
///     .with_backoff(Duration::from_millis(20), Duration::from_millis(200), 2.0)?;
/// # Ok::<(), hotpick::retry::PolicyValueError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Attempts of one RPC, the first one included; at least 2.
    pub(crate) max_attempts: u32,
    pub(crate) initial_backoff: Duration,
    pub(crate) max_backoff: Duration,
    pub(crate) backoff_multiplier: f64,
    pub(crate) codes: Codes,
}

/// An RPC is sent several times without waiting for failures (gRFC A6, `hedgingPolicy`).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HedgingPolicy {
    /// Attempts of one RPC, the first one included; at least 2.
    pub(crate) max_attempts: u32,
    /// Time from one attempt to the next.
    pub(crate) delay: Duration,
    /// Codes after which other attempts may still succeed. Any other failure ends the RPC.
    pub(crate) non_fatal: Codes,
}

/// A value of a retry policy is out of its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PolicyValueError(String);

impl RetryPolicy {
    /// Creates a policy: at most this many attempts, the first one included, for RPCs that fail with one of these codes.
    /// The backoff starts at 25 ms, doubles, and is at most 250 ms (gRFC A44's defaults).
    ///
    /// # Errors
    ///
    /// `max_attempts` is less than 2, or `codes` is empty.
    pub fn new(max_attempts: u32, codes: impl IntoIterator<Item = Code>) -> Result<Self, PolicyValueError> {
        let codes = codes.into_iter().fold(Codes::default(), Codes::with);
        let (initial, max) = (Duration::from_millis(25), Duration::from_millis(250));
        Self { max_attempts, codes, ..Self::unavailable() }.checked()?.with_backoff(initial, max, 2.0)
    }

    /// Three attempts, for RPCs that fail with UNAVAILABLE.
    pub(crate) const fn unavailable() -> Self {
        Self {
            max_attempts: 3,
            initial_backoff: Duration::from_millis(25),
            max_backoff: Duration::from_millis(250),
            backoff_multiplier: 2.0,
            codes: Codes::none().with(Code::Unavailable),
        }
    }

    /// Sets the backoff: the wait before the n-th retry is `initial * multiplier^(n-1)`, at most `max`, varied by 20 % in
    /// either direction at random.
    ///
    /// # Errors
    ///
    /// A value is not greater than zero, or `multiplier` is not finite.
    pub fn with_backoff(
        mut self,
        initial: Duration,
        max: Duration,
        multiplier: f64,
    ) -> Result<Self, PolicyValueError> {
        (self.initial_backoff, self.max_backoff, self.backoff_multiplier) = (initial, max, multiplier);
        self.checked()
    }

    /// Returns the policy if its values are in their ranges (gRFC A6, "Validation of retryPolicy").
    pub(crate) fn checked(self) -> Result<Self, PolicyValueError> {
        at_least_two(self.max_attempts)?;
        for (name, value) in [("initialBackoff", self.initial_backoff), ("maxBackoff", self.max_backoff)] {
            if value.is_zero() {
                return Err(PolicyValueError(format!("{name} is 0: expected more")));
            }
        }
        if !(self.backoff_multiplier > 0.0 && self.backoff_multiplier.is_finite()) {
            return Err(PolicyValueError(format!(
                "backoffMultiplier is {}: expected a number greater than 0",
                self.backoff_multiplier
            )));
        }
        if self.codes.is_empty() {
            return Err(PolicyValueError(
                "retryableStatusCodes is empty: expected at least one code".to_owned(),
            ));
        }
        Ok(self)
    }
}

impl HedgingPolicy {
    /// Returns the policy if its values are in their ranges (gRFC A6, "Validation of hedgingPolicy").
    pub(crate) fn checked(self) -> Result<Self, PolicyValueError> {
        at_least_two(self.max_attempts)?;
        Ok(self)
    }
}

fn at_least_two(max_attempts: u32) -> Result<(), PolicyValueError> {
    if max_attempts < 2 {
        return Err(PolicyValueError(format!("maxAttempts is {max_attempts}: expected at least 2")));
    }
    Ok(())
}
