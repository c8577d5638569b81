//! Subconns as pickers and policies see them: a number, an endpoint, a state, statistics, and requests to
//! connect or disconnect.
//!
//! A [`SubConn`] is a cheap handle to one endpoint of a channel, and a [`ReadySet`] is a snapshot of all of
//! them. Neither contains a connection. What connects is a `Driver`: [`transport`](crate::transport) in a
//! channel, nothing in [`FakeSubConns`]. Everything that picks (policies, their host, native pickers)
//! depends on this module alone, and so runs without connections as well.

mod done;
#[cfg(any(test, feature = "testing"))]
#[cfg_attr(not(feature = "testing"), allow(unreachable_pub, dead_code, reason = "public with `testing`"))]
mod fake;
mod handle;
mod ready_set;
mod snapshots;
mod sparse;
mod stats;

pub use self::done::{Done, DoneInfo};
pub(crate) use self::done::{OutcomeSink, PickId};
#[cfg(all(test, not(feature = "testing")))]
pub(crate) use self::fake::FakeSubConns;
#[cfg(feature = "testing")]
pub use self::fake::{ConnectRequest, FakeSubConns};
pub use self::handle::SubConn;
pub(crate) use self::handle::{Capacity, Driver};
pub(crate) use self::ready_set::{Changes, Entry};
pub use self::ready_set::{ReadySet, SubConns};
pub(crate) use self::snapshots::Snapshots;
pub use self::stats::SubConnStats;
