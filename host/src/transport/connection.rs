//! One HTTP/2 connection, on h2: whether it is ready, how it was lost, and how a request on it ended.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Ping, PingPong};
use http::uri::Authority;
use http_body::Body as _;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::options::SubConnOptions;
use super::replay::ReplayBody;
use super::stream_queue::StreamSignal;
use crate::http2::{Cut, Received, Seen, Sending, Side, Traffic, Wire, client, describe, status_of};
use crate::net::Io;
use crate::tls::PeerCertificate;

/// Why a request got no response.
#[derive(Debug)]
pub(crate) enum SendError {
    /// The request was not sent. It is returned, and can be picked again.
    NotSent(Box<http::Request<ReplayBody>>),
    /// The request was sent, and the peer reports that it did not process it.
    Unprocessed {
        status: Status,
        /// Whether the peer refused the stream (REFUSED_STREAM), or ended the connection with an error. Then it may
        /// refuse a retry as well. If `false`, only the connection has ended, and a retry goes to another one.
        refused: bool,
    },
    /// The request was sent, or may have been sent.
    Failed(Status),
    /// The request was not sent, and must not be sent again: a limit of this side forbids it.
    Dropped(Status),
}

/// Phase of a connection's life.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Handshake,
    Ready,
    GoingAway { code: u32 },
    Closed { reason: String },
}

/// How a connection that was ready ended.
#[derive(Debug)]
pub(super) struct Loss {
    pub(super) reason: String,
    /// The reason as one of few values, for metrics.
    pub(super) kind: String,
    /// Whether the connection carried a response to an RPC.
    pub(super) answered: bool,
    /// Whether the peer received too many PINGs (ENHANCE_YOUR_CALM).
    pub(super) too_many_pings: bool,
}

/// A connection on which the peer has sent its SETTINGS.
///
/// After a drop, the connection ends when its open streams are done.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Bytes>,
    state: Arc<ConnectionState>,
    /// The peer's certificate, if the connection is encrypted.
    certificate: Option<PeerCertificate>,
    /// The channel's runtime. It finishes what a caller leaves behind, because the caller's runtime may end.
    runtime: Handle,
}

/// State of a connection that its task, its frame reader and the subconn share.
#[derive(Debug)]
pub(super) struct ConnectionState {
    phase: watch::Sender<Phase>,
    /// The same as `phase == Ready`, for the request path.
    ready: AtomicBool,
    answered: AtomicBool,
    /// RPCs in flight on this connection.
    in_flight: AtomicU32,
    /// The peer's SETTINGS_MAX_CONCURRENT_STREAMS.
    max_streams: AtomicU32,
    /// Notifies RPCs that wait for a free stream on any of the endpoint's connections.
    signal: Arc<StreamSignal>,
}

/// A permit for one stream, which counts against the peer's limit until it is dropped.
#[derive(Debug)]
pub(super) struct StreamPermit(Arc<ConnectionState>);

impl StreamPermit {
    /// Takes a permit. `None`: the peer allows no more streams.
    pub(super) fn take(state: &Arc<ConnectionState>) -> Option<Self> {
        let max = state.max_streams();
        let more = |count: u32| (count < max).then(|| count + 1);
        // SeqCst, because the number of waiters is read after this counter and must not be reordered with it.
        state.in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok()?;
        Some(Self(Arc::clone(state)))
    }

    /// Takes a permit without a check of the limit, for a stream that has priority over RPCs.
    pub(super) fn take_unchecked(state: &Arc<ConnectionState>) -> Self {
        state.in_flight.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(state))
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.0.signal.stream_freed();
    }
}

const ENHANCE_YOUR_CALM: u32 = 11;

/// Detects that the peer is gone, with PINGs.
struct KeepAlive {
    /// Longest time without a read, time of the last read, and the sender of PINGs. `None`: keep-alive is off.
    pings: Option<((Duration, Traffic), PingPong)>,
    timeout: Duration,
    state: Arc<ConnectionState>,
}

impl KeepAlive {
    /// Returns why the connection must be given up. Waits forever if keep-alive is off.
    async fn watch(self) -> String {
        let Some(((interval, last_read), mut pings)) = self.pings else {
            return std::future::pending().await;
        };
        loop {
            let quiet = last_read.quiet_for();
            if quiet < interval {
                sleep(interval.saturating_sub(quiet)).await;
            } else if self.state.in_flight() == 0 {
                sleep(interval).await;
            } else {
                match timeout(self.timeout, pings.ping(Ping::opaque())).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => return describe(&error),
                    Err(_) => return "keep-alive timed out".to_owned(),
                }
            }
        }
    }
}

/// Text of h2's error for a connection that has no stream IDs left.
const NO_NUMBER: &str = "stream ID overflowed";

/// Reason of a connection that the peer closed without an error.
const CLOSED: &str = "closed by the peer";

