//! One connection of a client.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use h2::RecvStream;
use h2::server::{Connection, SendResponse};
use http::{Request, Response};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

use super::admission::Shared;
use super::options::{Client, ConnectionError};
use super::rpc;
use super::upload::Upload;
use crate::call::Peer;
use crate::http2::{Cut, Received, Seen, Sending, Side, Traffic, Wire, describe, server};
use crate::net::{BoxedIo, Undelivered};

/// Phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The client's SETTINGS have not arrived yet.
    Opening,
    Open,
    /// The client was notified to start no more RPCs.
    Draining,
}

/// Maximum number of RPC tasks at once: the RPCs that a client may have, and as many tasks whose RPC the client has
/// reset but that have not ended yet.
const MAX_TASKS: usize = 2 * server::MAX_STREAMS as usize;

/// A connection without RPCs drains for this many times the grace period at most, whatever the client sends.
const DRAINS: u32 = 3;

/// How often to look whether the client has the last answers.
const LOOK: Duration = Duration::from_millis(100);

/// Serves a connection until it ends.
///
/// Nothing of it is generic, and its future is boxed: so all that an RPC passes is compiled in this crate, with this crate's
/// settings, and not once more in each program.
pub(super) fn serve(
    proxy: Arc<Shared>,
    io: BoxedIo,
    client: Client,
    drain: BoxFuture<'_, ()>,
) -> BoxFuture<'_, Result<(), ConnectionError>> {
    Box::pin(run(proxy, io, client, drain))
}

async fn run(
    proxy: Arc<Shared>,
    io: BoxedIo,
    client: Client,
    mut drain: BoxFuture<'_, ()>,
) -> Result<(), ConnectionError> {
    let opened = Instant::now();
    let options = proxy.options;
    let traffic = Traffic::default();
    let has_settings = Arc::new(AtomicBool::new(false));
    let seen = {
        let (has_settings, traffic) = (Arc::clone(&has_settings), traffic.clone());
        move |seen| match seen {
            Seen::Settings => has_settings.store(true, Ordering::Relaxed),
            Seen::Reset(stream) => traffic.answered(stream),
            Seen::MaxStreams(_) | Seen::GoAway { .. } => {}
        }
    };
    let wire = Wire::new(io, Side::Server, Cut::default(), Some(traffic.clone()), seen);
    let handshake = server::builder().handshake::<_, Bytes>(wire);
    let mut connection = tokio::select! {
        opened = timeout(options.handshake_timeout, handshake) => match opened {
            Ok(connection) => connection.map_err(failed)?,
            Err(_) => return Err(ConnectionError::Handshake(options.handshake_timeout)),
        },
        // No RPC has started on this connection.
        () = &mut drain => return Ok(()),
    };

    // Ends streams of the proxy itself, which the client would not end.
    let drains = Arc::new(CancellationToken::new());
    // Dropping the set ends the RPCs that are left.
    let mut rpcs = JoinSet::new();
    let mut phase = Phase::Opening;
    let Client { peer, undelivered } = client;
    // Since when the client of a draining connection has had the answers to all its RPCs.
    let mut idle_since = None;
    loop {
        let look_at = match phase {
            Phase::Opening if has_settings.load(Ordering::Relaxed) => {
                phase = Phase::Open;
                continue;
            }
            Phase::Opening => Some(opened + options.handshake_timeout),
            Phase::Open => None,
            Phase::Draining if rpcs.is_empty() && has_all(&traffic, undelivered.as_ref()) => {
                let idle = idle_since.get_or_insert_with(Instant::now).elapsed();
                // What the client did, or did not do, before it was notified says nothing.
                let left = options.drain_timeout.saturating_sub(traffic.quiet_for().min(idle));
                let left = left.min(options.drain_timeout.saturating_mul(DRAINS).saturating_sub(idle));
                if left.is_zero() {
                    return Ok(());
                }
                Some(Instant::now() + left)
            }
            Phase::Draining => {
                idle_since = None;
                rpcs.is_empty().then(|| Instant::now() + LOOK)
            }
        };
        let is_full = rpcs.len() >= MAX_TASKS;
        tokio::select! {
            // The branches that are ready most often come first.
            biased;
            accepted = accept(&mut connection, is_full) => match accepted {
                Some(Ok((request, respond))) => {
                    let asked = Asked::of(&traffic, &respond);
                    rpcs.spawn(answer(Arc::clone(&proxy), peer, Arc::clone(&drains), asked, request, respond));
                }
                Some(Err(error)) => return Err(failed(error)),
                None => return Ok(()),
            },
            Some(_) = rpcs.join_next() => {}
            () = sleep_until(look_at.unwrap_or(opened)), if look_at.is_some() => {
                if phase == Phase::Opening && !has_settings.load(Ordering::Relaxed) {
                    return Err(ConnectionError::Handshake(options.handshake_timeout));
                }
            }
            () = &mut drain, if phase != Phase::Draining => {
                if phase == Phase::Opening && !has_settings.load(Ordering::Relaxed) {
                    return Ok(());
                }
                connection.graceful_shutdown();
                traffic.linger();
                drains.cancel();
                phase = Phase::Draining;
            }
        }
    }
}

