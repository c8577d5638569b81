//! One HTTP/2 connection, on hyper: when it is ready, when it is lost, and what became of a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::SubConnOptions;
use super::frames::{Cut, Seen, Watched};
use super::replay::ReplayBody;

/// A connection before HTTP/2: TCP or Unix, with or without TLS.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// The body of a response as it comes from the connection.
pub(crate) type ResponseBody = hyper::body::Incoming;

/// Why a request got no response.
#[derive(Debug)]
pub(crate) enum SendError {
    /// It never left: here it is, to be picked again.
    NotSent(Box<http::Request<ReplayBody>>),
    /// It left, and the peer says that it has not looked at it.
    Unprocessed {
        status: Status,
        /// The peer refused the stream alone (REFUSED_STREAM), and may refuse the next one, too. If not,
        /// the connection is over, and the next one is another.
        refused: bool,
    },
    /// It left, or may have left.
    Failed(Status),
}

const A_DAY: Duration = Duration::from_secs(86_400);
/// What a server may send ahead of what the caller takes, for each RPC.
const WINDOW: u32 = 1 << 20;
/// As much as there can be: an RPC whose caller does not read must not stop the others of its connection.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// Of a response; gRPC's peers send status details in trailers, which may be long.
const MAX_HEADERS: u32 = 256 << 10;

/// How far a connection is.
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
    /// The same in few words, of which there are few.
    pub(super) kind: String,
    /// It carried at least one answer to an RPC.
    pub(super) answered: bool,
    /// The peer found us too eager (ENHANCE_YOUR_CALM).
    pub(super) too_many_pings: bool,
}

/// A connection that the peer has sent its SETTINGS on.
///
/// Dropping it ends the connection once its open streams are done.
#[derive(Debug)]
pub(super) struct Transport {
    sender: http2::SendRequest<ReplayBody>,
    link: Arc<Link>,
}

/// What the connection's task, the frames it reads, and the subconn share.
#[derive(Debug)]
pub(super) struct Link {
    phase: watch::Sender<Phase>,
    /// The same as `phase == Ready`, for the request path.
    ready: AtomicBool,
    answered: AtomicBool,
    /// RPCs under way on this connection.
    in_flight: AtomicU32,
    /// The peer's SETTINGS_MAX_CONCURRENT_STREAMS.
    max_streams: AtomicU32,
    /// For those who wait for room on any of the endpoint's connections.
    room: Arc<Notify>,
}

/// A stream that counts against the peer's limit, until it is dropped.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Link>);

impl InFlight {
    pub(super) fn on(link: &Arc<Link>) -> Self {
        // In one order with the look of who waits for room, and with the count of those who wait.
        link.in_flight.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(link))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

const ENHANCE_YOUR_CALM: u32 = 11;

impl Transport {
    /// Starts HTTP/2 on a connection, and waits for the peer's SETTINGS: until then nothing shows that it
    /// speaks HTTP/2. `abort` ends the connection at once, with its streams.
    pub(super) async fn start(
        io: Box<dyn Io>,
        options: &SubConnOptions,
        room: Arc<Notify>,
        abort: CancellationToken,
    ) -> Result<Self, String> {
        let link = Arc::new(Link::new(room));
        let frames = Arc::clone(&link);
        let cut = Cut::default();
        let io = TokioIo::new(Watched::new(io, cut.clone(), move |seen| frames.seen(seen)));
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADERS)
            // hyper adds it to a clock.
            .keep_alive_interval(options.keep_alive_interval.map(|interval| interval.min(A_DAY)))
            .keep_alive_timeout(options.keep_alive_timeout.min(A_DAY))
            .handshake(io)
            .await
            .map_err(|error| describe(&error))?;
        let driven = Driven(Arc::clone(&link));
        tokio::spawn(async move {
            let reason = match connection.await {
                Ok(()) => "closed by the peer".to_owned(),
                Err(error) => describe(&error),
            };
            driven.0.closed(reason);
        });
        // A task of its own: that of the connection wakes for every RPC, and ends before old streams do.
        tokio::spawn(async move {
            tokio::select! {
                () = abort.cancelled() => cut.cut(),
                () = cut.gone() => {}
            }
        });

        let mut phase = link.phase.subscribe();
        let phase = phase.wait_for(|phase| *phase != Phase::Handshake).await;
        match phase.as_deref() {
            Ok(Phase::Ready) => {
                drop(phase);
                Ok(Self { sender, link })
            }
            Ok(Phase::Closed { reason }) => Err(reason.clone()),
            Ok(Phase::GoingAway { .. } | Phase::Handshake) | Err(_) => {
                Err("the peer sent GOAWAY at once".to_owned())
            }
        }
    }

    /// What is known of the connection, to be kept beyond it.
    pub(super) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Whether a request sent now has a chance. Exact but for what is still on the wire.
    pub(super) fn is_ready(&self) -> bool {
        self.link.ready.load(Ordering::Acquire)
    }

