//! From an endpoint to a byte stream: names, addresses in a race, TCP or a Unix socket, TLS.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use http::uri::{Authority, Scheme};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::connect::Connect;
use super::connection::Connection;
use super::counters::ConnectionCounters;
use super::options::SubConnOptions;
use super::stream_queue::StreamSignal;
use crate::net::{BoxedIo, set_tcp_options};
use crate::resolver::{Address, Endpoint};
use crate::tls::Connector;

/// How the connections of a channel are made.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    pub(crate) options: SubConnOptions,
    pub(crate) tls: Option<Arc<Connector>>,
    /// The `:authority` of RPCs that have none of their own; without it, the endpoint's address.
    pub(crate) authority: Option<Authority>,
    /// The `:scheme` of RPCs; without it, `https` with TLS and `http` without.
    pub(crate) scheme: Option<Scheme>,
    /// Opens byte streams in place of TCP and Unix sockets.
    pub(crate) connector: Option<Arc<dyn Connect>>,
    /// The service whose health is to be watched.
    pub(crate) health: watch::Receiver<Option<Arc<str>>>,
    /// Ends every connection at once.
    pub(crate) abort: CancellationToken,
    pub(crate) counters: Arc<ConnectionCounters>,
    /// The channel's span. A filter for it applies only to tasks that enter it, not to those that enter a child.
    pub(crate) span: Span,
}

/// Why there is no connection: a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(super) struct DialError {
    pub(super) text: String,
    /// It is this machine that lacks something, and says nothing of the peer.
    pub(super) is_ours: bool,
}

impl From<String> for DialError {
    fn from(text: String) -> Self {
        Self { text, is_ours: false }
    }
}

impl From<std::io::Error> for DialError {
    fn from(error: std::io::Error) -> Self {
        #[cfg(unix)]
        let ours = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EAGAIN];
        #[cfg(not(unix))]
        let ours: [i32; 0] = [];
        let is_ours = error.raw_os_error().is_some_and(|code| ours.contains(&code));
        Self { text: error.to_string(), is_ours }
    }
}

/// Where to try to connect to.
#[derive(Clone, Debug)]
enum Place {
    Socket(Socket),
    /// A name, which may be of several addresses.
    Name {
        host: String,
        port: u16,
    },
}

/// What a connection can be made to.
#[derive(Clone, Debug)]
enum Socket {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Dialer {
    /// Connects to the endpoint: to the first of its addresses that sends HTTP/2 SETTINGS (gRFC A61,
    /// "happy eyeballs"). The error is one sentence that names the address that failed last. `signal` is
    /// notified when the peer allows more streams.
    pub(super) async fn dial(
        &self,
        endpoint: &Endpoint,
        signal: &Arc<StreamSignal>,
    ) -> Result<Connection, DialError> {
        let limit = self.options.connect_timeout;
        let attempts = places(endpoint.addresses()).into_iter().map(|(address, place)| async move {
            let connected = self.attempt(&address, place, signal).await;
            connected.map_err(|DialError { text, is_ours }| {
                let text = format!("connect to {address}: {text}");
                DialError { text, is_ours }
            })
        });
        let race = race(attempts.collect(), self.options.attempt_delay);
        tokio::time::timeout(limit, race).await.unwrap_or_else(|_| {
            let address = &endpoint.addresses()[0];
            Err(format!("connect to {address}: no HTTP/2 SETTINGS within {limit:?}").into())
        })
    }

    async fn attempt(
        &self,
        address: &Address,
        place: Place,
        signal: &Arc<StreamSignal>,
    ) -> Result<Connection, DialError> {
        if let Some(connector) = &self.connector {
            let io = connector.connect(address.clone()).await?;
            return self.establish(address, io, signal).await;
        }
        match place {
            Place::Name { host, port } => {
                let found = tokio::net::lookup_host((host, port)).await?;
                let sockets = interleave(found.collect(), SocketAddr::is_ipv6);
                let connect = |socket| self.connect(address, Socket::Tcp(socket), signal);
                race(sockets.into_iter().map(connect).collect(), self.options.attempt_delay).await
            }
            Place::Socket(socket) => self.connect(address, socket, signal).await,
        }
    }

    async fn connect(
        &self,
        address: &Address,
        socket: Socket,
        signal: &Arc<StreamSignal>,
    ) -> Result<Connection, DialError> {
        let io: BoxedIo = match socket {
            Socket::Tcp(socket) => {
                let tcp = self.connect_tcp(socket).await?;
                set_tcp_options(&tcp, self.options.dead_after)?;
                Box::new(tcp)
            }
            Socket::Unix(path) => {
                // EAGAIN of a Unix socket is the peer's doing: its queue is full.
                let connected = UnixStream::connect(path).await;
                Box::new(connected.map_err(|error| match error.kind() {
                    std::io::ErrorKind::WouldBlock => DialError::from(error.to_string()),
                    _ => error.into(),
                })?)
            }
        };
        self.establish(address, io, signal).await
    }

    async fn connect_tcp(&self, to: SocketAddr) -> std::io::Result<TcpStream> {
        let Some(local) = self.options.local_address else { return TcpStream::connect(to).await };
        let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind(SocketAddr::new(local, 0))?;
        socket.connect(to).await
    }

