//! The loop that owns all mutable balancing state of a channel.
//!
//! Endpoints come in from the resolver, policies from the directory, states from the subconns; what goes
//! out is one immutable value, the current picker, and a report for whoever asks.

mod choice;
mod members;
mod starts;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_core::Stream;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use self::choice::{Choice, Chosen};
use self::members::Members;
use self::starts::{Candidate, Starts, Step};
use crate::activity::Activity;
use crate::connectivity::ConnectivityState;
use crate::picker::{
    Always, Faults, PickAgain, Picker, PickerBuilder, PickerCell, Placement, Policy, PolicyVersion,
    RoundRobin, StartError, Wakes,
};
use crate::policy_dir::PolicyUpdate;
use crate::resolver::{Endpoint, ResolveNow, Resolver, ResolverStream, ResolverUpdate, Target};
use crate::service_config::{MethodConfigs, PolicyConfig, ServiceConfig};
use crate::subconn::{ReadySet, SubConn};
use crate::supervision::{self, guarded, guarded_task};
use crate::text::clip;
use crate::transport::{self, Dialer};

pub(crate) use self::choice::Known;

/// The news of a channel's policy.
pub(crate) type PolicyStream = Pin<Box<dyn Stream<Item = PolicyUpdate> + Send>>;

/// What the balancer is given to work with.
pub(crate) struct Inputs {
    pub(crate) target: Target,
    pub(crate) resolver: Box<dyn Resolver>,
    pub(crate) policies: Known,
    /// Used where the resolver gives none.
    pub(crate) config: ServiceConfig,
    /// How long RPCs wait for the first policy before round robin serves them.
    pub(crate) patience: Duration,
    /// How long a channel without RPCs stays connected.
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) dialer: Dialer,
    /// What the dialer's `health` follows.
    pub(crate) health: watch::Sender<Option<Arc<str>>>,
    pub(crate) activity: Arc<Activity>,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) closed: CancellationToken,
}

/// What a channel is told by its user.
#[derive(Debug)]
pub(crate) enum Command {
    Connect,
    EnterIdle,
}

/// What RPCs read.
#[derive(Debug, Default)]
pub(crate) struct Published {
    pub(crate) cell: PickerCell,
    /// None until the target has been resolved for the first time.
    pub(crate) methods: ArcSwapOption<MethodConfigs>,
}

/// How the channel is, as of the last change.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) state: ConnectivityState,
    /// The resolver has answered, if only with an error.
    pub(crate) resolved: bool,
    pub(crate) policy: PolicyVersion,
    pub(crate) swaps: u64,
    /// What the policy was told last.
    pub(crate) ready: ReadySet,
    /// The last one that the policy built.
    pub(crate) picker: Option<Arc<dyn Picker>>,
    /// What the policy had done wrong when the channel was closed.
    pub(crate) faults: Faults,
    pub(crate) refused: Option<StartError>,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            state: ConnectivityState::Connecting,
            resolved: false,
            policy: RoundRobin::default().version(),
            swaps: 0,
            ready: ReadySet::default(),
            picker: None,
            faults: Faults::default(),
            refused: None,
        }
    }
}

