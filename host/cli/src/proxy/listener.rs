//! Accepts connections, and ends them gracefully.

use std::time::Duration;

use anyhow::Context as _;
use hotpick::net::Io;
use hotpick::proxy::{Client, Proxy};
use hotpick::tls::ServerTls;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::LOG;
use super::socket::{Access, Socket};

/// A bound listener.
pub(super) struct Listener {
    socket: Socket,
    tls: Option<ServerTls>,
    max_connections: usize,
}

/// How long a client may take for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

impl Listener {
    /// Listens on `host:port` or `unix:/path`, and serves at most this many connections at once.
    pub(super) async fn bind(
        address: &str,
        tls: Option<ServerTls>,
        max_connections: usize,
    ) -> anyhow::Result<Self> {
        let failed = || format!("cannot listen on {address}");
        let socket = Socket::bind(address, Access::Everyone).await.with_context(failed)?;
        Ok(Self { socket, tls, max_connections })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> String {
        self.socket.address()
    }

    /// Serves until `drain`; then takes no new connection and no new RPC, and returns when those that are
    /// open have ended.
    pub(super) async fn serve(self, proxy: Proxy, drain: CancellationToken) {
        let mut connections = JoinSet::new();
        let mut is_full = false;
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = drain.cancelled() => break,
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                // Closed at once: a client that is left in the queue of the kernel would wait for nothing.
                Ok((io, _)) if connections.len() >= self.max_connections => {
                    drop(io);
                    if !std::mem::replace(&mut is_full, true) {
                        let (listener, max) = (self.address(), self.max_connections);
                        tracing::warn!(target: LOG, listener, max, "max_connections are open: more are closed");
                    }
                }
                Ok((io, client)) => {
                    is_full = false;
                    let (tls, proxy, drain) = (self.tls.clone(), proxy.clone(), drain.clone());
                    connections.spawn(async move {
                        if let Err(error) = serve_connection(io, client, tls, &proxy, drain).await {
                            tracing::debug!(target: LOG, error, "connection ended");
                        }
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: to try again at once would spin.
                    tracing::warn!(target: LOG, %error, "cannot accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        // New connections are refused from here on.
        drop(self);
        while connections.join_next().await.is_some() {}
    }
}

async fn serve_connection(
    io: Box<dyn Io>,
    client: Client,
    tls: Option<ServerTls>,
    proxy: &Proxy,
    drain: CancellationToken,
) -> Result<(), String> {
    let io: Box<dyn Io> = match tls {
        None => io,
        Some(tls) => {
            let handshake = tokio::select! {
                handshake = tokio::time::timeout(HANDSHAKE, tls.accept(io)) => handshake,
                // No RPC has begun on this connection.
                () = drain.cancelled() => return Ok(()),
            };
            let handshake = handshake.map_err(|_| "TLS handshake took too long".to_owned())?;
            Box::new(handshake.map_err(|error| format!("TLS handshake: {error}"))?)
        }
    };
    proxy.serve_connection_of(client, io, drain.cancelled_owned()).await.map_err(|error| error.to_string())
}
