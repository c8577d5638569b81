//! One RPC: its deadline and its settings.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::Status;
use tonic::body::Body;

use super::body::{Begun, deadline_exceeded};
use super::channel::{Channel, Shared};
use super::sender::{Sender, Settings};
use crate::activity::Active;
use crate::balancer::{Command, Report};
use crate::call::CallRecorder;
use crate::connectivity::ConnectivityState;
use crate::headers;
use crate::picker::PickState;
use crate::retry::{CallPolicy, Gate, Throttle};
use crate::service_config::MethodConfig;
use crate::timeout::grpc_timeout;
use crate::waiting::Waits;

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
        // Made in its place: `Box::pin` would copy all of it there, and it is large.
        let place = Box::new_uninit();
        let future = Box::write(place, async move {
            let started = Instant::now();
            let mut record = CallRecorder::start(&shared.observers, &shared.target, &request, started);
            let answered = match shared.activity.begin() {
                Ok(active) => shared.answered(request, &mut record, started, active).await,
                Err(status) => Err(Failure::early(status)),
            };
            answered.map_err(|Failure { status, is_late }| {
                record.fail(&status, is_late);
                status
            })
        });
        Box::into_pin(future)
    }
}

/// Why an RPC failed before it had a response.
struct Failure {
    status: Status,
    /// The deadline has passed.
    is_late: bool,
}

impl Shared {
    /// Returns the response, once its headers have arrived. It then has the record.
    async fn answered(
        &self,
        mut request: Request<Body>,
        record: &mut CallRecorder,
        started: Instant,
        active: Active,
    ) -> Result<Response<Body>, Failure> {
        let own = grpc_timeout(request.headers()).and_then(|limit| started.checked_add(limit));
        let given = own.into_iter().chain(self.timeout.and_then(|limit| started.checked_add(limit))).min();
        headers::prepare(request.headers_mut(), &self.user_agent);

        let mut waits = self.waits();
        let (config, now) = match self.known_config(request.uri().path()) {
            Some(known) => (known, started),
            None => {
                record.set_deadline(given);
                let resolved = waits.wait(self.resolved());
                match given {
                    None => resolved.await.map_err(Failure::early)?,
                    Some(at) => {
                        let resolved = self.timer(|| timeout_at(at, resolved)).await;
                        resolved.map_err(|_| Failure::late(None))?.map_err(Failure::early)?;
                    }
                }
                let now = Instant::now();
                record.resolved(now.saturating_duration_since(started));
                (self.known_config(request.uri().path()).unwrap_or_default(), now)
            }
        };
        let (config, throttle) = config;
        // The shorter of the two counts (`doc/service_config.md`).
        let configured = config.timeout.and_then(|limit| started.checked_add(limit));
        let deadline = given.into_iter().chain(configured).min();
        record.set_deadline(deadline);
        // Not sent at all: a timeout polls its future once before it checks the deadline.
        if deadline.is_some_and(|at| at <= now) {
            return Err(Failure::late(None));
        }
        let wait_for_ready = match request.extensions().get() {
            Some(WaitForReady(wait)) => *wait,
            None => config.wait_for_ready.unwrap_or(self.wait_for_ready),
        };
        if self.activity.in_flight() > self.max_requests {
            let limit = self.max_requests;
            let text = format!("{limit} RPCs of the channel are in flight (max_requests)");
            return Err(Failure::early(Status::unavailable(text)));
        }
        let settings = Settings {
            now,
            deadline,
            wait_for_ready,
            timeout_set_at: own.filter(|own| deadline == Some(*own)).map(|_| started),
            policy: self.policy_of(config),
            gate: Gate { throttle, budget: self.budget.clone() },
        };
        settings.gate.begun();
        let throttled = settings.gate.throttled(settings.policy.as_ref());
        let sender = Sender::new(self, request, record, settings);
        let mut picking = PickState::new(record.is_observed());
        let sent = match deadline {
            None => sender.send(&mut picking, &mut waits).await,
            Some(at) => {
                let sent = self.timer(|| timeout_at(at, sender.send(&mut picking, &mut waits)));
                match sent.await {
                    Ok(sent) => sent,
                    Err(_) => return Err(Failure::late(picking.error.as_ref())),
                }
            }
        };
        let answered = sender.finish(sent).map_err(|status| Failure::early(active.blame(status)))?;
        let deadline = deadline.map(|at| self.timer(|| sleep_until(at)));
        let begun = Begun { answered, replay: sender.into_replay(), active, throttled, deadline };
        begun.response(std::mem::take(record)).map_err(Failure::early)
    }

    /// Returns the retry policy or hedging policy of an RPC.
    fn policy_of(&self, config: MethodConfig) -> Option<Arc<CallPolicy>> {
        let policy = config.policy.or_else(|| self.default_policy.clone());
        policy.filter(|_| self.retries.enabled)
    }

    pub(super) fn waits(&self) -> Waits<'_> {
        Waits::within(self.wait_limits.as_ref())
    }

    /// Creates a timer, which needs a runtime: the caller's, or the channel's if the caller has none.
    pub(super) fn timer<T>(&self, make: impl FnOnce() -> T) -> T {
        let _within = Handle::try_current().is_err().then(|| self.runtime.enter());
        make()
    }

    /// Returns the settings of the service config for this method. `None`: the target has not been resolved yet.
    fn known_config(&self, path: &str) -> Option<(MethodConfig, Option<Arc<Throttle>>)> {
        let methods = self.published.methods.load();
        methods.as_ref().map(|methods| (methods.configs.of(path), methods.throttle.clone()))
    }

    /// Waits until the target has been resolved for the first time.
    async fn resolved(&self) {
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
    }
}

impl Failure {
    const fn early(status: Status) -> Self {
        Self { status, is_late: false }
    }

    /// The deadline has passed. `last_error`: what the RPC waited for.
    fn late(last_error: Option<&Status>) -> Self {
        Self { status: deadline_exceeded(last_error), is_late: true }
    }
}