/// Balances until `closed`.
///
/// However it ends, with its channel, its runtime (before its first poll, even) or a panic, no RPC is left
/// waiting: see [`Balancer`]'s drop.
pub(crate) fn run(
    inputs: Inputs,
    published: Arc<Published>,
    report: watch::Sender<Report>,
) -> impl Future<Output = ()> + Send {
    let Inputs { target, resolver, policies, config, patience, idle_timeout, .. } = inputs;
    let Inputs { dialer, health, activity, mut commands, closed, .. } = inputs;
    let (events, mut changed) = mpsc::unbounded_channel();
    let wake = Arc::new(Notify::new());
    let mut balancer = Balancer {
        waiting_for_policy: !config.policies.is_empty(),
        choice: Choice::new(&policies, &config.policies),
        policies: config.policies.clone(),
        known: policies,
        in_force: None,
        default_config: config,
        target: target.to_string(),
        dialer,
        health,
        events,
        members: Members::default(),
        idle_members: Vec::new(),
        connects: false,
        resolved: Resolved::NotYet,
        told_of: None,
        resolve_now: ResolveNow::default(),
        pick_again: PickAgain::default(),
        idle: false,
        wake: Arc::clone(&wake),
        builder: RoundRobin::builder(),
        swapped: None,
        starts: Starts::default(),
        activity: Arc::clone(&activity),
        published,
        report,
    };
    async move {
        let mut patience_ends = std::pin::pin!(sleep(patience));
        let pick_again = balancer.pick_again.clone();
        let idle_timeout = idle_timeout.unwrap_or(Duration::MAX);
        let mut idle_check = std::pin::pin!(sleep(idle_timeout));
        let watch = |balancer: &Balancer| {
            let watched = guarded("a resolver", || resolver.watch(&target, balancer.resolve_now.clone()));
            watched.map_or(Watching::Panicked, Watching::Stream)
        };
        let mut endpoints = watch(&balancer);
        let mut watch_again = None;
        loop {
            let (mut sleeps, mut wakes) = (false, false);
            let waited = balancer.waiting_for_policy;
            // First the end; then what is rare, so that a flood of the frequent cannot hold it up.
            tokio::select! {
                biased;
                () = closed.cancelled() => break,
                Some(command) = commands.recv() => match command {
                    Command::Connect => wakes = true,
                    Command::EnterIdle => sleeps = true,
                },
                step = balancer.starts.step() => balancer.step(step),
                // A policy is tried out on the endpoints before it is let at the RPCs.
                chosen = balancer.choice.next(), if balancer.is_resolved() => balancer.chosen(chosen),
                update = next(&mut endpoints) => match update {
                    News::Update(update) => balancer.resolved(update),
                    News::Panicked => {
                        endpoints = Watching::Nothing;
                        watch_again = Some(later(supervision::AGAIN));
                        balancer.resolved(ResolverUpdate::error("the resolver panicked"));
                    }
                    News::Ended => {
                        endpoints = Watching::Nothing;
                        if matches!(balancer.resolved, Resolved::NotYet) {
                            let error = "the resolver ended without an answer";
                            balancer.resolved(ResolverUpdate::error(error));
                        }
                    }
                },
                () = due(watch_again) => {
                    watch_again = None;
                    if !balancer.idle {
                        endpoints = watch(&balancer);
                    }
                }
                () = wake.notified() => wakes = true,
                () = pick_again.requested() => {}
                Some(id) = changed.recv() => {
                    balancer.changed(id);
                    while let Ok(id) = changed.try_recv() {
                        balancer.changed(id);
                    }
                }
                () = &mut patience_ends, if balancer.waiting_for_policy => {
                    let policies = names(&balancer.policies);
                    tracing::warn!(policies, "policy is not there in time: round robin serves until it is");
                    balancer.waiting_for_policy = false;
                }
                () = &mut idle_check, if !balancer.idle => {
                    idle_check.as_mut().reset(later(idle_timeout));
                    sleeps = activity.was_quiet();
                    if !sleeps {
                        continue;
                    }
                }
            }
            if balancer.waiting_for_policy && !waited {
                // For another policy, which a resolver named late.
                patience_ends.as_mut().reset(later(patience));
            }
            if sleeps {
                endpoints = Watching::Nothing;
                balancer.enter_idle();
            } else if wakes && balancer.idle {
                endpoints = watch(&balancer);
                balancer.leave_idle();
                idle_check.as_mut().reset(later(idle_timeout));
            }
            balancer.publish();
        }
    }
}

/// The moment after so long; far away if there is no such moment.
fn later(after: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(86_400 * 365);
    Instant::now() + after.min(FAR)
}

/// The resolver, which may be a program's own code.
enum Watching {
    /// The channel is idle, or the resolver has ended or panicked.
    Nothing,
    Stream(ResolverStream),
    /// In `watch` itself: not told yet.
    Panicked,
}

/// What the resolver does next.
enum News {
    Update(ResolverUpdate),
    Ended,
    Panicked,
}

/// The next news of the resolver; pending for ever while it is not watched. Cancel-safe.
async fn next(endpoints: &mut Watching) -> News {
    match endpoints {
        Watching::Nothing => std::future::pending().await,
        Watching::Panicked => News::Panicked,
        Watching::Stream(stream) => match guarded_task("a resolver", stream.next()).await {
            Some(Some(update)) => News::Update(update),
            Some(None) => News::Ended,
            None => News::Panicked,
        },
    }
}

