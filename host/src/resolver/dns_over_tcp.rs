//! DNS over TCP, for servers that truncate answers over TCP.
//!
//! In an answer over UDP the flag TC (truncated) means: ask again over TCP. Over TCP there is no way to get more, and
//! some records are better than none. Some load balancers truncate long lists in this way. hickory treats such an
//! answer as an error, so the flag is cleared before hickory sees it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::io::{AsyncRead, AsyncWrite};
use hickory_resolver::net::runtime::{DnsTcpStream, RuntimeProvider, TokioRuntimeProvider};

/// Tokio's sockets, with the TC flag cleared over TCP.
#[derive(Clone, Default)]
pub(super) struct Sockets(TokioRuntimeProvider);

type Tcp = <TokioRuntimeProvider as RuntimeProvider>::Tcp;

impl RuntimeProvider for Sockets {
    type Handle = <TokioRuntimeProvider as RuntimeProvider>::Handle;
    type Timer = <TokioRuntimeProvider as RuntimeProvider>::Timer;
    type Udp = <TokioRuntimeProvider as RuntimeProvider>::Udp;
    type Tcp = Untruncated<Tcp>;

    fn create_handle(&self) -> Self::Handle {
        self.0.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        bind: Option<SocketAddr>,
        timeout: Option<Duration>,
    ) -> BoxFuture<'static, io::Result<Self::Tcp>> {
        let connecting = self.0.connect_tcp(server, bind, timeout);
        Box::pin(async move { connecting.await.map(|io| Untruncated { io, flags: Flags::default() }) })
    }

    fn bind_udp(&self, local: SocketAddr, server: SocketAddr) -> BoxFuture<'static, io::Result<Self::Udp>> {
        self.0.bind_udp(local, server)
    }
}

/// A TCP stream of DNS messages, in which the TC flag is cleared.
pub(super) struct Untruncated<T> {
    io: T,
    flags: Flags,
}

/// Finds the flags in a stream of messages.
#[derive(Debug, Default)]
struct Flags {
    /// Position in the current message, including its length prefix.
    at: usize,
    length: usize,
}

impl Flags {
    /// Clears TC in the next bytes of the stream. Each message follows its length in two bytes (RFC 1035, 4.2.2). TC is
    /// a bit of the third byte of the message (4.1.1).
    fn clear_truncated(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            match self.at {
                0 => self.length = usize::from(*byte) << 8,
                1 => self.length |= usize::from(*byte),
                4 => *byte &= !0x02,
                _ => {}
            }
            self.at += 1;
            if self.at >= 2 + self.length {
                self.at = 0;
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Untruncated<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        self.flags.clear_truncated(&mut buf[..count]);
        Poll::Ready(Ok(count))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Untruncated<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_close(cx)
    }
}

impl DnsTcpStream for Untruncated<Tcp> {
    type Time = <Tcp as DnsTcpStream>::Time;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_is_cleared_however_the_bytes_are_split() {
        // Three messages. The last two consist of the header only.
        let message = |length: u8, flags: u8| {
            let mut bytes = vec![0xff; usize::from(length) + 2];
            (bytes[0], bytes[1], bytes[4]) = (0, length, flags);
            bytes
        };
        let sent = [message(40, 0x82), message(12, 0x80), message(12, 0x87)].concat();
        let expected = [message(40, 0x80), message(12, 0x80), message(12, 0x85)].concat();
        for size in 1..sent.len() {
            let (mut flags, mut bytes) = (Flags::default(), sent.clone());
            bytes.chunks_mut(size).for_each(|piece| flags.clear_truncated(piece));
            assert_eq!(bytes, expected, "pieces of {size}");
        }
    }
}
