//! Sockets to listen on: TCP or Unix.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hotpick::net::{Io, Undelivered, set_tcp_options};
use hotpick::proxy::{Client, Peer};
use hotpick::resolver::Address;
use tokio::net::{TcpListener, UnixListener, UnixSocket, UnixStream};

use super::LOG;

pub(super) enum Socket {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        path: PathBuf,
        /// Device and inode of the socket file, which is removed at the end if it is still this file.
        identity: Option<(u64, u64)>,
    },
}

/// Who may open the file of a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// As the process's umask says.
    Everyone,
    /// The user of the process.
    Owner,
}

/// A client whose TCP acknowledges nothing for so long is gone.
const DEAD_AFTER: Duration = Duration::from_secs(20);
/// Connections that wait to be accepted.
const QUEUE: u32 = 1024;

impl Socket {
    /// Listens on `host:port` or `unix:/path`. `access`: who may open the file of a Unix socket.
    pub(super) async fn bind(address: &str, access: Access) -> anyhow::Result<Self> {
        let unix = address.starts_with("unix:").then(|| address.parse::<Address>()).transpose();
        Ok(match unix?.as_ref().and_then(Address::path) {
            Some(path) => Self::bind_unix(path, access).await?,
            None => Self::Tcp(TcpListener::bind(address).await?),
        })
    }

    pub(super) async fn bind_unix(path: &Path, access: Access) -> io::Result<Self> {
        let path = path.to_owned();
        let listener = bind_unix(&path, access).await?;
        let identity = identity(&path);
        Ok(Self::Unix { listener, path, identity })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => {
                listener.local_addr().map_or_else(|error| error.to_string(), |address| address.to_string())
            }
            Self::Unix { path, .. } => format!("unix:{}", path.display()),
        }
    }

    /// Returns whether only this machine can connect.
    pub(super) fn is_local(&self) -> bool {
        match self {
            Self::Tcp(listener) => listener.local_addr().is_ok_and(|address| address.ip().is_loopback()),
            Self::Unix { .. } => true,
        }
    }

    pub(super) async fn accept(&self) -> io::Result<(Box<dyn Io>, Client)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                if let Err(error) = set_tcp_options(&stream, DEAD_AFTER) {
                    // Of a client that is gone already, which is its own affair.
                    tracing::debug!(target: LOG, %error, "socket options");
                }
                let client = client(Peer::Tcp(peer), &stream);
                Ok((Box::new(stream), client))
            }
            Self::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                let client = client(Peer::Unix, &stream);
                Ok((Box::new(stream), client))
            }
        }
    }
}

/// What is known of the client of a socket.
fn client(peer: Peer, socket: &impl AsRawFd) -> Client {
    Client::default().with_peer(peer).with_undelivered(Some(Undelivered::of(socket)))
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
async fn bind_unix(path: &Path, access: Access) -> io::Result<UnixListener> {
    use std::os::unix::fs::FileTypeExt as _;

    let error = match listen(path, access) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => error,
        bound => return bound,
    };
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && UnixStream::connect(path).await.is_err_and(refused) {
        std::fs::remove_file(path)?;
        return listen(path, access);
    }
    Err(error)
}

fn listen(path: &Path, access: Access) -> io::Result<UnixListener> {
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    if access == Access::Owner {
        use std::os::unix::fs::PermissionsExt as _;

        // Before anyone can connect.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    }
    socket.listen(QUEUE)
}

/// Which file it is: device and inode.
fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;

    std::fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}
