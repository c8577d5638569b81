//! The narrow waist: how an RPC gets its subconn.
//!
//! A [`Policy`] makes one [`PickerBuilder`] for each channel; the balancer gives the builder each new
//! [`ReadySet`] and publishes the [`Picker`] that comes back in the channel's cell; RPCs pick with
//! whichever picker is current. Replacing a policy is one pointer store, and it wakes the RPCs
//! that the old picker had queued.

mod cell;
mod round_robin;
mod stand_ins;
mod start;

use std::fmt;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use tokio::time::Instant;
use tonic::Status;

use crate::subconn::{Done, DoneInfo, ReadySet, SubConn};

pub(crate) use self::cell::Asked;
pub use self::cell::PickerCell;
pub(crate) use self::round_robin::Cursor;
pub use self::round_robin::RoundRobin;
pub(crate) use self::stand_ins::{Always, Refuses, Wakes};
pub(crate) use self::start::Shard;
pub use self::start::{Handover, PickAgain, Placement, Saved, Stage, StartError};

/// A load-balancing policy, as many channels can use it.
pub trait Policy: Send + Sync + fmt::Debug {
    /// Which policy this is.
    fn version(&self) -> PolicyVersion;

    /// Starts the policy for one channel. Called off the runtime's worker threads, within the runtime:
    /// it may block. An error leaves the channel with the policy that it has.
    ///
    /// `ready` is the channel's latest snapshot, and may be empty; a policy that cannot live with it had
    /// better say so here, while the one before it still serves.
    fn start(&self, placement: &Placement, ready: &ReadySet) -> Result<Box<dyn PickerBuilder>, StartError>;
}

/// Which policy, and which edition of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PolicyVersion {
    /// The policy's name.
    pub name: String,
    /// One more at each change of the policy's code; 0 for a policy that is built in.
    pub generation: u64,
    /// SHA-256 of the code, in hexadecimal; empty for a policy that is built in.
    pub digest: String,
}

impl PolicyVersion {
    /// A version of these three.
    #[must_use]
    pub fn new(name: impl Into<String>, generation: u64, digest: impl Into<String>) -> Self {
        Self { name: name.into(), generation, digest: digest.into() }
    }
}

/// Prints as `color #3 a1b2c3d4e5f6`.
impl fmt::Display for PolicyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match self.digest.get(..12) {
            Some(digest) => write!(f, " #{} {digest}", self.generation),
            None => f.write_str(" (built in)"),
        }
    }
}

/// A policy at work in one channel.
pub trait PickerBuilder: Send + fmt::Debug {
    /// Makes the picker for this snapshot. Called by the balancer, in order, whenever an endpoint or
    /// the state of a subconn has changed. The picker is asked for RPCs if at least one subconn is ready, or
    /// the policy [is lazy](Self::is_lazy).
    fn build(&mut self, ready: &ReadySet) -> Arc<dyn Picker>;

    /// Whether the policy decides when to connect. Then the channel connects nothing by itself, and has
    /// the policy pick whatever the states of the subconns are.
    fn is_lazy(&self) -> bool {
        false
    }

    /// The state of the policy, for the one that will take over from it.
    fn handover(&self) -> Option<Handover> {
        None
    }
}

/// What a policy has done wrong, and what became of the RPCs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Faults {
    /// Traps, missed deadlines and wrong answers.
    pub count: u64,
    /// Picks that the fallback made instead.
    pub fallback_picks: u64,
    /// What the last fault was.
    pub last: Option<String>,
}

/// Chooses a subconn for each RPC, from the snapshot that it was built with.
pub trait Picker: Send + Sync + fmt::Debug {
    /// Picks for one RPC. Called on the request path, by many threads at once; must not block: a
    /// picker with nothing to offer answers [`PickResult::Queue`]. Asked at most once for each attempt
    /// of an RPC, but for [`PickResult::Busy`].
    fn pick(&self, info: &PickInfo<'_>) -> PickResult;

    /// What the picker's policy has done wrong so far, in this channel.
    fn faults(&self) -> Faults {
        Faults::default()
    }
}

/// What a picker may know of an RPC.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PickInfo<'a> {
    /// `/package.Service/Method`.
    pub method: &'a str,
    /// The request's metadata.
    pub metadata: &'a http::HeaderMap,
    /// The time of this pick.
    pub now: Instant,
    /// When the RPC must have ended.
    pub deadline: Option<Instant>,
    /// Hold the RPC rather than fail it.
    pub wait_for_ready: bool,
    /// The subconns that earlier attempts used, as numbers.
    pub tried: &'a [u32],
    /// The RPC was held by an earlier picker.
    pub requeued: bool,
}

impl<'a> PickInfo<'a> {
    /// The first attempt of an RPC without a deadline, now.
    #[must_use]
    pub fn new(method: &'a str, metadata: &'a http::HeaderMap) -> Self {
        let now = Instant::now();
        Self { method, metadata, now, deadline: None, wait_for_ready: false, tried: &[], requeued: false }
    }
}

/// A picker's answer.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "gRPC's four answers, and one of hotpick's own")]
pub enum PickResult {
    /// Send the RPC on this subconn. If the subconn turns out not to be ready the next picker is asked.
    Pick(Pick),
    /// Hold the RPC until there is a new picker.
    Queue,
    /// Fail the RPC with this status; one that is wait-for-ready is held instead.
    Fail(Status),
    /// End the RPC with this status, even if it is wait-for-ready.
    Drop(Status),
    /// The picker is serving another thread: let other tasks run and ask it again. Not an answer of a
    /// policy; it is there so that no thread waits for one that lost its CPU.
    Busy,
}

/// A chosen subconn.
#[non_exhaustive]
pub struct Pick {
    /// Where the RPC goes.
    pub subconn: SubConn,
    /// What to add to the request's metadata.
    pub metadata: Vec<(HeaderName, HeaderValue)>,
    /// Told how this attempt of the RPC ended: exactly once, whatever happens.
    pub done: Option<Done>,
}

impl Pick {
    /// A pick of `subconn`.
    #[must_use]
    pub const fn to(subconn: SubConn) -> Self {
        Self { subconn, metadata: Vec::new(), done: None }
    }

    /// The same pick, whose end is told to `done`.
    #[must_use]
    pub fn on_done(mut self, done: impl FnOnce(&DoneInfo<'_>) + Send + 'static) -> Self {
        self.done = Some(Done::new(done));
        self
    }
}

impl fmt::Debug for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pick").field(&self.subconn).finish()
    }
}
