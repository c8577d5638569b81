//! Options of a proxy, and the errors of its connections.

use std::time::Duration;

use crate::call::Peer;
use crate::net::Undelivered;
use crate::setters::setters;

/// Limits and timeouts of a [`Proxy`](super::Proxy).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ProxyOptions {
    /// Maximum size of a request's metadata (bytes). HTTP/2 counts the name and value of each entry and 32 bytes more,
    /// and the path. An RPC that exceeds the limit fails with RESOURCE_EXHAUSTED; other RPCs are not affected. Default:
    /// 64 KiB. At most 1 MiB, which is the limit announced to clients.
    pub max_metadata: usize,
    /// Maximum number of RPCs in flight, over all connections. Further RPCs fail with UNAVAILABLE. Default: 10,000.
    ///
    /// Each RPC may hold 256 KiB of its request and 1 MiB of its response while the other side does not take them.
    pub max_rpcs: usize,
    /// Timeout for the client's HTTP/2 preface and SETTINGS. Default: 10 s.
    pub handshake_timeout: Duration,
    /// Grace period for a connection that is draining and whose client has all answers, before it is closed: the client
    /// has been notified and may be about to respond. It begins again with each byte, up to three times as long in all.
    /// Default: 1 s.
    pub drain_timeout: Duration,
    /// Whether the proxy answers `grpc.health.v1.Health` itself: SERVING while the channel can pick, for the service `""`.
    /// Otherwise these RPCs are forwarded like all others. Default: false.
    pub health: bool,
}

setters!(ProxyOptions {
    with_max_metadata: max_metadata: usize,
    with_max_rpcs: max_rpcs: usize,
    with_handshake_timeout: handshake_timeout: Duration,
    with_drain_timeout: drain_timeout: Duration,
    with_health: health: bool,
});

impl Default for ProxyOptions {
    fn default() -> Self {
        Self {
            max_metadata: 64 << 10,
            max_rpcs: 10_000,
            handshake_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(1),
            health: false,
        }
    }
}

/// The client of a connection, as far as it is known.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Client {
    /// Its address. Observers of RPCs are told. Default: unknown.
    pub peer: Peer,
    /// What the kernel has not delivered to it, of the socket below `io`: a connection that drains ends when the client has
    /// the last answer. Default: unknown, then a client has its answers when they are written.
    pub undelivered: Option<Undelivered>,
}

setters!(Client {
    with_peer: peer: Peer,
    with_undelivered: undelivered: Option<Undelivered>,
});

/// Error that ended a client's connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The client did not send its HTTP/2 preface and SETTINGS in time.
    #[error("the client did not send the HTTP/2 preface and SETTINGS within {0:?}")]
    Handshake(Duration),
    /// HTTP/2 or the underlying connection failed.
    #[error("{message}")]
    Http2 {
        /// The error in gRPC's terms.
        message: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
