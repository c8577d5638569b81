//! The loop around the [state](super::state): waits for inputs, and carries out effects.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::choice::{Chooser, Sources};
use super::report::{Methods, Published, Report};
use super::starter::{StartEffect, StartRequest};
use super::state::State;
use super::step::{Effects, Input, PickerEffect, ResolverEffect, ResolverEvent};
use crate::activity::Activity;
use crate::connectivity::ConnectivityState;
use crate::lifecycle::{
    PickAgain, PickerBuilder, Placement, Policy as _, PolicyVersion, RoundRobin, StartError,
};
use crate::picker::{Fixed, Picker, WakeUp};
use crate::resolver::{ResolveNow, Resolver, ResolverStream, Target};
use crate::retry::Throttle;
use crate::service_config::{PolicyConfig, ServiceConfig};
use crate::subconn::{ReadySet, SubConn};
use crate::supervision::{self, guarded, guarded_task};
use crate::transport::{self, Dialer};
use crate::workers::{self, Task};

/// Parameters of the balancer.
pub(crate) struct Inputs {
    pub(crate) target: Target,
    pub(crate) resolver: Box<dyn Resolver>,
    pub(crate) policies: Sources,
    /// Used if the resolver provides no service config.
    pub(crate) config: ServiceConfig,
    /// How long RPCs wait for the first policy before round robin serves them.
    pub(crate) first_policy_timeout: Duration,
    /// How long a channel without RPCs stays connected.
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) dialer: Dialer,
    /// Sets the dialer's `health`.
    pub(crate) health: watch::Sender<Option<Arc<str>>>,
    pub(crate) activity: Arc<Activity>,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) closed: CancellationToken,
}

/// A request of the channel's user.
#[derive(Debug)]
pub(crate) enum Command {
    Connect,
    EnterIdle,
}

/// Balances until `closed`.
///
/// However it ends, with its channel, its runtime (even before its first poll) or a panic, no RPC is left
/// waiting: see the drop of [`Shell`].
pub(crate) fn run(
    inputs: Inputs,
    published: Arc<Published>,
    report: watch::Sender<Report>,
) -> impl Future<Output = ()> + Send {
    let Inputs { target, resolver, policies, config, first_policy_timeout, idle_timeout, .. } = inputs;
    let Inputs { dialer, health, activity, mut commands, closed, .. } = inputs;
    let (events, mut changed) = mpsc::unbounded_channel();
    let spawn = move |id, endpoint| transport::spawn(id, endpoint, dialer.clone(), events.clone());
    let mut shell = Shell {
        chooser: Chooser::new(&policies, &config.policies),
        sources: policies,
        state: State::new(target.to_string(), config, spawn),
        target: target.to_string(),
        version: Arc::new(RoundRobin::default().version()),
        builder: RoundRobin::builder(),
        starting: None,
        health,
        resolve_now: ResolveNow::default(),
        pick_again: PickAgain::default(),
        wake: Arc::default(),
        activity,
        published,
        report,
    };
    async move {
        let (wake, pick_again) = (Arc::clone(&shell.wake), shell.pick_again.clone());
        let mut policy_timeout = std::pin::pin!(sleep(first_policy_timeout));
        let idle_timeout = idle_timeout.unwrap_or(Duration::MAX);
        let mut idle_check = std::pin::pin!(sleep(idle_timeout));
        let watch = |shell: &Shell| {
            let watched = guarded("a resolver", || resolver.watch(&target, shell.resolve_now.clone()));
            watched.map_or(Watching::Panicked, Watching::Stream)
        };
        let mut watching = watch(&shell);
        let mut watch_again = None;
        loop {
            let retry_at = shell.state.starter.retry_at();
            // First the end, then rare inputs, so that a flood of frequent inputs cannot delay them.
            let input = tokio::select! {
                biased;
                () = closed.cancelled() => break,
                Some(command) = commands.recv() => match command {
                    Command::Connect => Input::Wake,
                    Command::EnterIdle => Input::Sleep,
                },
                result = ended(&mut shell.starting) => shell.started(result),
                () = due(retry_at) => Input::RetryStart,
                // A policy is tried with the endpoints before it gets RPCs.
                chosen = shell.chooser.next(), if shell.state.is_resolved() => Input::Chosen(chosen),
                event = next(&mut watching) => {
                    if matches!(event, ResolverEvent::Panicked) {
                        watch_again = Some(later(supervision::AGAIN));
                    }
                    Input::Resolver(event)
                }
                () = due(watch_again) => {
                    watch_again = None;
                    if !shell.state.idle {
                        watching = watch(&shell);
                    }
                    continue;
                }
                () = wake.notified() => Input::Wake,
                () = pick_again.requested() => Input::PickAgain,
                Some(id) = changed.recv() => {
                    let mut ids = vec![id];
                    ids.extend(std::iter::from_fn(|| changed.try_recv().ok()));
                    Input::SubConns(ids)
                }
                () = &mut policy_timeout, if shell.state.awaits_policy => {
                    let policies = names(shell.state.policies());
                    tracing::warn!(
                        policies,
                        "policy is not there in time: round robin serves until it is"
                    );
                    Input::FirstPolicyTimeout
                }
                () = &mut idle_check, if !shell.state.idle => {
                    idle_check.as_mut().reset(later(idle_timeout));
                    if !shell.activity.was_quiet() {
                        continue;
                    }
                    Input::Sleep
                }
            };
            let effects = shell.step(input);
            match effects.resolver {
                Some(ResolverEffect::Watch) => {
                    watching = watch(&shell);
                    idle_check.as_mut().reset(later(idle_timeout));
                }
                Some(ResolverEffect::Stop) => watching = Watching::Nothing,
                None => {}
            }
            if effects.restart_policy_timeout {
                policy_timeout.as_mut().reset(later(first_policy_timeout));
            }
            shell.apply(effects);
        }
    }
}