    /// Does the TLS handshake, if any, and starts HTTP/2.
    async fn establish(
        &self,
        address: &Address,
        io: BoxedIo,
        signal: &Arc<StreamSignal>,
    ) -> Result<Connection, DialError> {
        let (io, certificate) = match &self.tls {
            None => (io, None),
            Some(tls) => {
                let (stream, certificate) = tls.connect(io, address.host()).await?;
                (stream, certificate)
            }
        };
        let abort = self.abort.clone();
        Ok(Connection::start(io, certificate, &self.options, Arc::clone(signal), abort).await?)
    }
}

/// The places of an endpoint's addresses, in the order in which to try them: the resolver's, but with the
/// address families in turns.
fn places(addresses: &[Address]) -> Vec<(Address, Place)> {
    let place = |address: &Address| match (address.path(), address.host().parse::<IpAddr>()) {
        (Some(path), _) => Place::Socket(Socket::Unix(path.to_owned())),
        (None, Ok(ip)) => Place::Socket(Socket::Tcp(SocketAddr::new(ip, address.port().unwrap_or_default()))),
        (None, Err(_)) => {
            Place::Name { host: address.host().to_owned(), port: address.port().unwrap_or_default() }
        }
    };
    let places = addresses.iter().map(|address| (address.clone(), place(address))).collect();
    interleave(places, |(_, place)| matches!(place, Place::Socket(Socket::Tcp(SocketAddr::V6(_)))))
}

/// The items of the first one's kind and those of the other kind in turns, each kind in its order.
fn interleave<T>(items: Vec<T>, kind: impl Fn(&T) -> bool) -> Vec<T> {
    let first = items.first().is_some_and(&kind);
    let (mut ours, mut others): (VecDeque<_>, VecDeque<_>) =
        items.into_iter().partition(|item| kind(item) == first);
    let mut mixed = Vec::with_capacity(ours.len() + others.len());
    while !(ours.is_empty() && others.is_empty()) {
        mixed.extend(ours.pop_front());
        mixed.extend(others.pop_front());
    }
    mixed
}

/// Starts on the attempts in turn, on the next when one has failed or `delay` has passed, and gives the
/// first success, or the last error.
async fn race<T, E: From<String>>(
    attempts: Vec<impl Future<Output = Result<T, E>>>,
    delay: Duration,
) -> Result<T, E> {
    let mut attempts = attempts.into_iter();
    let mut running = FuturesUnordered::new();
    let mut last = E::from("it has no address".to_owned());
    loop {
        match attempts.next() {
            Some(attempt) => running.push(attempt),
            None if running.is_empty() => return Err(last),
            None => {}
        }
        tokio::select! {
            biased;
            Some(result) = running.next() => match result {
                Ok(connected) => return Ok(connected),
                Err(error) => last = error,
            },
            () = sleep(delay), if attempts.len() > 0 => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// What an attempt does, and after how long.
    async fn attempt((name, after, ok): (&'static str, u64, bool)) -> Result<&'static str, String> {
        sleep(Duration::from_millis(after)).await;
        if ok { Ok(name) } else { Err(name.to_owned()) }
    }

    async fn raced(candidates: &[(&'static str, u64, bool)]) -> (Result<&'static str, String>, u128) {
        let start = Instant::now();
        let winner =
            race(candidates.iter().copied().map(attempt).collect(), Duration::from_millis(250)).await;
        (winner, start.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_address_is_tried_when_the_first_is_slow() {
        assert_eq!(raced(&[("a", 10_000, true), ("b", 10, true)]).await, (Ok("b"), 260));
        // And the first may still win.
        assert_eq!(raced(&[("a", 255, true), ("b", 10, true)]).await, (Ok("a"), 255));
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_address_is_tried_at_once_when_one_fails() {
        assert_eq!(raced(&[("a", 5, false), ("b", 5, false), ("c", 5, true)]).await, (Ok("c"), 15));
        assert_eq!(raced(&[("a", 5, false), ("b", 7, false)]).await, (Err("b".to_owned()), 12));
        assert_eq!(raced(&[("a", 300, false), ("b", 20, false)]).await, (Err("a".to_owned()), 300));
    }

    #[test]
    fn what_this_machine_lacks_says_nothing_of_the_peer() {
        let is_ours = |code| DialError::from(std::io::Error::from_raw_os_error(code)).is_ours;
        assert!(is_ours(libc::EMFILE) && is_ours(libc::ENOBUFS));
        // As for ::1 where there is no IPv6: for good.
        assert!(!is_ours(libc::EADDRNOTAVAIL));
        assert!(!is_ours(libc::ECONNREFUSED) && !DialError::from("no".to_owned()).is_ours);
    }

    #[test]
    fn address_families_take_turns() {
        let mixed = |text: &str| interleave(text.chars().collect(), char::is_ascii_uppercase);
        assert_eq!(mixed("abcAB").iter().collect::<String>(), "aAbBc");
        assert_eq!(mixed("ABCabcd").iter().collect::<String>(), "AaBbCcd");
        assert_eq!(mixed("").len(), 0);
    }
}
