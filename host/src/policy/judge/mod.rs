//! Observations of a policy over all channels: its metrics, its own instruments, and whether its active version is good
//! enough.
//!
//! Channels report to one [`PolicyMetrics`] per policy. Its [probation] judges the active version; whoever owns
//! the policy's history of versions (a directory) asks for the verdict.

mod fault_kind;
mod instruments;
mod metrics;
mod probation;
mod usage;

pub use self::fault_kind::FaultKind;
pub(crate) use self::instruments::{Instrument, Instruments, Kind};
pub use self::instruments::{Metric, MetricValue};
pub use self::metrics::Refusal;
pub(crate) use self::metrics::{MetricsSnapshot, PolicyMetrics};
pub use self::usage::{ChannelUsage, PolicyTotals};
pub(crate) use self::usage::{SlotCounters, Tickets};