struct Shell {
    target: String,
    state: State,
    sources: Sources,
    chooser: Chooser,
    /// The active policy.
    version: Arc<PolicyVersion>,
    /// Builder of the active policy, or of the one that `starting` has just started.
    builder: Box<dyn PickerBuilder>,
    starting: Option<Starting>,
    health: watch::Sender<Option<Arc<str>>>,
    resolve_now: ResolveNow,
    pick_again: PickAgain,
    /// Notified when an RPC comes to an idle channel.
    wake: Arc<Notify>,
    activity: Arc<Activity>,
    published: Arc<Published>,
    report: watch::Sender<Report>,
}

/// The start of a policy, on a thread of [`workers`].
struct Starting {
    task: Task<StartResult>,
    cut: Arc<AtomicBool>,
}

type StartResult = Result<Box<dyn PickerBuilder>, StartError>;

/// A start ends with its channel.
impl Drop for Starting {
    fn drop(&mut self) {
        self.cut.store(true, Ordering::Relaxed);
    }
}

/// However the loop ends, with its channel, its runtime or a panic: no RPC waits for a picker that will not come.
impl Drop for Shell {
    fn drop(&mut self) {
        self.published.cell.publish(Arc::new(Fixed::Drop(self.activity.why_closed())));
        self.report.send_modify(|report| {
            report.state = ConnectivityState::Shutdown;
            // The policy's instance ends now, with its timers, and not with the last clone of the channel.
            if let Some(picker) = report.picker.take() {
                report.faults = picker.faults();
            }
        });
    }
}

impl Shell {
    fn step(&mut self, input: Input) -> Effects {
        self.state.lazy = self.builder.is_lazy();
        self.state.step(input, Instant::now())
    }

    /// Carries out effects, in the order of their fields.
    fn apply(&mut self, effects: Effects) {
        let Effects { config, follow, resolve_now, start, activated, refused, .. } = effects;
        let Effects { connect, disconnect, shutdown, notify, ready, picker, state, is_resolved, .. } =
            effects;
        if let Some((methods, health)) = config {
            let before = self.published.methods.load_full();
            let throttle = before.as_ref().and_then(|before| before.throttle.as_ref());
            let throttle = Throttle::follow(throttle, methods.throttling);
            self.published.methods.store(Some(Arc::new(Methods { configs: methods, throttle })));
            self.health.send_if_modified(|before| {
                let changed = *before != health;
                *before = health;
                changed
            });
        }
        if let Some(policies) = follow {
            self.chooser = Chooser::new(&self.sources, &policies);
        }
        if resolve_now {
            self.resolve_now.request();
        }
        match start {
            Some(StartEffect::Start(request)) => self.start(request, &ready),
            Some(StartEffect::Cut) => {
                if let Some(starting) = &self.starting {
                    starting.cut.store(true, Ordering::Relaxed);
                }
            }
            None => {}
        }
        connect.iter().for_each(SubConn::connect);
        disconnect.iter().for_each(SubConn::enter_idle);
        shutdown.iter().for_each(SubConn::shutdown);
        if let Some((version, _)) = &activated {
            self.version = Arc::new(version.clone());
        }
        let built = notify.then(|| self.build(&ready));
        // The picker is published before the state is reported, so that whoever waits for READY can pick.
        let can_pick = matches!(picker, PickerEffect::Policy | PickerEffect::Wake);
        let picker = self.publish(picker, built);
        self.report.send_modify(|report| {
            if let Some(refused) = refused {
                report.refused = refused;
            }
            if let Some((version, is_first)) = activated {
                // The first policy replaces only the initial round robin.
                report.swaps += u64::from(!is_first);
                report.policy = version;
                report.refused = None;
                report.picker = None;
            }
            report.state = state;
            report.can_pick = can_pick;
            report.resolved |= is_resolved;
            report.ready = ready;
            // While nothing is ready, the last picker reports the policy's faults.
            if picker.is_some() {
                report.picker = picker;
            }
        });
    }

