//! What is recorded of an RPC.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use tokio::time::Instant;
use tonic::Code;

use crate::load_report::LoadReport;
use crate::picker::{DelayType, PickedBy};
use crate::policy_version::PolicyVersion;
use crate::subconn::SubConn;

/// What is known of an RPC from its start.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Call {
    /// Target of the channel.
    pub target: Arc<str>,
    /// The client, if the RPC came through a [`Proxy`](crate::proxy::Proxy).
    pub peer: Option<Peer>,
    /// When the RPC started.
    pub started: Instant,
    pub(super) path: Option<PathAndQuery>,
}

/// The client of a proxy. A request extension, which the proxy sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Peer {
    /// Address of a TCP connection.
    Tcp(SocketAddr),
    /// A Unix socket, whose clients have no address.
    Unix,
    /// Not known.
    #[default]
    Unknown,
}

impl Call {
    /// Returns the method: `package.Service/Method`, without the leading slash, as metrics name it.
    ///
    /// The client chooses it. Through a proxy it can be any text.
    #[must_use]
    pub fn method(&self) -> &str {
        let path = self.path.as_ref().map_or("", PathAndQuery::path);
        path.strip_prefix('/').unwrap_or(path)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// An RPC that has ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CallRecord<'a> {
    /// What was known from its start.
    pub call: &'a Call,
    /// Its attempts, in the order in which they started. Empty if the RPC ended before the first one.
    pub attempts: &'a [AttemptRecord],
    /// The status code as the caller sees it.
    pub code: Code,
    /// The status message, unless it came from the server.
    pub message: Option<&'a str>,
    /// The caller gave up: it cancelled the RPC, or the deadline passed.
    pub client_ended: bool,
    /// Time from the start to the end.
    pub duration: Duration,
    /// Time for which the RPC waited for the target to be resolved ([`DelayType::Resolving`]).
    pub resolving: Duration,
    /// Time in which no attempt was in flight: between attempts, and after the last one if the RPC ended while it waited
    /// for another (`grpc.client.call.retry_delay` of gRFC A96).
    pub retry_delay: Duration,
}

/// One attempt of an RPC.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AttemptRecord {
    /// Why it was started.
    pub kind: AttemptKind,
    /// Number of attempts before this one, without transparent retries: `grpc-previous-rpc-attempts` in the request.
    pub previous: u32,
    /// When the attempt started, before its pick.
    pub started: Instant,
    /// Where it went. `None`: nothing was picked.
    pub pick: Option<PickRecord>,
    /// What it waited for before it was sent, in order.
    pub delays: Vec<DelayRecord>,
    /// When it got its stream on a connection. `None`: it was not sent.
    pub sent: Option<Instant>,
    /// When the response headers arrived.
    pub responded: Option<Instant>,
    /// When it ended. `None`: it has not.
    pub ended: Option<Instant>,
    /// Messages of the request that were handed to the connection.
    pub request: Messages,
    /// Messages of the response that were received.
    pub response: Messages,
    /// Its status code. `None`: it has not ended.
    pub code: Option<Code>,
    /// The caller gave up, or another attempt of the RPC was faster.
    pub client_ended: bool,
    /// The server's load report, from the trailers.
    pub load: Option<LoadReport>,
}

/// Where an attempt went.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PickRecord {
    /// The subconn.
    pub subconn: SubConn,
    /// The policy. `None`: a native picker that belongs to no policy.
    pub policy: Option<Arc<PolicyVersion>>,
    /// Who picked: the policy or its plan, or the fallback in its place.
    pub by: PickedBy,
    /// What the policy said of the pick.
    pub explanation: Option<Box<str>>,
}

/// Something that an attempt waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DelayRecord {
    /// Its type.
    pub delay: DelayType,
    /// Its reason, for people.
    pub reason: String,
    /// How long.
    pub duration: Duration,
}

/// Messages of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Messages {
    /// How many.
    pub count: u64,
    /// Their size: compressed, without gRPC's and HTTP/2's framing.
    pub bytes: u64,
}

/// Why an attempt was started: `grpc.attempt_type` of gRFC A96.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AttemptKind {
    /// The first one.
    Original,
    /// A retry by the retry policy.
    Retry,
    /// A hedge.
    Hedge,
    /// The attempt before it was not processed by any server.
    TransparentRetry,
}

impl AttemptKind {
    /// Returns the name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Original => "original",
            Self::Retry => "retry",
            Self::Hedge => "hedge",
            Self::TransparentRetry => "transparent_retry",
        }
    }
}

impl AttemptRecord {
    pub(super) const fn new(kind: AttemptKind, previous: u32, started: Instant) -> Self {
        Self {
            kind,
            previous,
            started,
            pick: None,
            delays: Vec::new(),
            sent: None,
            responded: None,
            ended: None,
            request: Messages { count: 0, bytes: 0 },
            response: Messages { count: 0, bytes: 0 },
            code: None,
            client_ended: false,
            load: None,
        }
    }

    /// Returns the time from the start of the attempt to its end; zero if it has not ended. With the wait for a pick and a
    /// stream.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.ended.map_or(Duration::ZERO, |ended| ended.saturating_duration_since(self.started))
    }

    /// Returns the time from when it was sent to its end: what the server and the network took. `None`: it was not sent, or
    /// has not ended.
    #[must_use]
    pub fn latency(&self) -> Option<Duration> {
        self.ended.zip(self.sent).map(|(ended, sent)| ended.saturating_duration_since(sent))
    }
}

impl CallRecord<'_> {
    /// Returns the number of attempts of this kind.
    #[must_use]
    pub fn count(&self, kind: AttemptKind) -> usize {
        self.attempts.iter().filter(|attempt| attempt.kind == kind).count()
    }
}
