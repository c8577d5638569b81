//! From an endpoint to a byte stream: names, addresses in a race, TCP or a Unix socket, TLS.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use http::uri::Authority;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::SubConnOptions;
use super::transport::Transport;
use crate::resolver::{Address, Endpoint};
use crate::tls::Connector;

/// A connection before HTTP/2: TCP or Unix, with or without TLS.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// How the connections of a channel are made.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    pub(crate) options: SubConnOptions,
    pub(crate) tls: Option<Arc<Connector>>,
    /// The `:authority` of RPCs that have none of their own; without it, the endpoint's address.
    pub(crate) authority: Option<Authority>,
    /// The service whose health is to be watched.
    pub(crate) health: watch::Receiver<Option<Arc<str>>>,
    /// Ends every connection at once.
    pub(crate) abort: CancellationToken,
}

/// One place to connect to.
#[derive(Clone, Debug)]
struct Candidate {
    /// As the resolver wrote it, for messages and the server's name.
    address: Address,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Dialer {
    /// Without anything that is not asked for.
    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self {
            options: SubConnOptions::default(),
            tls: None,
            authority: None,
            health: watch::channel(None).1,
            abort: CancellationToken::new(),
        }
    }

    /// Connects to the endpoint: to the first of its addresses that sends HTTP/2 SETTINGS (gRFC A61,
    /// "happy eyeballs"). The error is one sentence that names the address that failed last.
    pub(super) async fn dial(&self, endpoint: &Endpoint) -> Result<Transport, String> {
        let limit = self.options.connect_timeout;
        let attempt = async {
            let candidates = candidates(endpoint.addresses()).await?;
            race(candidates, self.options.attempt_delay, |candidate| self.connect(candidate)).await
        };
        tokio::time::timeout(limit, attempt).await.unwrap_or_else(|_| {
            let address = &endpoint.addresses()[0];
            Err(format!("connect to {address}: no HTTP/2 SETTINGS within {limit:?}"))
        })
    }

    async fn connect(&self, Candidate { address, place }: Candidate) -> Result<Transport, String> {
        let connected = async {
            let io: Box<dyn Io> = match place {
                Place::Tcp(socket) => {
                    let tcp = TcpStream::connect(socket).await.map_err(|error| error.to_string())?;
                    set_options(&tcp, self.options.dead_after).map_err(|error| error.to_string())?;
                    Box::new(tcp)
                }
                Place::Unix(path) => {
                    Box::new(UnixStream::connect(path).await.map_err(|error| error.to_string())?)
                }
            };
            let io = match &self.tls {
                None => io,
                Some(tls) => Box::new(tls.connect(io, address.host()).await?),
            };
            Transport::start(io, &self.options, self.abort.clone()).await
        };
        connected.await.map_err(|error| format!("connect to {address}: {error}"))
    }
}

/// The places behind an endpoint's addresses, in the order in which to try them: the resolver's, but with
/// the address families taken in turns.
async fn candidates(addresses: &[Address]) -> Result<Vec<Candidate>, String> {
    let mut found = Vec::new();
    let mut failed = None;
    for address in addresses {
        let candidate = |place| Candidate { address: address.clone(), place };
        match (address.path(), address.host().parse::<IpAddr>(), address.port()) {
            (Some(path), ..) => found.push(candidate(Place::Unix(path.to_owned()))),
            (None, Ok(ip), Some(port)) => found.push(candidate(Place::Tcp(SocketAddr::new(ip, port)))),
            (None, _, port) => {
                match tokio::net::lookup_host((address.host(), port.unwrap_or_default())).await {
                    Ok(sockets) => found.extend(sockets.map(|socket| candidate(Place::Tcp(socket)))),
                    Err(error) => failed = Some(format!("connect to {address}: {error}")),
                }
            }
        }
    }
    if found.is_empty() {
        return Err(failed.unwrap_or_else(|| format!("connect to {}: no address", addresses[0])));
    }
    Ok(interleave(found, |candidate| matches!(candidate.place, Place::Tcp(SocketAddr::V6(_)))))
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

/// Starts on the candidates in turn, on the next when one has failed or `delay` has passed, and gives the
/// first success, or the last error.
async fn race<C, T, F>(candidates: Vec<C>, delay: Duration, attempt: impl Fn(C) -> F) -> Result<T, String>
where
    F: Future<Output = Result<T, String>>,
{
    let mut candidates = candidates.into_iter();
    let mut running = FuturesUnordered::new();
    let mut last = String::new();
    loop {
        match candidates.next() {
            Some(candidate) => running.push(attempt(candidate)),
            None if running.is_empty() => return Err(last),
            None => {}
        }
        tokio::select! {
            biased;
            Some(result) = running.next() => match result {
                Ok(connected) => return Ok(connected),
                Err(error) => last = error,
            },
            () = sleep(delay), if candidates.len() > 0 => {}
        }
    }
}

const A_DAY: Duration = Duration::from_secs(86_400);

fn set_options(tcp: &TcpStream, dead_after: Duration) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    let socket = socket2::SockRef::from(tcp);
    // Probes in the last half of the time.
    let half = (dead_after / 2).clamp(Duration::from_secs(1), A_DAY / 4);
    let probes = socket2::TcpKeepalive::new().with_time(half);
    #[cfg(target_os = "linux")]
    let probes = probes.with_interval(Duration::from_secs(half.as_secs().div_ceil(4)));
    socket.set_tcp_keepalive(&probes)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(dead_after.min(A_DAY)))?;
    Ok(())
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
        let winner = race(candidates.to_vec(), Duration::from_millis(250), attempt).await;
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
    fn address_families_take_turns() {
        let mixed = |text: &str| interleave(text.chars().collect(), char::is_ascii_uppercase);
        assert_eq!(mixed("abcAB").iter().collect::<String>(), "aAbBc");
        assert_eq!(mixed("ABCabcd").iter().collect::<String>(), "AaBbCcd");
        assert_eq!(mixed("").len(), 0);
    }
}
