//! A channel as a server: what programs in other languages connect to as to any gRPC server.
//!
//! [`Proxy`] serves connections that its user has accepted; listening, TLS and signals are the user's (the command
//! `hotpick proxy` is one). Each RPC of a client goes through the channel as one of this process would: picked by its policy,
//! with the client's metadata.
//!
//! A client is trusted with nothing: how many RPCs it may have under way, how much metadata they may have, and how much
//! memory it takes are bounded ([`ProxyOptions`], and `docs/limits.md` for those of HTTP/2), and what it sends ends at worst
//! its own connection.

mod connection;
mod rpc;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::Channel;

/// What the clients of a [`Proxy`] may do.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ProxyOptions {
    /// The most metadata that a request may have, in bytes as HTTP/2 counts them: name and value of each entry and 32 more,
    /// with the path. An RPC beyond it fails with RESOURCE_EXHAUSTED, alone. At most 1 MiB, which is what clients are
    /// told; 64 KiB by default.
    pub max_metadata: usize,
    /// How many RPCs may be under way at once, over all connections. One more fails with UNAVAILABLE. 10,000 by
    /// default.
    ///
    /// Each may hold 256 KiB of its request and 1.5 MiB of its response while the other side does not take them.
    pub max_rpcs: usize,
    /// How long a client may take until it has said that it speaks HTTP/2 (its preface and SETTINGS). 10 s by default.
    pub handshake_timeout: Duration,
    /// How long a connection without an RPC is waited for, when connections are drained, before it is closed: its
    /// client has been told and may be about to answer. 1 s by default.
    pub drain_timeout: Duration,
}

impl Default for ProxyOptions {
    fn default() -> Self {
        Self {
            max_metadata: 64 << 10,
            max_rpcs: 10_000,
            handshake_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(1),
        }
    }
}

/// Why a connection of a client ended before its time.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// It has not said in time that it speaks HTTP/2.
    #[error("the client has not sent the preface of HTTP/2 and its SETTINGS within {0:?}")]
    Handshake(Duration),
    /// HTTP/2 or the connection below it failed.
    #[error("{0}")]
    Http2(String),
}

/// Serves a channel to the clients of connections. Cheap to clone; the clones count together.
#[derive(Clone, Debug)]
pub struct Proxy(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    channel: Channel,
    options: ProxyOptions,
    /// RPCs under way.
    rpcs: AtomicUsize,
}

/// An RPC under way.
struct Admitted(Arc<Shared>);

impl Proxy {
    /// Serves this channel.
    #[must_use]
    pub fn new(channel: Channel, options: ProxyOptions) -> Self {
        Self(Arc::new(Shared { channel, options, rpcs: AtomicUsize::new(0) }))
    }

    /// RPCs under way, over all connections.
    #[must_use]
    pub fn rpcs(&self) -> usize {
        self.0.rpcs.load(Ordering::Relaxed)
    }

    /// Serves the RPCs of one connection until it ends. When `drain` is ready the client is told to begin no more
    /// RPCs here, and the connection ends with the last of those that it has.
    ///
    /// Must be called in a tokio runtime: each RPC is a task of its own, and ends with this future.
    ///
    /// # Errors
    ///
    /// The client did not speak HTTP/2, or the connection was lost.
    pub async fn serve_connection(
        &self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        drain: impl Future<Output = ()> + Send,
    ) -> Result<(), ConnectionError> {
        connection::serve(Arc::clone(&self.0), io, drain).await
    }
}

impl Shared {
    /// One more RPC, if there may be.
    fn admit(self: &Arc<Self>) -> Option<Admitted> {
        // Counted first: of two at once no more than one is the last.
        let admitted = Admitted(Arc::clone(self));
        (self.rpcs.fetch_add(1, Ordering::Relaxed) < self.options.max_rpcs).then_some(admitted)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.rpcs.fetch_sub(1, Ordering::Relaxed);
    }
}
