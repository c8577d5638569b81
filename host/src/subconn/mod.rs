//! Subconns: one for each endpoint, connected by the host and kept across every change of policy.
//!
//! A [`SubConn`] is a cheap handle. Behind it one task owns the connection and its
//! state machine; everyone else reads the state and sends requests.

mod frames;
mod machine;
mod ready_set;
mod replay;
mod stats;
mod transport;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::uri::{Authority, Scheme};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use self::machine::{Machine, State};
use self::stats::Stats;
use self::transport::{KeepAlive, Transport};
use crate::connectivity::ConnectivityState;
use crate::resolver::Endpoint;

pub use self::machine::Backoff;
pub(crate) use self::ready_set::Changes;
pub use self::ready_set::ReadySet;
pub(crate) use self::replay::ReplayBody;
pub use self::stats::SubConnStats;
pub(crate) use self::transport::{ResponseBody, SendError, status_of};

/// How subconns connect.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SubConnOptions {
    /// The longest that an attempt to connect may take, until the peer's SETTINGS.
    pub connect_timeout: Duration,
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
    /// There while READY.
    transport: ArcSwapOption<Transport>,
    status: Mutex<Condition>,
    stats: Stats,
    connect: Notify,
    shutdown: CancellationToken,
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
        options: SubConnOptions,
        events: mpsc::UnboundedSender<u32>,
    ) -> Self {
        // An `Address` holds only what an authority may hold, but for an IPv6 zone.
        let authority = endpoint.addresses()[0].to_string().parse();
        let shared = Arc::new(Shared {
            id,
            endpoint: ArcSwap::from_pointee(endpoint),
            authority: authority.unwrap_or_else(|_| Authority::from_static("localhost")),
            transport: ArcSwapOption::empty(),
            status: Mutex::new(Condition { state: ConnectivityState::Idle, error: None }),
            stats: Stats::default(),
            connect: Notify::new(),
            shutdown: CancellationToken::new(),
        });
        tokio::spawn(run(Arc::clone(&shared), options, events));
        Self(shared)
    }

    /// The number by which policies know this subconn: unique in its channel, never reused.
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
        self.0.status().state
    }

    /// Why the last attempt failed or the last connection was lost.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.0.status().error.clone()
    }

    /// A reading of the counters.
    #[must_use]
    pub fn stats(&self) -> SubConnStats {
        self.0.stats.read()
    }

    /// Starts connecting if IDLE.
    pub(crate) fn connect(&self) {
        self.0.connect.notify_one();
    }

    /// New weight or attributes; the addresses, and so the connection, stay.
    pub(crate) fn update(&self, endpoint: Endpoint) {
        self.0.endpoint.store(Arc::new(endpoint));
    }

    /// Takes no new RPC from now on. RPCs under way finish.
    pub(crate) fn shutdown(&self) {
        self.0.shutdown.cancel();
    }

    /// Sends a request, to an authority of its own or else this endpoint's, and waits for the headers
    /// of the response. The [`Call`] counts the RPC as under way until it is told or dropped.
    pub(crate) async fn send(
        &self,
        mut request: http::Request<ReplayBody>,
    ) -> Result<(http::Response<ResponseBody>, Call), SendError> {
        let Some(transport) = self.0.transport.load_full() else {
            return Err(SendError::NotSent(Box::new(request)));
        };
        if request.uri().authority().is_none() {
            let mut parts = std::mem::take(request.uri_mut()).into_parts();
            parts.scheme = Some(Scheme::HTTP);
            parts.authority = Some(self.0.authority.clone());
            *request.uri_mut() = http::Uri::from_parts(parts)
                .map_err(|error| SendError::Failed(tonic::Status::internal(error.to_string())))?;
        }
        let call = Call::begin(Arc::clone(&self.0));
        match transport.send(request).await {
            Ok(response) => Ok((response, call)),
            Err(SendError::NotSent(request)) => {
                call.unsend();
                Err(SendError::NotSent(request))
            }
            Err(unprocessed @ SendError::Unprocessed { .. }) => {
                call.unsend();
                Err(unprocessed)
            }
            Err(failed @ SendError::Failed(_)) => Err(failed),
        }
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

/// An RPC under way on a subconn. Ends once: [`end`](Self::end) says how, a drop counts as a failure.
pub(crate) struct Call(Option<Arc<Shared>>);

impl Call {
    fn begin(shared: Arc<Shared>) -> Self {
        shared.stats.begin();
        Self(Some(shared))
    }

    fn unsend(mut self) {
        if let Some(shared) = self.0.take() {
            shared.stats.unsend();
        }
    }

    /// The RPC ended; `ok`: with status OK.
    pub(crate) fn end(&mut self, ok: bool) {
        if let Some(shared) = self.0.take() {
            shared.stats.end(ok);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(false);
    }
}

impl Shared {
    fn status(&self) -> std::sync::MutexGuard<'_, Condition> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task of one subconn.
async fn run(shared: Arc<Shared>, options: SubConnOptions, events: mpsc::UnboundedSender<u32>) {
    let mut machine = Machine::new(options.backoff);
    let mut keep_alive = KeepAlive {
        interval: options.keep_alive_interval,
        timeout: options.keep_alive_timeout,
        tcp: options.dead_after,
    };
    let mut transport = None;
    loop {
        // The transport first: who sees READY must be able to send.
        shared.transport.store(transport.clone());
        shared.status().state = machine.state().into();
        // No one listens once the channel is gone, and then `shutdown` is near.
        let _ = events.send(shared.id);
        match machine.state() {
            State::Idle => tokio::select! {
                biased;
                () = shared.shutdown.cancelled() => machine.shutdown(),
                () = shared.connect.notified() => machine.connect(),
            },
            State::Connecting => tokio::select! {
                biased;
                () = shared.shutdown.cancelled() => machine.shutdown(),
                result = dial(&shared, options.connect_timeout, keep_alive) => match result {
                    Ok(connected) => {
                        transport = Some(Arc::new(connected));
                        machine.connected(Instant::now());
                    }
                    Err(error) => {
                        tracing::debug!(%error, "subconn failed");
                        shared.status().error = Some(error);
                        machine.failed(Instant::now(), fastrand::f64());
                    }
                },
            },
            State::Ready { .. } => {
                // READY without a transport cannot be: both are set together.
                let Some(connected) = transport.take() else { return };
                tokio::select! {
                    biased;
                    () = shared.shutdown.cancelled() => machine.shutdown(),
                    loss = connected.lost() => {
                        let address = shared.endpoint.load().addresses()[0].to_string();
                        tracing::debug!(address, reason = loss.reason, "subconn lost");
                        if loss.too_many_pings {
                            keep_alive.interval = keep_alive.interval.map(|interval| interval.saturating_mul(2));
                        }
                        shared.status().error = Some(format!("connection to {address} lost: {}", loss.reason));
                        machine.lost(Instant::now(), loss.answered, fastrand::f64());
                    }
                }
            }
            State::TransientFailure { until } => tokio::select! {
                biased;
                () = shared.shutdown.cancelled() => machine.shutdown(),
                () = sleep_until(until) => machine.tick(Instant::now()),
            },
            State::Shutdown => return,
        }
    }
}

/// Tries the endpoint's addresses in turn.
async fn dial(shared: &Shared, limit: Duration, keep_alive: KeepAlive) -> Result<Transport, String> {
    shared.stats.dialled();
    let endpoint = shared.endpoint.load_full();
    let attempt = async {
        let mut last = String::new();
        for address in endpoint.addresses() {
            match Transport::connect(address, keep_alive).await {
                Ok(transport) => return Ok(transport),
                Err(error) => last = error.to_string(),
            }
        }
        Err(last)
    };
    timeout(limit, attempt).await.unwrap_or_else(|_| {
        let address = &endpoint.addresses()[0];
        Err(format!("connect to {address}: no HTTP/2 SETTINGS within {limit:?}"))
    })
}
