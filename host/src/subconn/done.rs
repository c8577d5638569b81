//! How the end of an RPC is reported to the picker that picked for it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tonic::Code;

/// A callback for the end of one attempt of an RPC. Called exactly once, on the RPC's path: it must not block.
pub struct Done(Kind);

enum Kind {
    Once(Box<dyn FnOnce(&DoneInfo<'_>) + Send>),
    /// One sink for many RPCs, so that a pick allocates nothing.
    Sink {
        sink: Arc<dyn OutcomeSink>,
        pick: PickId,
    },
}

/// Receives the ends of many RPCs.
pub(crate) trait OutcomeSink: Send + Sync {
    /// Called once for each pick, on the RPC's path: it must not block.
    fn done(&self, pick: PickId, info: &DoneInfo<'_>);
}

/// Identifies a pick among those of one sink.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PickId {
    /// Serial number of the policy instance that picked.
    pub(crate) serial: u64,
    /// The instance's number for the call.
    pub(crate) call: u64,
    /// The instance's number for the method.
    pub(crate) method: u32,
    pub(crate) subconn: u32,
}

impl Done {
    /// Creates a callback of a function.
    pub fn new(done: impl FnOnce(&DoneInfo<'_>) + Send + 'static) -> Self {
        Self(Kind::Once(Box::new(done)))
    }

    pub(crate) fn to(sink: Arc<dyn OutcomeSink>, pick: PickId) -> Self {
        Self(Kind::Sink { sink, pick })
    }

    /// Returns the callback for an RPC that was sent on another subconn than the one that was picked.
    pub(crate) fn on(mut self, subconn: u32) -> Self {
        if let Kind::Sink { pick, .. } = &mut self.0 {
            pick.subconn = subconn;
        }
        self
    }

    pub(crate) fn notify(self, info: &DoneInfo<'_>) {
        match self.0 {
            Kind::Once(done) => done(info),
            Kind::Sink { sink, pick } => sink.done(pick, info),
        }
    }
}

impl fmt::Debug for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Done")
    }
}

/// How an attempt of an RPC ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DoneInfo<'a> {
    /// The RPC's status code. `None`: the RPC was never sent, or the peer did not process it; it is picked
    /// again, or ends without having been served.
    pub code: Option<Code>,
    /// The client gave up: it cancelled the RPC, or its deadline passed. That says little about the server.
    pub client_ended: bool,
    /// The trailers, if the RPC got that far.
    pub trailers: Option<&'a http::HeaderMap>,
    /// Time from the pick to this end; if the RPC waited for a stream, from when it got one, because that
    /// wait says nothing about the server.
    pub latency: Duration,
}
