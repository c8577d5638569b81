//! One RPC: its deadline, its picks, its attempts.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::Status;
use tonic::body::Body;

use super::body::{RpcBody, deadline_exceeded};
use super::channel::{Channel, Shared};
use crate::balancer::{Command, Report};
use crate::connectivity::ConnectivityState;
use crate::headers;
use crate::http2::Received;
use crate::picker::{PickAttempt, PickInfo};
use crate::service_config::MethodConfig;
use crate::timeout::grpc_timeout;
use crate::transport::{self, Attempt, AttemptOptions, Replay, ReplayBody, SendError};

/// A request extension: whether the RPC is held while nothing is ready, instead of failing. It counts
/// for more than the service config's `waitForReady`, and that for more than
/// [`ChannelBuilder::wait_for_ready`](super::ChannelBuilder::wait_for_ready).
///
/// ```
/// use hotpick::channel::WaitForReady;
///
/// let mut request = tonic::Request::new(());
/// request.extensions_mut().insert(WaitForReady(true));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a flag")]
pub struct WaitForReady(pub bool);

/// How often an RPC is sent again because its connection ended before the peer looked at it. Once if the
/// peer had something against it: it refused its stream alone, or ended the connection with an error.
const UNPROCESSED: usize = 5;

impl tower_service::Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    /// Always ready: an RPC is picked for when it is there, with its metadata.
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move { shared.rpc(request).await })
    }
}

impl Shared {
    async fn rpc(&self, mut request: Request<Body>) -> Result<Response<Body>, Status> {
        let active = self.activity.begin()?;
        let begin = Instant::now();
        let own = grpc_timeout(request.headers()).and_then(|limit| begin.checked_add(limit));
        headers::prepare(request.headers_mut());

        let known = self.published.methods.load().as_ref().map(|methods| methods.of(request.uri().path()));
        let (config, now) = match known {
            Some(config) => (config, begin),
            None => {
                let config = self.method_config(request.uri().path());
                let config = match own {
                    None => config.await,
                    Some(at) => {
                        let config = self.timer(|| timeout_at(at, config));
                        config.await.map_err(|_| deadline_exceeded(None))?
                    }
                };
                (config, Instant::now())
            }
        };
        // The shorter of the two counts (`doc/service_config.md`).
        let configured = config.timeout.and_then(|limit| begin.checked_add(limit));
        let deadline = own.into_iter().chain(configured).min();
        // Not sent at all: a future with a deadline is polled once before that is looked at.
        if deadline.is_some_and(|at| at <= now) {
            return Err(deadline_exceeded(None));
        }
        let wait_for_ready = match request.extensions().get() {
            Some(WaitForReady(wait)) => *wait,
            None => config.wait_for_ready.unwrap_or(self.wait_for_ready),
        };
        let timeout_set_at = own.filter(|own| deadline == Some(*own)).map(|_| begin);
        let rpc = Rpc { now, deadline, wait_for_ready, timeout_set_at };
        let mut picking = PickAttempt::default();
        let sent = match deadline {
            None => self.send(request, rpc, &mut picking).await,
            Some(at) => {
                let sent = self.timer(|| timeout_at(at, self.send(request, rpc, &mut picking)));
                match sent.await {
                    Ok(sent) => sent,
                    Err(_) => return Err(deadline_exceeded(picking.error.as_ref())),
                }
            }
        };
        let (response, attempt, replay) = sent.map_err(|status| active.blame(status))?;
        let timer = || deadline.map(|at| self.timer(|| sleep_until(at)));
        RpcBody::wrap(response, attempt, replay, active, timer)
    }

    /// Makes something that goes by the clock, which needs a runtime: the caller's, or where it has none the channel's.
    fn timer<T>(&self, make: impl FnOnce() -> T) -> T {
        let _within = Handle::try_current().is_err().then(|| self.runtime.enter());
        make()
    }

    /// What the service config gives an RPC of this path, once the target has been resolved for the first time.
    async fn method_config(&self, path: &str) -> MethodConfig {
        let mut report = self.report.clone();
        loop {
            // A channel can go idle before it has been resolved; this RPC is what it waits for.
            let known = |report: &Report| {
                report.resolved
                    || matches!(report.state, ConnectivityState::Shutdown | ConnectivityState::Idle)
            };
            match report.wait_for(known).await.map(|report| (report.resolved, report.state)) {
                Ok((false, ConnectivityState::Idle)) => {
                    let _ = self.commands.send(Command::Connect);
                    let _ = report.changed().await;
                }
                // The latter when the balancer has gone: then the picker says so.
                Ok(_) | Err(_) => break,
            }
        }
        self.published.methods.load().as_ref().map(|methods| methods.of(path)).unwrap_or_default()
    }

    /// Picks and sends, again and again until the request has left; and again, so many times, if it left
    /// and the peer says that it did not look at it (gRFC A6, "transparent retries").
    async fn send(
        &self,
        request: Request<Body>,
        rpc: Rpc,
        picking: &mut PickAttempt,
    ) -> Result<(Response<Received>, Attempt, Replay), Status> {
        let (mut head, body) = request.into_parts();
        // They end here, and would be cloned for each attempt.
        head.extensions.clear();
        let (mut body, replay) = ReplayBody::new(body);
        let mut attempts_left = UNPROCESSED;
        let mut tried = Vec::new();
        let mut now = rpc.now;
        loop {
            let mut info = PickInfo {
                method: head.uri.path(),
                metadata: &head.headers,
                now,
                deadline: rpc.deadline,
                wait_for_ready: rpc.wait_for_ready,
                tried: &tried,
                requeued: picking.not_sent,
            };
            let pick = self.published.cell.pick_attempt(&mut info, picking).await?;
            let picked_at = info.now;

            // The head stays here: what the policy adds belongs to this attempt alone.
            let mut sent = Request::from_parts(head.clone(), body);
            // In place of the caller's: of two `authorization`s nobody knows which counts.
            for (name, _) in &pick.metadata {
                sent.headers_mut().remove(name);
            }
            for (name, value) in pick.metadata {
                sent.headers_mut().append(name, value);
            }
            let options = AttemptOptions {
                done: pick.done,
                picked_at,
                deadline: rpc.deadline,
                timeout_set_at: rpc.timeout_set_at,
            };
            match transport::send(&pick.subconn, sent, options).await {
                Ok((response, attempt)) => {
                    replay.commit();
                    return Ok((response, attempt, replay));
                }
                Err(SendError::NotSent(unsent)) => {
                    body = unsent.into_body();
                    picking.not_sent = true;
                }
                Err(SendError::Unprocessed { status, refused }) => {
                    // A server that refuses is not to be pressed; connections that end are another matter.
                    attempts_left = if refused { attempts_left.min(1) } else { attempts_left };
                    match replay.again().filter(|_| attempts_left > 0) {
                        Some(again) => body = again,
                        None => return Err(status),
                    }
                    attempts_left -= 1;
                    tried.push(pick.subconn.id());
                }
                // What the caller's own body failed with says more than how the stream then ended.
                Err(SendError::Failed(status)) => return Err(replay.take_error().unwrap_or(status)),
            }
            now = Instant::now();
        }
    }
}

/// What an RPC is sent with.
#[derive(Clone, Copy)]
struct Rpc {
    /// When it is first picked for.
    now: Instant,
    deadline: Option<Instant>,
    wait_for_ready: bool,
    /// When the request's own `grpc-timeout` was correct; `None` if another deadline counts.
    timeout_set_at: Option<Instant>,
}
