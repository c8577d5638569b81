//! What is counted of a channel's RPCs: gRPC's metrics of gRFCs A66, A96 and A121.

mod histogram;
mod method;
mod observer;
mod slots;

pub(crate) use self::histogram::{HistogramReading, quantile};
pub(crate) use self::method::{AttemptReading, MethodReading};
pub use self::observer::Calls;
pub(crate) use self::observer::Totals;
pub use hotpick::call::MethodNames;
