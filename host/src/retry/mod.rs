//! Retries and hedging of RPCs (gRFC A6): which outcome of an attempt is followed by another attempt, and when.
//!
//! Everything here decides and nothing sends: the channel sends attempts, and asks after each of them.
//! [`RetryPolicy`] and hedging policies come from the service config, [`RetryOptions`] from the channel's builder.

mod codes;
mod gate;
mod hedging;
mod options;
mod policy;
mod pushback;
mod retries;

pub(crate) use self::codes::Codes;
pub(crate) use self::gate::{Gate, Throttle, Throttled, Throttling};
pub(crate) use self::hedging::{Hedging, Next, Verdict};
pub use self::options::{RetryBudget, RetryOptions};
pub(crate) use self::policy::{CallPolicy, HedgingPolicy};
pub use self::policy::{PolicyValueError, RetryPolicy};
pub(crate) use self::pushback::{PREVIOUS_ATTEMPTS, Pushback};
pub(crate) use self::retries::Retries;
/// The budget of a channel, from [`RetryBudget`].
pub(crate) use tower::retry::budget::TpsBudget as Budget;
