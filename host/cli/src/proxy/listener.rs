//! Accepts connections, and ends them gracefully.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use hotpick::net::{Io, set_tcp_options};
use hotpick::proxy::{Peer, Proxy};
use hotpick::resolver::Address;
use hotpick::tls::ServerTls;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A bound listener.
pub(super) struct Listener {
    socket: Socket,
    tls: Option<ServerTls>,
    max_connections: usize,
}

enum Socket {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        path: PathBuf,
        /// Device and inode of the socket file, which is removed at the end if it is still this file.
        identity: Option<(u64, u64)>,
    },
}

/// How long a client may take for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A client whose TCP acknowledges nothing for so long is gone.
const DEAD_AFTER: Duration = Duration::from_secs(20);

impl Listener {
    /// Listens on `host:port` or `unix:/path`, and serves at most this many connections at once.
    pub(super) async fn bind(
        address: &str,
        tls: Option<ServerTls>,
        max_connections: usize,
    ) -> anyhow::Result<Self> {
        let failed = || format!("cannot listen on {address}");
        let unix = address.starts_with("unix:").then(|| address.parse::<Address>()).transpose();
        let socket = match unix.with_context(failed)?.as_ref().and_then(Address::path) {
            Some(path) => {
                let path = path.to_owned();
                let listener = bind_unix(&path).await.with_context(failed)?;
                let identity = identity(&path);
                Socket::Unix { listener, path, identity }
            }
            None => Socket::Tcp(TcpListener::bind(address).await.with_context(failed)?),
        };
        Ok(Self { socket, tls, max_connections })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> String {
        match &self.socket {
            Socket::Tcp(listener) => {
                listener.local_addr().map_or_else(|error| error.to_string(), |address| address.to_string())
            }
            Socket::Unix { path, .. } => format!("unix:{}", path.display()),
        }
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
                        tracing::warn!(listener, max, "max_connections are open: more are closed");
                    }
                }
                Ok((io, peer)) => {
                    is_full = false;
                    let (tls, proxy, drain) = (self.tls.clone(), proxy.clone(), drain.clone());
                    connections.spawn(async move {
                        if let Err(error) = serve_connection(io, peer, tls, &proxy, drain).await {
                            tracing::debug!(error, "connection ended");
                        }
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: to try again at once would spin.
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        // New connections are refused from here on.
        drop(self);
        while connections.join_next().await.is_some() {}
    }
}

impl Socket {
    async fn accept(&self) -> io::Result<(Box<dyn Io>, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                if let Err(error) = set_tcp_options(&stream, DEAD_AFTER) {
                    // Of a client that is gone already, which is its own affair.
                    tracing::debug!(%error, "socket options");
                }
                Ok((Box::new(stream), Peer::Tcp(peer)))
            }
            Self::Unix { listener, .. } => Ok((Box::new(listener.accept().await?.0), Peer::Unix)),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Self::Unix { path, identity, .. } = self
            && self::identity(path) == *identity
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Binds, in place of a socket that a dead process has left behind.
async fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::FileTypeExt as _;

    let error = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => error,
        bound => return bound,
    };
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && UnixStream::connect(path).await.is_err_and(refused) {
        std::fs::remove_file(path)?;
        return UnixListener::bind(path);
    }
    Err(error)
}

/// Which file it is: device and inode.
fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;

    std::fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

async fn serve_connection(
    io: Box<dyn Io>,
    peer: Peer,
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
    proxy.serve_connection_of(peer, io, drain.cancelled_owned()).await.map_err(|error| error.to_string())
}