impl Connection {
    /// Starts HTTP/2 on a connection, and waits for the peer's SETTINGS, which show that the peer speaks HTTP/2.
    /// `abort` ends the connection at once, with its streams.
    pub(super) async fn start(
        io: Box<dyn Io>,
        certificate: Option<PeerCertificate>,
        options: &SubConnOptions,
        signal: Arc<StreamSignal>,
        abort: CancellationToken,
    ) -> Result<Self, String> {
        let state = Arc::new(ConnectionState::new(signal));
        let frames = Arc::clone(&state);
        let cut = Cut::default();
        let last_read = options.keep_alive_interval.map(|_| Traffic::default());
        let io = Wire::new(io, Side::Client, cut.clone(), last_read.clone(), move |seen| frames.seen(seen))
            .with_max_header_list(options.max_header_list);
        let (sender, mut connection) =
            client::builder(options.http2()).handshake(io).await.map_err(|error| describe(&error))?;
        let pings = options.keep_alive_interval.zip(last_read).zip(connection.ping_pong());
        let alive = KeepAlive { pings, timeout: options.keep_alive_timeout, state: Arc::clone(&state) };
        let driven = Driven(Arc::clone(&state));
        tokio::spawn(async move {
            let reason = match connection.await {
                Ok(()) => CLOSED.to_owned(),
                Err(error) => describe(&error),
            };
            driven.0.closed(reason);
        });
        // In a separate task, because the connection's task wakes for every RPC, and ends before old streams do.
        tokio::spawn(async move {
            let why = tokio::select! {
                () = abort.cancelled() => "closed".to_owned(),
                dead = alive.watch() => dead,
                () = cut.gone() => return,
            };
            cut.cut(why);
        });

        let mut phase = state.phase.subscribe();
        let phase = phase.wait_for(|phase| *phase != Phase::Handshake).await;
        match phase.as_deref() {
            Ok(Phase::Ready) => {
                drop(phase);
                Ok(Self { sender, state, certificate, runtime: Handle::current() })
            }
            Ok(Phase::Closed { reason }) if *reason == CLOSED || reason.contains("reset") => Err(format!(
                "{reason} before its first frame: it may not speak HTTP/2, or require TLS or a certificate"
            )),
            Ok(Phase::Closed { reason }) => Err(reason.clone()),
            Ok(Phase::GoingAway { .. } | Phase::Handshake) | Err(_) => {
                Err("the peer sent GOAWAY at once".to_owned())
            }
        }
    }

    /// Returns the shared state, which may outlive the connection.
    pub(super) fn state(&self) -> &Arc<ConnectionState> {
        &self.state
    }

    /// Returns whether RPCs with this authority, which is not the connection's own, may be sent (gRFC A81).
    pub(super) fn may_serve(&self, authority: &Authority) -> bool {
        self.certificate.as_ref().is_none_or(|certificate| certificate.is_valid_for(authority.host()))
    }

    /// Returns whether the connection takes requests. A GOAWAY that is still on the wire is not known yet.
    pub(super) fn is_ready(&self) -> bool {
        self.state.ready.load(Ordering::Acquire)
    }

    /// Sends a request and waits for the response headers.
    pub(super) async fn send(
        &self,
        request: http::Request<ReplayBody>,
    ) -> Result<http::Response<Received>, SendError> {
        let (mut response, mut request) = self.open_stream(request)?;
        let (mut begun, mut is_whole) = (false, request.is_none());
        let response = std::future::poll_fn(|cx| {
            if let Some(request) = &mut request
                && !is_whole
            {
                let rest = if begun { request.poll_finish(cx) } else { request.begin(cx) };
                begun = true;
                is_whole = rest == Poll::Ready(());
            }
            Pin::new(&mut response).poll(cx)
        })
        .await;
        if let Some(request) = request.filter(|_| !is_whole) {
            // The peer has answered before it received the whole request.
            self.runtime.spawn(request.finish());
        }
        match response {
            Ok(response) => {
                // Runs for every RPC: the load avoids a write to a shared cache line.
                if !self.state.answered.load(Ordering::Relaxed) {
                    self.state.answered.store(true, Ordering::Relaxed);
                }
                Ok(response.map(Received::new))
            }
            Err(error) => Err(failure(&error)),
        }
    }