fn names(policies: &[PolicyConfig]) -> String {
    policies.iter().map(|policy| policy.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// How often the same error of a resolver is told of, and how much of it.
const TELL_AGAIN: Duration = Duration::from_secs(60);
const LONGEST_ERROR: usize = 1000;

/// However the loop ends, with its channel, its runtime or a panic: no connection stays behind, and no RPC
/// waits for a picker that will not come.
impl Drop for Balancer {
    fn drop(&mut self) {
        self.published.cell.publish(Arc::new(Always::Drop(self.activity.why_closed())));
        self.report.send_modify(|report| {
            report.state = ConnectivityState::Shutdown;
            // The policy's instance goes now, with its timers, and not with the last clone of the channel.
            if let Some(picker) = report.picker.take() {
                report.faults = picker.faults();
            }
        });
    }
}

struct Balancer {
    target: String,
    default_config: ServiceConfig,
    known: Known,
    /// The list that `choice` chooses from.
    policies: Vec<PolicyConfig>,
    choice: Choice,
    /// What balances, and its configuration; none while nothing but round robin has.
    in_force: Option<(PolicyVersion, String)>,
    dialer: Dialer,
    health: watch::Sender<Option<Arc<str>>>,
    events: mpsc::UnboundedSender<u32>,
    members: Members,
    /// Those that have gone idle, and are to be connected if the channel connects what is idle. It did at the last
    /// publication, or did not.
    idle_members: Vec<u32>,
    connects: bool,
    resolved: Resolved,
    /// The resolver's last error that the log has, while there is no answer, and since when.
    told_of: Option<(String, Instant)>,
    resolve_now: ResolveNow,
    pick_again: PickAgain,
    /// No connections, and no resolver, until an RPC comes.
    idle: bool,
    /// An RPC has come to an idle channel.
    wake: Arc<Notify>,
    builder: Box<dyn PickerBuilder>,
    waiting_for_policy: bool,
    /// The policy that the builder is of since now, and whether it is the first: told when it picks, and not before.
    swapped: Option<(PolicyVersion, bool)>,
    starts: Starts,
    activity: Arc<Activity>,
    published: Arc<Published>,
    report: watch::Sender<Report>,
}

enum Resolved {
    NotYet,
    Failed(String),
    Endpoints,
}

/// Waits until then; for ever if there is no such time. Cancel-safe.
async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Balancer {
    fn chosen(&mut self, chosen: Chosen) {
        match chosen {
            Chosen::Policy { policy, config } => {
                let candidate = Candidate { policy, config };
                if self.in_force.as_ref().is_some_and(|(version, config)| candidate.is(version, config)) {
                    // A bad file, or a bad configuration, gave way to what is in force.
                    self.starts.overtake(None);
                    self.waiting_for_policy = false;
                    self.report.send_modify(|report| report.refused = None);
                    return;
                }
                if self.starts.is_at(&candidate) {
                    // The same again: something else of it has changed.
                    return;
                }
                if self.starts.is_busy() {
                    self.starts.overtake(Some(candidate));
                } else {
                    self.start(candidate);
                }
            }
            Chosen::Nothing { names } => {
                let in_force = self.report.borrow().policy.to_string();
                tracing::warn!(
                    policies = names,
                    in_force,
                    "no such policy: what is in force serves until there is one"
                );
                self.waiting_for_policy = false;
                let error = StartError::new(format!("there is no policy of the name {names}"));
                self.report.send_modify(|report| report.refused = Some(error));
            }
        }
    }

    fn start(&mut self, candidate: Candidate) {
        let mut placement = Placement::new(self.target.clone(), candidate.config.clone());
        placement.handover = self.builder.handover();
        placement.resolve_now = self.resolve_now.clone();
        placement.pick_again = self.pick_again.clone();
        let ready = self.members.look();
        self.starts.begin(candidate, placement, ready);
    }

    fn step(&mut self, step: Step) {
        if let Step::Start(candidate) = step {
            return self.start(candidate);
        }
        if let Some(next) = self.starts.take_next() {
            self.start(next);
        }
        if let Step::Started(candidate, result) = step {
            self.started(candidate, result);
        }
    }

    fn started(&mut self, candidate: Candidate, result: Result<Box<dyn PickerBuilder>, StartError>) {
        let version = candidate.policy.version();
        self.waiting_for_policy = false;
        match result {
            Ok(builder) => {
                tracing::info!(policy = %version, "policy in force");
                // The old builder goes; its instance follows with the last picker that uses it.
                self.builder = builder;
                let first = self.in_force.replace((version.clone(), candidate.config)).is_none();
                self.swapped = Some((version, first));
            }
            Err(error) => {
                let in_force = self.report.borrow().policy.to_string();
                tracing::warn!(%error, in_force, "policy not taken");
                if error.is_passing() {
                    self.starts.try_again(candidate);
                }
                self.report.send_modify(|report| report.refused = Some(error));
            }
        }
    }

    /// The config counts from now on, for the RPCs that begin and for the policy.
    fn configure(&mut self, config: &ServiceConfig) {
        self.published.methods.store(Some(Arc::clone(&config.methods)));
        let health = config.health.as_deref().map(Arc::from);
        self.health.send_if_modified(|before| {
            let changed = *before != health;
            *before = health;
            changed
        });
        // One that is silent on the policy leaves it to the channel's builder.
        let default = &self.default_config.policies;
        let policies = if config.policies.is_empty() { default } else { &config.policies };
        if *policies != self.policies {
            self.policies.clone_from(policies);
            self.choice = Choice::new(&self.known, &self.policies);
            self.starts.overtake(None);
            self.waiting_for_policy = self.in_force.is_none() && !self.policies.is_empty();
            if self.policies.is_empty() && self.in_force.is_some() {
                // As in a channel that has never had a policy: what balances must not depend on what was before.
                let policy = Arc::new(RoundRobin::default());
                self.chosen(Chosen::Policy { policy, config: String::new() });
            }
        }
    }

    /// The resolver's word on the config: none leaves it to the builder; an error keeps the one before.
    fn service_config(&mut self, update: &ResolverUpdate) {
        match &update.service_config {
            Some(Ok(config)) => self.configure(config),
            Some(Err(error)) => {
                tracing::warn!(%error, "the one before stays");
                if self.published.methods.load().is_none() {
                    self.configure(&self.default_config.clone());
                }
            }
            // Of an error nothing but the first counts.
            None if update.endpoints.is_err() && self.published.methods.load().is_some() => {}
            None => self.configure(&self.default_config.clone()),
        }
    }

    /// Gives the connections and the resolver up until an RPC comes.
    fn enter_idle(&mut self) {
        if !std::mem::replace(&mut self.idle, true) {
            tracing::debug!(target = self.target, "channel goes idle");
            self.members.subconns().for_each(SubConn::enter_idle);
        }
    }

    /// The endpoints are resolved anew; those that are still there keep their subconns.
    fn leave_idle(&mut self) {
        tracing::debug!(target = self.target, "channel leaves idle");
        self.idle = false;
        self.resolved = Resolved::NotYet;
        self.members.start_anew();
    }

    fn resolved(&mut self, update: ResolverUpdate) {
        self.service_config(&update);
        match update.endpoints {
            Ok(endpoints) => {
                if self.told_of.take().is_some() {
                    tracing::info!(
                        target = self.target,
                        endpoints = endpoints.len(),
                        "resolver answers again"
                    );
                }
                self.resolved = Resolved::Endpoints;
                self.follow(endpoints);
            }
            // An error does not take away what is known to be good; nor what was before the channel went idle.
            Err(error) if matches!(self.resolved, Resolved::Endpoints) || !self.members.is_empty() => {
                self.tell_of(&error, "the endpoints stay as they are");
                self.resolved = Resolved::Endpoints;
            }
            Err(error) => {
                self.tell_of(&error, "RPCs fail until it answers");
                self.resolved = Resolved::Failed(error);
            }
        }
    }

    /// The resolver's error, in the log; the same again is told from time to time.
    fn tell_of(&mut self, error: &str, consequence: &str) {
        let is_told = |(told, at): &(String, Instant)| told == error && at.elapsed() < TELL_AGAIN;
        if !self.told_of.as_ref().is_some_and(is_told) {
            let shown = clip(error, LONGEST_ERROR);
            tracing::warn!(target = self.target, error = shown, "resolver failed: {consequence}");
            self.told_of = Some((error.to_owned(), Instant::now()));
        }
    }

    fn follow(&mut self, endpoints: Vec<Endpoint>) {
        let Self { members, dialer, events, .. } = self;
        let fresh = members
            .follow(endpoints, |id, endpoint| transport::spawn(id, endpoint, dialer.clone(), events.clone()));
        self.idle_members.extend(fresh);
    }

    /// A subconn says that its state is another.
    fn changed(&mut self, id: u32) {
        let Some(noted) = self.members.note(id) else { return };
        if noted.state == ConnectivityState::Idle {
            self.idle_members.push(id);
        }
        if noted.is_lost {
            self.resolve_now.request();
        }
    }

    /// Connects what is idle, if that is not the policy's to decide.
    fn connect(&mut self, connects: bool) {
        let did = std::mem::replace(&mut self.connects, connects);
        let idle = std::mem::take(&mut self.idle_members);
        if connects && !did {
            self.members.subconns().for_each(SubConn::connect);
        } else if connects {
            idle.into_iter().filter_map(|id| self.members.find(id)).for_each(SubConn::connect);
        }
    }

    fn publish(&mut self) {
        let lazy = self.builder.is_lazy();
        // The policy that is to come may want to decide itself when to connect.
        let connects =
            !self.idle && !lazy && !self.waiting_for_policy && matches!(self.resolved, Resolved::Endpoints);
        self.connect(connects);
        let state = match self.resolved {
            _ if self.idle => ConnectivityState::Idle,
            Resolved::NotYet => ConnectivityState::Connecting,
            Resolved::Failed(_) => ConnectivityState::TransientFailure,
            Resolved::Endpoints => self.members.state(),
        };
        let ready = self.members.look();
        // The policy is told of everything, even while there is nothing to pick from; but of an idle channel when it
        // wakes: one that wants its connections would connect again at once.
        let is_told = matches!(self.resolved, Resolved::Endpoints) && !self.idle;
        let built = is_told.then(|| self.build(&ready));
        // The picker is in place before the state is told: who waits for READY can pick.
        let mut picker = None;
        let cell = &self.published.cell;
        match state {
            ConnectivityState::Idle if self.idle => {
                cell.publish(Arc::new(Wakes(Arc::clone(&self.wake))));
            }
            _ if self.waiting_for_policy && state != ConnectivityState::TransientFailure => {
                cell.publish(Arc::new(Always::Queue));
            }
            _ if state == ConnectivityState::Ready || (lazy && !self.members.is_empty()) => {
                picker = built;
                cell.publish(picker.clone().unwrap_or_else(|| Arc::new(Always::Queue)));
            }
            ConnectivityState::TransientFailure => {
                cell.publish(Arc::new(Always::Fail(Status::unavailable(self.why_not()))));
            }
            _ => cell.publish(Arc::new(Always::Queue)),
        }
        let swapped = self.swapped.take();
        self.report.send_modify(|report| {
            if let Some((version, first)) = swapped {
                // The first to come replaces only the stand-in.
                report.swaps += u64::from(!first);
                report.policy = version;
                report.refused = None;
                report.picker = None;
            }
            report.state = state;
            report.resolved |= self.is_resolved();
            report.ready = ready;
            // While nothing is ready, the last one tells what the policy has done.
            if picker.is_some() {
                report.picker = picker;
            }
        });
    }

    /// The policy's picker for these. A native one's code is not ours.
    fn build(&mut self, ready: &ReadySet) -> Arc<dyn Picker> {
        guarded("a policy", || self.builder.build(ready)).unwrap_or_else(|| {
            // What stands in wherever there is no policy.
            RoundRobin::builder().build(ready)
        })
    }

    fn is_resolved(&self) -> bool {
        !matches!(self.resolved, Resolved::NotYet)
    }

    /// Why no RPC can be served.
    fn why_not(&self) -> String {
        let target = &self.target;
        match &self.resolved {
            Resolved::Failed(error) => format!("{target} could not be resolved: {error}"),
            _ if self.members.is_empty() => {
                format!("{target} has no endpoints: the resolver produced zero addresses")
            }
            _ => {
                let mut errors = self.members.subconns().filter_map(SubConn::last_error);
                let last = errors.next_back().unwrap_or_default();
                format!("no endpoint of {target} is ready: last connection error: {last}")
            }
        }
    }
}
