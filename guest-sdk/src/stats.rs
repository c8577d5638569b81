//! The host's statistics of each subconn, over all instances and versions of the channel's policies. They survive a
//! swap.

use crate::SubConn;
#[cfg(target_arch = "wasm32")]
use crate::bindings::hotpick::policy::stats as host;
#[cfg(not(target_arch = "wasm32"))]
use crate::fake as host;

pub use crate::bindings::hotpick::policy::stats::{Measure, ResponseCounts, Summary};

/// Returns the number of RPCs in flight; 0 for an unknown subconn.
#[must_use]
pub fn in_flight(id: SubConn) -> u32 {
    host::in_flight(id)
}

/// Returns the subconn with the lowest value of a statistic, the earlier one if equal. `None` if no subconn is known.
#[must_use]
pub fn least(among: &[SubConn], by: Measure) -> Option<SubConn> {
    host::least(among, by)
}

/// Returns the statistics of a subconn. `None` if it is unknown.
#[must_use]
pub fn read(id: SubConn) -> Option<Summary> {
    host::read(id)
}

/// Returns counters of a subconn's responses since the subconn was created. The difference between two readings covers
/// the time between them. [`Answers`](crate::answers::Answers) makes averages of them. `None` if the subconn is
/// unknown.
#[must_use]
pub fn responses(id: SubConn) -> Option<ResponseCounts> {
    host::responses(id)
}
