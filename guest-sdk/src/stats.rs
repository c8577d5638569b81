//! What the host knows of each subconn, over all instances and versions of the channel's policies: it
//! survives a swap.

use crate::SubConn;
#[cfg(target_arch = "wasm32")]
use crate::bindings::hotpick::policy::stats as host;
#[cfg(not(target_arch = "wasm32"))]
use crate::fake as host;

pub use crate::bindings::hotpick::policy::stats::{Measure, ResponseCounts, Summary};

/// RPCs under way; 0 for an unknown subconn.
#[must_use]
pub fn in_flight(id: SubConn) -> u32 {
    host::in_flight(id)
}

/// The one of these with the least of something; the earlier one if they are equal.
#[must_use]
pub fn least(among: &[SubConn], by: Measure) -> Option<SubConn> {
    host::least(among, by)
}

/// All that there is of a subconn.
#[must_use]
pub fn read(id: SubConn) -> Option<Summary> {
    host::read(id)
}

/// How a subconn has answered, counted since it is there: the change between two readings says how it does now.
/// [`Answers`](crate::answers::Answers) makes averages of it.
#[must_use]
pub fn responses(id: SubConn) -> Option<ResponseCounts> {
    host::responses(id)
}
