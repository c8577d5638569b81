//! Subconns: one for each endpoint, connected by the host and kept across every change of policy.
//!
//! A [`SubConn`] is a cheap handle. Behind it one task owns the connection, or connections, and their
//! state machine; everyone else reads the state and sends requests.

mod call;
mod dial;
mod health;
mod machine;
mod ready_set;
mod replay;
mod room;
mod snapshots;
mod stand_ins;
mod stats;
mod task;
mod transport;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapAny};
use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::room::Room;
use self::stats::{ResponseStats, Stats};
use self::task::Command;
use self::transport::{InFlight, Transport};
use crate::connectivity::ConnectivityState;
use crate::http2::Received;
use crate::resolver::Endpoint;
use crate::timeout::set_grpc_timeout;

pub(crate) use self::call::{Attempt, Call, Listener, Picked};
pub use self::call::{Done, DoneInfo};
pub(crate) use self::dial::Dialer;
pub use self::machine::Backoff;
pub(crate) use self::ready_set::{Changes, Entry};
pub use self::ready_set::{ReadySet, SubConns};
pub(crate) use self::replay::{Replay, ReplayBody};
pub(crate) use self::snapshots::Snapshots;
pub use self::stand_ins::StandIns;
pub(crate) use self::stats::ConnectionCounters;
pub use self::stats::{Connections, SubConnStats};
pub(crate) use self::transport::SendError;

/// How subconns connect.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SubConnOptions {
    /// The longest that an attempt to connect may take, until the peer's SETTINGS.
    pub connect_timeout: Duration,
    /// Of an endpoint with several addresses: how long one is tried before the next is tried as well
    /// (gRFC A61). When one fails the next is tried at once.
    pub attempt_delay: Duration,
    /// How many connections to keep to each endpoint; at least 1. Each RPC goes to the one with the
    /// fewest under way.
    pub connections: usize,
    /// Up to how many connections to make to an endpoint whose connections have as many streams as the
    /// peer allows (SETTINGS_MAX_CONCURRENT_STREAMS). When there are so many, RPCs wait for a stream to
    /// end. By default 1, as in gRPC: a peer may have set the limit to protect itself.
    pub max_connections: usize,
    /// How long to wait between attempts.
    pub backoff: Backoff,
    /// Give a connection up when the peer's TCP has acknowledged nothing for this long: neither data,
    /// nor, on a connection without any, the kernel's probes. On Linux; elsewhere the probes alone.
    pub dead_after: Duration,
    /// Send an HTTP/2 PING when nothing was read for this long while RPCs are open. Not by default:
    /// unless told otherwise, gRPC servers end connections that ping more often than every 5 minutes.
    /// For peers behind a proxy, which acknowledges in their stead.
    pub keep_alive_interval: Option<Duration>,
    /// Give a connection up when a PING is not answered for this long.
    pub keep_alive_timeout: Duration,
}

impl Default for SubConnOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(20),
            attempt_delay: Duration::from_millis(250),
            connections: 1,
            max_connections: 1,
            backoff: Backoff::default(),
            dead_after: Duration::from_secs(20),
            keep_alive_interval: None,
            keep_alive_timeout: Duration::from_secs(10),
        }
    }
}

/// A handle to the connection of one endpoint.
#[derive(Clone)]
pub struct SubConn(Arc<Shared>);

struct Shared {
    id: u32,
    endpoint: ArcSwap<Endpoint>,
    authority: Authority,
    scheme: Scheme,
    pool: ArcSwapAny<Arc<Pool>>,
    condition: Mutex<Condition>,
    stats: Stats,
    commands: mpsc::UnboundedSender<Command>,
    room: Arc<Places>,
}

/// The connections that take RPCs: none unless READY.
#[derive(Debug, Default)]
struct Pool {
    transports: Vec<Arc<Transport>>,
    /// One more can be made: RPCs that find no room wait for it.
    may_grow: bool,
}

/// A state, and the error that led to the last TRANSIENT_FAILURE or loss.
#[derive(Clone, Debug)]
struct Condition {
    state: ConnectivityState,
    error: Option<String>,
}