    /// Publishes a picker. Returns it if it is the policy's.
    fn publish(&self, effect: PickerEffect, built: Option<Arc<dyn Picker>>) -> Option<Arc<dyn Picker>> {
        let cell = &self.published.cell;
        match (effect, built) {
            (PickerEffect::Policy, Some(picker)) => {
                cell.publish_of(Arc::clone(&picker), Some(Arc::clone(&self.version)));
                return Some(picker);
            }
            (PickerEffect::Wake, _) => cell.publish(Arc::new(WakeUp(Arc::clone(&self.wake)))),
            (PickerEffect::Fail(message), _) => {
                cell.publish(Arc::new(Fixed::Fail(Status::unavailable(message))));
            }
            (PickerEffect::Queue | PickerEffect::Policy, _) => cell.publish(Arc::new(Fixed::Queue)),
        }
        None
    }

    fn start(&mut self, request: StartRequest, ready: &ReadySet) {
        let mut placement = Placement::new(self.target.clone(), request.config.clone());
        placement.handover = self.builder.handover();
        placement.resolve_now = self.resolve_now.clone();
        placement.pick_again = self.pick_again.clone();
        let (policy, cut, ready) = (request.policy, Arc::clone(&placement.cut), ready.clone());
        let task = workers::start(move || policy.start(&placement, &ready));
        self.starting = Some(Starting { task, cut });
    }

    /// A start has ended. If it was wanted its builder replaces the previous one, whose instance ends with the last
    /// picker that uses it.
    fn started(&mut self, result: StartResult) -> Input {
        Input::StartEnded(result.map(|builder| {
            let lazy = builder.is_lazy();
            if self.state.starter.is_wanted() {
                self.builder = builder;
            }
            lazy
        }))
    }

    /// Builds the policy's picker. Guarded against panics, because a native policy may be any code.
    fn build(&mut self, ready: &ReadySet) -> Arc<dyn Picker> {
        guarded("a policy", || self.builder.build(ready))
            .unwrap_or_else(|| RoundRobin::builder().build(ready))
    }
}

/// Waits for the end of the start; forever if there is none. Cancel-safe.
async fn ended(starting: &mut Option<Starting>) -> StartResult {
    let Some(current) = starting else { return std::future::pending().await };
    let result = (&mut current.task).await;
    // The start has ended: dropping `Starting` must not set the flag, which the running policy still reads.
    current.cut = Arc::default();
    *starting = None;
    result.unwrap_or_else(|error| Err(StartError::new(format!("policy could not be started: {error}"))))
}

/// Returns the moment after this time; far away if there is no such moment.
fn later(after: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(86_400 * 365);
    Instant::now() + after.min(FAR)
}

/// The resolver, which may be a program's own code.
enum Watching {
    /// The channel is idle, or the resolver has ended or panicked.
    Nothing,
    Stream(ResolverStream),
    /// `watch` itself has panicked, which is not reported yet.
    Panicked,
}

/// Waits for the resolver; forever while it is not watched. Cancel-safe.
async fn next(watching: &mut Watching) -> ResolverEvent {
    match watching {
        Watching::Nothing => std::future::pending().await,
        Watching::Panicked => ResolverEvent::Panicked,
        Watching::Stream(stream) => match guarded_task("a resolver", stream.next()).await {
            Some(Some(update)) => ResolverEvent::Update(update),
            Some(None) => ResolverEvent::Ended,
            None => ResolverEvent::Panicked,
        },
    }
}

fn names(policies: &[PolicyConfig]) -> String {
    policies.iter().map(|policy| policy.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// Waits until this moment; forever if there is none. Cancel-safe.
async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
