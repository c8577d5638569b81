//! Byte streams below HTTP/2, and the options of their sockets.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A byte stream below HTTP/2: TCP, a Unix socket, a pipe in memory, with or without TLS.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A byte stream of any kind.
pub type BoxedIo = Box<dyn Io>;

/// What the kernel has not delivered to a socket's peer yet. Does not keep the socket open, and says nothing about it once it
/// is closed: to be given to whoever owns the socket.
#[derive(Debug)]
pub struct Undelivered(#[cfg(unix)] std::os::fd::RawFd);

impl Undelivered {
    /// Watches a TCP or Unix socket.
    #[cfg(unix)]
    pub fn of(socket: &impl std::os::fd::AsRawFd) -> Self {
        Self(socket.as_raw_fd())
    }

    /// Returns the number of bytes that were written and that the peer's kernel has not acknowledged; of a Unix socket,
    /// those that the peer has not read, and the kernel's own beside them. 0 if the system does not say (not Linux).
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.count()
    }

    #[cfg(target_os = "linux")]
    #[allow(
        unsafe_code,
        reason = "no safe interface has it, and a duplicate would be a second descriptor for each connection"
    )]
    fn count(&self) -> usize {
        let mut bytes: libc::c_int = 0;
        // SAFETY: the kernel writes one number (SIOCOUTQ, tcp(7) and unix(7)), whatever the descriptor is. While the socket
        // is open it is the socket's; afterwards the call fails, or the number is of no use.
        let result = unsafe { libc::ioctl(self.0, libc::TIOCOUTQ, &raw mut bytes) };
        if result == 0 { usize::try_from(bytes).unwrap_or(0) } else { 0 }
    }

    #[cfg(not(target_os = "linux"))]
    fn count(&self) -> usize {
        0
    }
}

const A_DAY: Duration = Duration::from_secs(86_400);

/// Sets the options that both sides of hotpick use: no delay of small writes, and the detection of dead peers.
///
/// A peer is dead when its TCP has acknowledged nothing for `dead_after` (from 2 s to a day): neither data nor, on a
/// connection without any, the kernel's keep-alive probes, which are sent in the last half of that time. On Linux;
/// elsewhere the probes alone, at the system's interval.
///
/// # Errors
///
/// The system refuses an option; usually the peer is gone already.
pub fn set_tcp_options(stream: &TcpStream, dead_after: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    let half = (dead_after / 2).clamp(Duration::from_secs(1), A_DAY / 4);
    let probes = socket2::TcpKeepalive::new().with_time(half);
    #[cfg(target_os = "linux")]
    let probes = probes.with_interval(Duration::from_secs(half.as_secs().div_ceil(4)));
    socket.set_tcp_keepalive(&probes)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(dead_after.min(A_DAY)))?;
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_the_peer_has_not_read_is_undelivered() {
        let (mut ours, mut peer) = tokio::net::UnixStream::pair().expect("a pair");
        let undelivered = Undelivered::of(&ours);
        assert_eq!(undelivered.bytes(), 0);
        ours.write_all(&[7; 100]).await.expect("written");
        assert!(undelivered.bytes() >= 100);
        peer.read_exact(&mut [0; 100]).await.expect("read");
        assert_eq!(undelivered.bytes(), 0);
    }
}
