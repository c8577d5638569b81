//! From an endpoint to READY connections, and from a request to a response on one of them.
//!
//! `spawn` creates a [`SubConn`](crate::subconn::SubConn) with one `task`, which alone drives its `state machine` and
//! `dials`. RPCs take a stream from the `pool` of its connections, or wait for one in the
//! `queue`, and `send` on an HTTP/2 `connection`.

mod attempt;
mod connect;
mod connection;
mod counters;
mod dial;
mod health;
mod machine;
mod options;
mod pool;
mod replay;
mod sendings;
mod stream_queue;
mod task;

pub(crate) use self::attempt::{Attempt, AttemptOptions, send};
pub use self::connect::{Connect, Connecting};
pub(crate) use self::connection::SendError;
pub(crate) use self::counters::ConnectionCounters;
pub use self::counters::ConnectionStats;
pub(crate) use self::dial::Dialer;
pub use self::options::SubConnOptions;
pub(crate) use self::replay::Replay;
pub(crate) use self::sendings::SendingId;
pub(crate) use self::task::spawn;
pub use crate::backoff::Backoff;