impl SubConn {
    /// A subconn in IDLE. Whenever its state has changed, its number is sent to `events`.
    ///
    /// Lives until [`shutdown`](Self::shutdown).
    pub(crate) fn spawn(
        id: u32,
        endpoint: Endpoint,
        dialer: Dialer,
        events: mpsc::UnboundedSender<u32>,
    ) -> Self {
        let (commands, receiver) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            id,
            authority: dialer.authority.clone().unwrap_or_else(|| endpoint.addresses()[0].authority()),
            scheme: if dialer.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP },
            endpoint: ArcSwap::from_pointee(endpoint),
            pool: ArcSwapAny::default(),
            condition: Mutex::new(Condition { state: ConnectivityState::Idle, error: None }),
            stats: Stats::default(),
            commands,
            room: Arc::default(),
        });
        tokio::spawn(task::run(Arc::clone(&shared), dialer, receiver, events));
        Self(shared)
    }

    /// The number by which policies know this subconn: no other of its channel has it, nor has had it for a long time.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id
    }

    /// The endpoint, with the weight and attributes that the resolver gave last.
    #[must_use]
    pub fn endpoint(&self) -> Arc<Endpoint> {
        self.0.endpoint.load_full()
    }

    /// The state at this moment.
    #[must_use]
    pub fn state(&self) -> ConnectivityState {
        self.0.condition().state
    }

    /// Why the last attempt failed or the last connection was lost.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.0.condition().error.clone()
    }

    /// A reading of the counters.
    #[must_use]
    pub fn stats(&self) -> SubConnStats {
        let mut stats = self.0.stats.read();
        let pool = self.0.pool.load();
        stats.connections = pool.transports.len();
        // The same of all of them, as a rule.
        stats.max_streams = pool
            .transports
            .first()
            .map(|transport| transport.link().max_streams())
            .filter(|max| *max < u32::MAX);
        stats
    }

    /// How many streams all of its connections allow together; no limit while one
    /// more can be made, or there is none.
    pub(crate) fn most_streams(&self) -> u32 {
        let pool = self.0.pool.load();
        if pool.may_grow || pool.transports.is_empty() {
            return u32::MAX;
        }
        pool.transports.iter().map(|transport| transport.link().max_streams()).fold(0, u32::saturating_add)
    }

    /// RPCs under way.
    pub(crate) fn in_flight(&self) -> u32 {
        self.0.stats.in_flight()
    }

    /// When its responses begin.
    pub(crate) fn responses(&self) -> ResponseStats {
        self.0.stats.responses()
    }

    /// Starts connecting if IDLE.
    pub(crate) fn connect(&self) {
        self.0.command(Command::Connect);
    }

    /// Gives the connection up. RPCs under way finish.
    pub(crate) fn enter_idle(&self) {
        self.0.command(Command::EnterIdle);
    }

    /// New weight or attributes; the addresses, and so the connection, stay.
    pub(crate) fn update(&self, endpoint: Endpoint) {
        self.0.endpoint.store(Arc::new(endpoint));
    }

    /// Takes no new RPC from now on. RPCs under way finish.
    pub(crate) fn shutdown(&self) {
        self.0.command(Command::Shutdown);
    }

    /// Sends a request, to its own authority or else the subconn's, and waits for the headers
    /// of the response. The [`Call`] counts the RPC as under way until it is told or dropped.
    pub(crate) async fn send(
        &self,
        mut request: http::Request<ReplayBody>,
        attempt: Attempt,
    ) -> Result<(http::Response<Received>, Call), SendError> {
        let Attempt { done, begun, deadline, told } = attempt;
        let mut call = Call::begin(Arc::clone(&self.0), done, begun, deadline);
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(self.0.scheme.clone());
        let own = parts.authority.take().filter(|own| *own != self.0.authority);
        parts.authority = Some(own.clone().unwrap_or_else(|| self.0.authority.clone()));
        *request.uri_mut() = Uri::from_parts(parts)
            .map_err(|error| SendError::Failed(tonic::Status::internal(error.to_string())))?;
        loop {
            let (place, waited) = self.transport().await;
            let Some((transport, stream)) = place else {
                call.not_sent();
                return Err(SendError::NotSent(Box::new(request)));
            };
            call.on(stream, waited);
            if let Some(own) = &own
                && !transport.may_serve(own)
            {
                let status = tonic::Status::unavailable(format!(
                    "the RPC has the authority {own}, which the certificate of {} is not made out to",
                    self.0.authority
                ));
                call.end(status.code(), None);
                return Err(SendError::Failed(status));
            }
            if let Some(deadline) = deadline {
                let now = Instant::now();
                let since = told.map(|told| now.saturating_duration_since(told));
                if since.is_none_or(|since| since > Duration::from_millis(1)) {
                    set_grpc_timeout(request.headers_mut(), deadline.saturating_duration_since(now));
                }
            }
            match transport.send(request).await {
                Ok(response) => {
                    call.responded();
                    return Ok((response, call));
                }
                // The connection was lost just now: on another, or on none, if it was the last.
                Err(SendError::NotSent(unsent)) => {
                    call.off();
                    request = *unsent;
                }
                Err(error @ SendError::Unprocessed { .. }) => {
                    call.not_sent();
                    return Err(error);
                }
                Err(SendError::Failed(status)) => {
                    call.end(status.code(), None);
                    return Err(SendError::Failed(status));
                }
            }
        }
    }

    /// The connection for the next RPC, once there is room for it, and its place there, none if there is none; and
    /// whether it had to wait.
    async fn transport(&self) -> (Place, bool) {
        let shared = &self.0;
        if !shared.room.is_awaited()
            && let Found::At(place) = shared.find()
        {
            return (place, false);
        }
        let place = shared.room.join();
        // What becomes of those that were there when the subconn left READY, its task has said; later ones see it.
        if shared.condition().state != ConnectivityState::Ready {
            return (None, true);
        }
        (place.await.ok().flatten(), true)
    }
}