    /// Sends a request and waits for the response's headers.
    pub(super) async fn send(
        self: Arc<Self>,
        request: http::Request<ReplayBody>,
    ) -> Result<http::Response<ResponseBody>, SendError> {
        if !self.is_ready() {
            return Err(SendError::NotSent(Box::new(request)));
        }
        let response = self.sender.clone().try_send_request(request);
        // A request that is handed over at the very moment when the connection ends stays in hyper's
        // channel until the last sender is gone, and only then comes back. So no one who waits for a
        // response may hold one.
        let link = Arc::clone(&self.link);
        drop(self);
        match response.await {
            Ok(response) => {
                // The load keeps the line shared: this runs for every RPC.
                if !link.answered.load(Ordering::Relaxed) {
                    link.answered.store(true, Ordering::Relaxed);
                }
                Ok(response)
            }
            Err(mut error) => Err(match error.take_message() {
                Some(request) => SendError::NotSent(Box::new(request)),
                None => failure(error.error()),
            }),
        }
    }

    /// Waits until the connection takes no new stream: GOAWAY, or its end.
    pub(super) async fn lost(&self) -> Loss {
        let mut phase = self.link.phase.subscribe();
        let lost = phase.wait_for(|phase| !matches!(phase, Phase::Handshake | Phase::Ready)).await;
        let (reason, code) = match lost.as_deref() {
            Ok(Phase::GoingAway { code }) => {
                (format!("the peer sent GOAWAY ({})", h2::Reason::from(*code)), Some(*code))
            }
            Ok(Phase::Closed { reason }) => (reason.clone(), None),
            Ok(Phase::Handshake | Phase::Ready) | Err(_) => ("closed".to_owned(), None),
        };
        let kind = match code {
            // By its name; a peer may send any number.
            Some(code) if code <= ENHANCE_YOUR_CALM + 2 => format!("GOAWAY {:?}", h2::Reason::from(code)),
            Some(_) => "GOAWAY".to_owned(),
            None => "connection lost".to_owned(),
        };
        let code = code.unwrap_or_default();
        Loss { reason, kind, answered: self.link.answered(), too_many_pings: code == ENHANCE_YOUR_CALM }
    }
}

/// Held by the task that drives the connection, which may end with its runtime.
struct Driven(Arc<Link>);

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.closed("its runtime has ended".to_owned());
    }
}

impl Link {
    fn new(room: Arc<Notify>) -> Self {
        Self {
            room,
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

    /// Whether it has carried an answer to an RPC.
    pub(super) fn answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// How many streams the peer allows at once; `u32::MAX` if it has not said.
    pub(super) fn max_streams(&self) -> u32 {
        self.max_streams.load(Ordering::SeqCst)
    }

    /// Whether the peer allows one more stream.
    pub(super) fn has_room(&self) -> bool {
        self.in_flight() < self.max_streams()
    }

    fn seen(&self, seen: Seen) {
        if let Seen::MaxStreams(max) = seen {
            self.max_streams.store(max, Ordering::SeqCst);
            self.room.notify_waiters();
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

/// The status of an RPC whose connection or stream failed with `error`.
///
/// A stream that was reset has the code that gRPC gives to the reason of the reset
/// (`doc/PROTOCOL-HTTP2.md`, "Errors"); all else is a lost connection and so UNAVAILABLE.
pub(crate) fn status_of(error: &hyper::Error) -> Status {
    let code = match h2_error(error) {
        Some(h2) if h2.is_reset() || h2.is_library() => match h2.reason() {
            Some(h2::Reason::REFUSED_STREAM) | None => Code::Unavailable,
            Some(h2::Reason::CANCEL) => Code::Cancelled,
            Some(h2::Reason::ENHANCE_YOUR_CALM) => Code::ResourceExhausted,
            Some(h2::Reason::INADEQUATE_SECURITY) => Code::PermissionDenied,
            Some(_) => Code::Internal,
        },
        _ => Code::Unavailable,
    };
    Status::new(code, format!("connection: {}", describe(error)))
}

/// What became of a request that is not given back: whether the peer says that it has not processed it
/// (RFC 9113, 6.8 and 8.7), or cannot have.
fn failure(error: &hyper::Error) -> SendError {
    let status = status_of(error);
    match h2_error(error) {
        Some(h2) if h2.is_remote() && h2.is_go_away() => SendError::Unprocessed { status, refused: false },
        Some(h2) if h2.is_remote() && h2.reason() == Some(h2::Reason::REFUSED_STREAM) => {
            SendError::Unprocessed { status, refused: true }
        }
        // hyper's word for a request that waited for a free stream when the connection ended.
        None if error.is_user() => SendError::Unprocessed { status, refused: false },
        _ => SendError::Failed(status),
    }
}

fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// An error with its causes, in one line.
fn describe(error: &hyper::Error) -> String {
    let mut text = String::new();
    for cause in causes(error) {
        let cause = cause.to_string();
        // Some errors repeat their cause's text.
        if !text.ends_with(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    text
}

fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}
