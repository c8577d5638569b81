//! Serves a channel to the clients of connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::admission::Shared;
use super::connection;
use super::health::OwnHealth;
use super::options::{Client, ConnectionError, ProxyOptions};
use crate::channel::Channel;
use crate::net::{BoxedIo, Io};

/// Serves a channel to clients. Cheap to clone; clones share the count of RPCs.
#[derive(Clone, Debug)]
pub struct Proxy(Arc<Shared>);

impl Proxy {
    /// Creates a proxy for this channel.
    ///
    /// # Panics
    ///
    /// With [`ProxyOptions::health`], panics outside of a Tokio runtime.
    #[must_use]
    pub fn new(channel: Channel, options: ProxyOptions) -> Self {
        let health = options.health.then(|| OwnHealth::of(&channel));
        Self(Arc::new(Shared { channel, options, rpcs: AtomicUsize::new(0), health }))
    }

    /// Returns the number of RPCs in flight, over all connections.
    #[must_use]
    pub fn rpcs(&self) -> usize {
        self.0.rpcs.load(Ordering::Relaxed)
    }

    /// Serves the RPCs of one connection until it ends. When `drain` is ready, the client is notified to start no more
    /// RPCs on the connection, which then ends with its last RPC in flight.
    ///
    /// # Errors
    ///
    /// Returns an error if the client did not speak HTTP/2, or the connection was lost.
    ///
    /// # Panics
    ///
    /// Panics outside of a Tokio runtime: each RPC is a task of its own.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection and ends its RPCs.
    pub async fn serve_connection(
        &self,
        io: impl Io + 'static,
        drain: impl Future<Output = ()> + Send,
    ) -> Result<(), ConnectionError> {
        self.serve_connection_of(Client::default(), Box::new(io), drain).await
    }

    /// Like [`serve_connection`](Self::serve_connection), for a client of which something is known.
    ///
    /// # Errors
    ///
    /// As [`serve_connection`](Self::serve_connection).
    ///
    /// # Panics
    ///
    /// As [`serve_connection`](Self::serve_connection).
    pub async fn serve_connection_of(
        &self,
        client: Client,
        io: BoxedIo,
        drain: impl Future<Output = ()> + Send,
    ) -> Result<(), ConnectionError> {
        connection::serve(Arc::clone(&self.0), io, client, Box::pin(drain)).await
    }
}