impl fmt::Debug for SubConn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.0.endpoint.load().addresses()[0].to_string();
        write!(f, "SubConn({} {address} {})", self.id(), self.state())
    }
}

impl PartialEq for SubConn {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for SubConn {}

/// Where an RPC is to be sent, and its stream there; none if there is no connection.
type Place = Option<(Arc<Transport>, InFlight)>;
/// Where RPCs wait for one.
type Places = Room<Place>;

enum Found {
    /// Send there, or nowhere if there is no connection.
    At(Place),
    /// All are full: wait for room on any of them, or for one more. Or the last of those that RPCs know of has just
    /// been lost, and the subconn's task is about to say what follows.
    Full,
}

impl Shared {
    /// Where RPCs go, as far as HTTP is concerned.
    fn origin(&self) -> Uri {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
        Uri::from_parts(parts).unwrap_or_default()
    }

    fn condition(&self) -> std::sync::MutexGuard<'_, Condition> {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn command(&self, command: Command) {
        // After SHUTDOWN no one listens, and nothing is left to be told.
        let _ = self.commands.send(command);
    }

    /// The connection with the fewest RPCs.
    fn find(&self) -> Found {
        let pool = self.pool.load();
        let load = |transport: &&Arc<Transport>| {
            let link = transport.link();
            (!link.has_room(), link.in_flight())
        };
        loop {
            let ready = pool.transports.iter().filter(|transport| transport.is_ready());
            match ready.min_by_key(load) {
                Some(transport) => match InFlight::on(transport.link()) {
                    Some(stream) => return Found::At(Some((Arc::clone(transport), stream))),
                    None if !transport.link().has_room() => return Found::Full,
                    // Another took the last of its streams, which has ended by now.
                    None => {}
                },
                None if self.condition().state == ConnectivityState::Ready => return Found::Full,
                None => return Found::At(None),
            }
        }
    }

    fn set_pool(&self, pool: Pool) {
        self.pool.store(Arc::new(pool));
    }

    /// Hands what is free to the RPCs that wait for it.
    fn hand_out(&self) {
        self.room.hand_out(|| match self.find() {
            Found::At(place) => Some(place),
            Found::Full => None,
        });
    }
}
