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

/// What the kernel has not delivered to a socket's peer yet.
#[derive(Debug)]
pub struct Undelivered(#[cfg(unix)] std::os::fd::OwnedFd);

impl Undelivered {
    /// Watches a TCP or Unix socket.
    ///
    /// # Errors
    ///
    /// The process has no file descriptor left.
    #[cfg(unix)]
    pub fn of(socket: &impl std::os::fd::AsFd) -> io::Result<Self> {
        socket.as_fd().try_clone_to_owned().map(Self)
    }

    /// Returns the number of bytes that were written and that the peer's kernel has not acknowledged; of a Unix socket,
    /// those that the peer has not read, and the kernel's own beside them. 0 if the system does not say (not Linux).
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.count()
    }

    #[cfg(target_os = "linux")]
    #[allow(unsafe_code, reason = "no safe interface has it")]
    fn count(&self) -> usize {
        use std::os::fd::AsRawFd as _;

        let mut bytes: libc::c_int = 0;
        // SAFETY: the descriptor is open, and the kernel writes one number (SIOCOUTQ, tcp(7) and unix(7)).
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
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