/// Returns whether a client has all answers: they are written, as far as its windows allow, and delivered.
fn has_all(traffic: &Traffic, undelivered: Option<&Undelivered>) -> bool {
    traffic.is_answered()
        && undelivered.is_none_or(|undelivered| undelivered.bytes() <= traffic.after_answer())
}

/// A request that is unanswered.
struct Asked {
    traffic: Traffic,
    stream: u32,
}

impl Asked {
    fn of(traffic: &Traffic, respond: &SendResponse<Bytes>) -> Self {
        let stream = respond.stream_id().as_u32();
        traffic.asked(stream);
        Self { traffic: traffic.clone(), stream }
    }

    /// The stream is over, and nothing more of it is written.
    fn needs_no_answer(&self) {
        self.traffic.answered(self.stream);
    }
}

fn failed(error: h2::Error) -> ConnectionError {
    ConnectionError::Http2 { message: describe(&error), source: error.into() }
}

/// Accepts the next RPC. Returns `None` at the end of the connection. If `is_full`, only drives the connection.
async fn accept<T: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut Connection<T, Bytes>,
    is_full: bool,
) -> Option<Result<(Request<RecvStream>, SendResponse<Bytes>), h2::Error>> {
    if is_full {
        poll_fn(|cx| connection.poll_closed(cx)).await.err().map(Err)
    } else {
        connection.accept().await
    }
}

/// Serves one RPC, until the end of its response is handed to h2 or the client has reset the stream.
async fn answer(
    proxy: Arc<Shared>,
    peer: Peer,
    drains: Arc<CancellationToken>,
    asked: Asked,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let (head, stream) = request.into_parts();
    let (body, mut gatherer) = if stream.is_end_stream() {
        (Body::empty(), None)
    } else {
        let (upload, gatherer) = Upload::new(Received::new(stream));
        (Body::new(upload), Some(gatherer))
    };
    let mut gather = move |cx: &Context<'_>| {
        gatherer.take_if(|gatherer| !gatherer.gather(cx));
    };
    let response = {
        let mut call = pin!(rpc::call(proxy, peer, drains, Request::from_parts(head, body)));
        poll_fn(|cx| {
            if respond.poll_reset(cx).is_ready() {
                return Poll::Ready(None);
            }
            let response = call.as_mut().poll(cx);
            if response.is_pending() {
                gather(cx);
            }
            response.map(Some)
        })
        .await
    };
    let Some(response) = response else { return asked.needs_no_answer() };
    let (head, body) = response.into_parts();
    let is_all = body.is_end_stream();
    match respond.send_response(Response::from_parts(head, ()), is_all) {
        Ok(_) if is_all => {}
        Ok(stream) => {
            let mut sending = Sending::new(body, stream);
            let mut begun = false;
            poll_fn(|cx| {
                let is_begun = std::mem::replace(&mut begun, true);
                let sent = if is_begun { sending.poll_finish(cx) } else { sending.begin(cx) };
                if sent.is_pending() {
                    gather(cx);
                }
                sent
            })
            .await;
        }
        // The stream is over, or the headers are not valid in HTTP/2.
        Err(error) => {
            tracing::debug!(%error, "failed to send a response");
            respond.send_reset(h2::Reason::INTERNAL_ERROR);
            asked.needs_no_answer();
        }
    }
}
