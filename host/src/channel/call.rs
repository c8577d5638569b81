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
use crate::picker::{PickInfo, PickState};
use crate::service_config::MethodConfig;
use crate::timeout::grpc_timeout;
use crate::transport::{self, Attempt, AttemptOptions, Replay, ReplayBody, SendError};

/// A request extension: whether the RPC is queued while nothing is ready, instead of failing. The extension overrides
/// the service config's `waitForReady`, which overrides
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

/// Maximum number of transparent retries of an RPC whose connection ended before the peer processed it. The maximum is
/// one if the peer refused the RPC: it refused only this stream, or ended the connection with an error.
const MAX_TRANSPARENT_RETRIES: usize = 5;

impl tower_service::Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    /// Returns ready at once: a subconn is picked in `call`, with the metadata of the RPC.
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
        let given = own.into_iter().chain(self.timeout.and_then(|limit| begin.checked_add(limit))).min();
        headers::prepare(request.headers_mut(), &self.user_agent);

        let known = self.published.methods.load().as_ref().map(|methods| methods.of(request.uri().path()));
        let (config, now) = match known {
            Some(config) => (config, begin),
            None => {
                let config = self.method_config(request.uri().path());
                let config = match given {
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
        let deadline = given.into_iter().chain(configured).min();
        // Not sent at all: a timeout polls its future once before it checks the deadline.
        if deadline.is_some_and(|at| at <= now) {
            return Err(deadline_exceeded(None));
        }
        let wait_for_ready = match request.extensions().get() {
            Some(WaitForReady(wait)) => *wait,
            None => config.wait_for_ready.unwrap_or(self.wait_for_ready),
        };
        let timeout_set_at = own.filter(|own| deadline == Some(*own)).map(|_| begin);
        let rpc = Rpc { now, deadline, wait_for_ready, timeout_set_at };
        let mut picking = PickState::default();
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

    /// Creates a timer, which needs a runtime: the caller's, or the channel's if the caller has none.
    fn timer<T>(&self, make: impl FnOnce() -> T) -> T {
        let _within = Handle::try_current().is_err().then(|| self.runtime.enter());
        make()
    }

    /// Waits until the target has been resolved for the first time, then returns the service config of this method.
    async fn method_config(&self, path: &str) -> MethodConfig {
        let mut report = self.report.clone();
        loop {
            // A channel can go idle before it has been resolved, and waits for an RPC such as this one.
            let known = |report: &Report| {
                report.resolved
                    || matches!(report.state, ConnectivityState::Shutdown | ConnectivityState::Idle)
            };
            match report.wait_for(known).await.map(|report| (report.resolved, report.state)) {
                Ok((false, ConnectivityState::Idle)) => {
                    let _ = self.commands.send(Command::Connect);
                    let _ = report.changed().await;
                }
                // `Err` when the balancer has ended, which the picker will report.
                Ok(_) | Err(_) => break,
            }
        }
        self.published.methods.load().as_ref().map(|methods| methods.of(path)).unwrap_or_default()
    }

    /// Picks a subconn and sends the request, re-picking until it is written. Retries at most [`MAX_TRANSPARENT_RETRIES`] times if
    /// the request was written but the peer did not process it (gRFC A6, "transparent retries").
    async fn send(
        &self,
        request: Request<Body>,
        rpc: Rpc,
        picking: &mut PickState,
    ) -> Result<(Response<Received>, Attempt, Replay), Status> {
        let (mut head, body) = request.into_parts();
        // Extensions are not sent, but would be cloned for each attempt.
        head.extensions.clear();
        let (mut body, replay) = ReplayBody::new(body);
        let mut attempts_left = MAX_TRANSPARENT_RETRIES;
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
            let pick = self.published.cell.pick_with(&mut info, picking).await?;
            let picked_at = info.now;

            // Clones the head, because metadata that the policy adds belongs to this attempt alone.
            let mut sent = Request::from_parts(head.clone(), body);
            // Replaces the caller's metadata: with two `authorization` headers it would be undefined which one counts.
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
                    // At most one retry after a refusal, so as not to press a server that refuses.
                    attempts_left = if refused { attempts_left.min(1) } else { attempts_left };
                    match replay.again().filter(|_| attempts_left > 0) {
                        Some(again) => body = again,
                        None => return Err(status),
                    }
                    attempts_left -= 1;
                    tried.push(pick.subconn.id());
                }
                // An error of the caller's request body says more than the resulting end of the stream.
                Err(SendError::Failed(status)) => return Err(replay.take_error().unwrap_or(status)),
            }
            now = Instant::now();
        }
    }
}

/// Parameters with which an RPC is sent.
#[derive(Clone, Copy)]
struct Rpc {
    /// Time of the first pick.
    now: Instant,
    deadline: Option<Instant>,
    wait_for_ready: bool,
    /// Time at which the request's own `grpc-timeout` was correct. `None`: another deadline counts.
    timeout_set_at: Option<Instant>,
}