    /// Opens a stream for a request.
    fn open_stream(
        &self,
        request: http::Request<ReplayBody>,
    ) -> Result<(ResponseFuture, Option<Sending<ReplayBody>>), SendError> {
        if !self.is_ready() {
            return Err(SendError::NotSent(Box::new(request)));
        }
        // A clone, because a sender that has opened a stream would wait in `poll_ready` until the peer accepts that
        // stream, and would take the place of another waiter.
        let mut sender = self.sender.clone();
        if let Poll::Ready(Err(error)) = sender.poll_ready(&mut Context::from_waker(Waker::noop())) {
            // The connection failed, or has no stream IDs left. Both need a new connection.
            self.state.closed(describe(&error));
            return Err(SendError::NotSent(Box::new(request)));
        }
        let (head, body) = request.into_parts();
        let is_all = body.is_end_stream();
        match sender.send_request(http::Request::from_parts(head, ()), is_all) {
            Ok((response, stream)) => Ok((response, (!is_all).then(|| Sending::new(body, stream)))),
            // Other RPCs have taken the last stream IDs meanwhile. Nothing was sent.
            Err(error) if error.to_string().contains(NO_NUMBER) => {
                self.state.closed(describe(&error));
                Err(SendError::Unprocessed { status: status_of(&error), refused: false })
            }
            // h2 rejects the request itself: no connection can send it.
            Err(error) if !error.is_io() && !error.is_go_away() => {
                Err(SendError::Failed(Status::internal(format!("invalid request: {}", describe(&error)))))
            }
            // Nothing was sent.
            Err(error) => Err(SendError::Unprocessed { status: status_of(&error), refused: false }),
        }
    }

    /// Waits until the connection takes no new streams, after GOAWAY or its end. Returns why.
    pub(super) async fn lost(&self) -> Loss {
        let mut phase = self.state.phase.subscribe();
        let lost = phase.wait_for(|phase| !matches!(phase, Phase::Handshake | Phase::Ready)).await;
        let (reason, code) = match lost.as_deref() {
            Ok(Phase::GoingAway { code }) => {
                (format!("the peer sent GOAWAY ({})", h2::Reason::from(*code)), Some(*code))
            }
            Ok(Phase::Closed { reason }) => (reason.clone(), None),
            Ok(Phase::Handshake | Phase::Ready) | Err(_) => ("closed".to_owned(), None),
        };
        let kind = match code {
            // Only known codes by name: a peer may send any number, and the set of kinds must stay small.
            Some(code) if code <= ENHANCE_YOUR_CALM + 2 => format!("GOAWAY {:?}", h2::Reason::from(code)),
            Some(_) => "GOAWAY".to_owned(),
            None => "connection lost".to_owned(),
        };
        let code = code.unwrap_or_default();
        Loss { reason, kind, answered: self.state.answered(), too_many_pings: code == ENHANCE_YOUR_CALM }
    }
}

/// Guard in the task that drives the connection. Reports the end if the task ends with its runtime.
struct Driven(Arc<ConnectionState>);

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.closed("the connection's runtime has ended".to_owned());
    }
}

impl ConnectionState {
    fn new(signal: Arc<StreamSignal>) -> Self {
        Self {
            signal,
            phase: watch::Sender::new(Phase::Handshake),
            ready: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            in_flight: AtomicU32::new(0),
            max_streams: AtomicU32::new(u32::MAX),
        }
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Returns whether the connection has carried a response to an RPC.
    pub(super) fn answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// Returns the number of concurrent streams that the peer allows; `u32::MAX` if it has set no limit.
    pub(super) fn max_streams(&self) -> u32 {
        self.max_streams.load(Ordering::SeqCst)
    }

    /// Returns whether the peer allows another stream.
    pub(super) fn has_free_stream(&self) -> bool {
        self.in_flight() < self.max_streams()
    }

    fn seen(&self, seen: Seen) {
        if let Seen::MaxStreams(max) = seen {
            self.max_streams.store(max, Ordering::SeqCst);
            self.signal.stream_freed();
            return;
        }
        self.phase.send_if_modified(|phase| {
            match (&phase, seen) {
                (Phase::Handshake, Seen::Settings) => {
                    *phase = Phase::Ready;
                    self.ready.store(true, Ordering::Release);
                }
                (Phase::Handshake | Phase::Ready, Seen::GoAway { code, .. }) => {
                    *phase = Phase::GoingAway { code };
                    self.ready.store(false, Ordering::Release);
                }
                _ => return false,
            }
            true
        });
    }

    fn closed(&self, reason: String) {
        self.ready.store(false, Ordering::Release);
        self.phase.send_if_modified(|phase| {
            let first = !matches!(phase, Phase::GoingAway { .. } | Phase::Closed { .. });
            if first {
                *phase = Phase::Closed { reason };
            }
            first
        });
    }
}

/// Converts the error of a request that was sent. It is [`SendError::Unprocessed`] if the peer reports that it did not
/// process the request (RFC 9113, 6.8 and 8.7).
fn failure(error: &h2::Error) -> SendError {
    let status = status_of(error);
    if error.is_remote() && error.is_go_away() {
        let refused = error.reason().is_some_and(|reason| reason != h2::Reason::NO_ERROR);
        SendError::Unprocessed { status, refused }
    } else if error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM) {
        SendError::Unprocessed { status, refused: true }
    } else {
        SendError::Failed(status)
    }
}
