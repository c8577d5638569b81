//! DNS over TCP, for servers that say of an answer there that it is cut short.
//!
//! Over UDP that means: ask over TCP. Over TCP there is nothing more to be had, and the records that are there are better
//! than none (some load balancers cut long lists so); but hickory takes the whole answer for an error. So the flag is
//! taken out before it sees it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::io::{AsyncRead, AsyncWrite};
use hickory_resolver::net::runtime::{DnsTcpStream, RuntimeProvider, TokioRuntimeProvider};

/// tokio's sockets, and this TCP.
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

/// Messages of which none is cut short.
pub(super) struct Untruncated<T> {
    io: T,
    flags: Flags,
}

/// Where in a stream of messages their flags are.
#[derive(Debug, Default)]
struct Flags {
    /// In the current message with its length before it.
    at: usize,
    length: usize,
}

impl Flags {
    /// RFC 1035, 4.2.2: two bytes of length before each message. 4.1.1: TC is a bit of its third byte.
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
    fn the_flag_is_found_however_the_bytes_come() {
        // Two messages, the second of no more than its head.
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
