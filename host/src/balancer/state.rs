//! The balancer's decisions: a pure step from a state and an input to effects.
//!
//! [`State::step`] waits for nothing, and neither connects nor calls a policy: what is to be done comes back as
//! [`Effects`]. Only the subconns of new endpoints are created on the way, by a function that the state is given.
//!
//! RPCs see one of four pickers:
//!
//! | picker | when | until |
//! |---|---|---|
//! | wake | the channel is idle | an RPC comes |
//! | queue | it is resolving, connecting, or waiting for its first policy | the resolver, a subconn, a start, or the end of `first_policy_timeout` |
//! | policy | a subconn is ready, or the policy is lazy | any change |
//! | fail | it could not be resolved, or all subconns are in TRANSIENT_FAILURE | any change |

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::choice::Chosen;
use super::members::Members;
use super::starter::{StartRequest, Starter};
use super::step::{Effects, Input, PickerEffect, ResolverEffect, ResolverEvent};
use crate::connectivity::ConnectivityState;
use crate::lifecycle::{PolicyVersion, RoundRobin, StartError};
use crate::resolver::{Endpoint, ResolverUpdate};
use crate::service_config::{PolicyConfig, ServiceConfig};
use crate::subconn::SubConn;
use crate::text::clip;

/// All mutable state of a channel, except its policy.
pub(super) struct State {
    target: String,
    default_config: ServiceConfig,
    /// Creates the subconn of a new endpoint.
    spawn: Box<dyn FnMut(u32, Endpoint) -> SubConn + Send>,
    /// The policies that the current service config lists.
    policies: Vec<PolicyConfig>,
    /// Whether a service config is in use.
    is_configured: bool,
    /// The active policy and its configuration. `None`: only the initial round robin has been active.
    active: Option<(PolicyVersion, String)>,
    /// Whether the active policy decides when to connect.
    pub(super) lazy: bool,
    pub(super) starter: Starter,
    /// Whether RPCs wait for the first policy.
    pub(super) awaits_policy: bool,
    resolution: Resolution,
    /// The last error of the resolver that was logged, and when, while there is no answer.
    logged_error: Option<(String, Instant)>,
    members: Members,
    /// Subconns that have become idle since the last step that connected.
    idle_members: Vec<u32>,
    /// Whether the channel connected idle subconns at the last step.
    connects: bool,
    /// Whether the channel is idle: it has no connections and no resolver until an RPC comes.
    pub(super) idle: bool,
}

/// The latest result of the resolver.
#[derive(Debug)]
enum Resolution {
    NotYet,
    Failed(String),
    Endpoints,
}

/// Interval at which the same error of a resolver is logged again.
const LOG_AGAIN: Duration = Duration::from_secs(60);
/// Maximum length of a resolver's error in the log (bytes).
const LONGEST_ERROR: usize = 1000;

impl State {
    /// Creates the state of a new channel, which is being resolved.
    pub(super) fn new(
        target: String,
        default_config: ServiceConfig,
        spawn: impl FnMut(u32, Endpoint) -> SubConn + Send + 'static,
    ) -> Self {
        Self {
            target,
            policies: default_config.policies.clone(),
            awaits_policy: !default_config.policies.is_empty(),
            default_config,
            spawn: Box::new(spawn),
            is_configured: false,
            active: None,
            lazy: false,
            starter: Starter::Idle,
            resolution: Resolution::NotYet,
            logged_error: None,
            members: Members::default(),
            idle_members: Vec::new(),
            connects: false,
            idle: false,
        }
    }

    /// Returns the policies that the current service config lists.
    pub(super) fn policies(&self) -> &[PolicyConfig] {
        &self.policies
    }

    /// Returns whether the resolver has answered, if only with an error.
    pub(super) fn is_resolved(&self) -> bool {
        !matches!(self.resolution, Resolution::NotYet)
    }

    /// Handles an input, and returns what to do.
    pub(super) fn step(&mut self, input: Input, now: Instant) -> Effects {
        let awaited = self.awaits_policy;
        let mut effects = Effects::new();
        match input {
            Input::Wake => self.wake(&mut effects),
            Input::Sleep => self.sleep(&mut effects),
            Input::Resolver(event) => self.resolver(event, now, &mut effects),
            Input::SubConns(ids) => ids.into_iter().for_each(|id| self.subconn_changed(id, &mut effects)),
            Input::Chosen(chosen) => self.chosen(chosen, &mut effects),
            Input::StartEnded(result) => self.start_ended(result, now, &mut effects),
            Input::RetryStart => effects.start = self.starter.retry_due(),
            Input::FirstPolicyTimeout => self.awaits_policy = false,
            Input::PickAgain => {}
        }
        effects.restart_policy_timeout = self.awaits_policy && !awaited;
        self.decide_picker(&mut effects);
        effects
    }

    /// Leaves idle: resolves the target again. Endpoints that are still there keep their subconns.
    fn wake(&mut self, effects: &mut Effects) {
        if std::mem::take(&mut self.idle) {
            tracing::debug!("channel leaves idle");
            effects.resolver = Some(ResolverEffect::Watch);
            self.resolution = Resolution::NotYet;
            self.members.forget_failures();
        }
    }

    /// Closes the connections and stops the resolver until an RPC comes.
    fn sleep(&mut self, effects: &mut Effects) {
        effects.resolver = Some(ResolverEffect::Stop);
        if !std::mem::replace(&mut self.idle, true) {
            tracing::debug!("channel goes idle");
            effects.disconnect.extend(self.members.subconns().cloned());
        }
    }

    fn resolver(&mut self, event: ResolverEvent, now: Instant, effects: &mut Effects) {
        match event {
            ResolverEvent::Update(update) => self.resolved(update, now, effects),
            ResolverEvent::Panicked => {
                effects.resolver = Some(ResolverEffect::Stop);
                self.resolved(ResolverUpdate::error("the resolver panicked"), now, effects);
            }
            ResolverEvent::Ended => {
                effects.resolver = Some(ResolverEffect::Stop);
                if !self.is_resolved() {
                    let update = ResolverUpdate::error("the resolver ended without an answer");
                    self.resolved(update, now, effects);
                }
            }
        }
    }

    fn resolved(&mut self, update: ResolverUpdate, now: Instant, effects: &mut Effects) {
        self.service_config(&update, effects);
        match update.endpoints {
            Ok(endpoints) => {
                if self.logged_error.take().is_some() {
                    let endpoints = endpoints.len();
                    tracing::info!(endpoints, "resolver answers again");
                }
                self.resolution = Resolution::Endpoints;
                let change = self.members.update(endpoints, &mut self.spawn);
                self.idle_members.extend(change.added);
                effects.shutdown.extend(change.removed);
            }
            // An error does not remove endpoints that are known, nor those from before the channel went idle.
            Err(error) if matches!(self.resolution, Resolution::Endpoints) || !self.members.is_empty() => {
                self.log_error(&error.to_string(), "the endpoints stay as they are", now);
                self.resolution = Resolution::Endpoints;
            }
            Err(error) => {
                let error = error.to_string();
                self.log_error(&error, "RPCs fail until it answers", now);
                self.resolution = Resolution::Failed(error);
            }
        }
    }

    /// Handles the resolver's service config. Without one, that of the channel's builder is used. An invalid one leaves
    /// the previous one in use.
    fn service_config(&mut self, update: &ResolverUpdate, effects: &mut Effects) {
        match &update.service_config {
            Some(Ok(config)) => self.configure(config, effects),
            Some(Err(error)) => {
                tracing::warn!(%error, "service config rejected: the previous one stays active");
                if !self.is_configured {
                    self.configure(&self.default_config.clone(), effects);
                }
            }
            // An error of the resolver changes the config only if there is none yet.
            None if update.endpoints.is_err() && self.is_configured => {}
            None => self.configure(&self.default_config.clone(), effects),
        }
    }

    /// Uses a service config, for new RPCs and for the policy.
    fn configure(&mut self, config: &ServiceConfig, effects: &mut Effects) {
        self.is_configured = true;
        effects.config = Some((Arc::clone(&config.methods), config.health.as_deref().map(Arc::from)));
        // If the config names no policy, the list of the channel's builder is used.
        let default = &self.default_config.policies;
        let policies = if config.policies.is_empty() { default } else { &config.policies };
        if *policies == self.policies {
            return;
        }
        self.policies.clone_from(policies);
        effects.follow = Some(self.policies.clone());
        effects.start = self.starter.cancel();
        self.awaits_policy = self.active.is_none() && !self.policies.is_empty();
        if self.policies.is_empty() && self.active.is_some() {
            // As in a channel that never had a policy: the result must not depend on previous policies.
            let request = StartRequest { policy: Arc::new(RoundRobin::default()), config: String::new() };
            self.chosen(Chosen::Policy(request), effects);
        }
    }

    /// Logs an error of the resolver. The same error is logged again only after [`LOG_AGAIN`].
    fn log_error(&mut self, error: &str, consequence: &str, now: Instant) {
        let is_logged = |(logged, at): &(String, Instant)| {
            logged == error && now.saturating_duration_since(*at) < LOG_AGAIN
        };
        if !self.logged_error.as_ref().is_some_and(is_logged) {
            let shown = clip(error, LONGEST_ERROR);
            tracing::warn!(error = shown, "resolver failed: {consequence}");
            self.logged_error = Some((error.to_owned(), now));
        }
    }

    fn subconn_changed(&mut self, id: u32, effects: &mut Effects) {
        let Some(change) = self.members.observe(id) else { return };
        if change.state == ConnectivityState::Idle {
            self.idle_members.push(id);
        }
        effects.resolve_now |= change.is_lost;
    }

    fn chosen(&mut self, chosen: Chosen, effects: &mut Effects) {
        match chosen {
            Chosen::Policy(request) => {
                if self.active.as_ref().is_some_and(|(version, config)| request.is(version, config)) {
                    // A bad file or configuration has been replaced by that of the active policy.
                    effects.start = self.starter.cancel().or_else(|| effects.start.take());
                    self.awaits_policy = false;
                    effects.refused = Some(None);
                } else {
                    effects.start = self.starter.request(request).or_else(|| effects.start.take());
                }
            }
            Chosen::Nothing { names } => {
                let active = self.active_name();
                tracing::warn!(
                    policies = names,
                    active,
                    "no such policy: the active one serves until there is one"
                );
                self.awaits_policy = false;
                let error = StartError::new(format!("there is no policy of the name {names}"));
                effects.refused = Some(Some(error));
            }
        }
    }

    fn start_ended(&mut self, result: Result<bool, StartError>, now: Instant, effects: &mut Effects) {
        let (request, next) = self.starter.ended();
        effects.start = next;
        let Some(request) = request else { return };
        let version = request.policy.version();
        self.awaits_policy = false;
        match result {
            Ok(lazy) => {
                tracing::info!(policy = %version, "policy active");
                self.lazy = lazy;
                let is_first = self.active.replace((version.clone(), request.config)).is_none();
                effects.activated = Some((version, is_first));
            }
            Err(error) => {
                let active = self.active_name();
                tracing::warn!(%error, active, "policy not taken");
                if error.is_transient() {
                    self.starter.retry(request, now);
                }
                effects.refused = Some(Some(error));
            }
        }
    }

    fn active_name(&self) -> String {
        let active = self.active.as_ref().map(|(version, _)| version.to_string());
        active.unwrap_or_else(|| "round robin".to_owned())
    }

    /// Decides which picker and which state RPCs see.
    fn decide_picker(&mut self, effects: &mut Effects) {
        let has_endpoints = matches!(self.resolution, Resolution::Endpoints);
        // A policy that is being awaited may be one that decides when to connect.
        let connects = !self.idle && !self.lazy && !self.awaits_policy && has_endpoints;
        self.connect(connects, effects);
        effects.state = match self.resolution {
            _ if self.idle => ConnectivityState::Idle,
            Resolution::NotYet => ConnectivityState::Connecting,
            Resolution::Failed(_) => ConnectivityState::TransientFailure,
            Resolution::Endpoints => self.members.state(),
        };
        effects.ready = self.members.snapshot();
        effects.is_resolved = self.is_resolved();
        // The policy is notified even while no subconn is ready.
        effects.notify = has_endpoints && !self.idle;
        effects.picker = match effects.state {
            ConnectivityState::Idle if self.idle => PickerEffect::Wake,
            state if self.awaits_policy && state != ConnectivityState::TransientFailure => {
                PickerEffect::Queue
            }
            ConnectivityState::Ready => PickerEffect::Policy,
            _ if self.lazy && !self.members.is_empty() && effects.notify => PickerEffect::Policy,
            _ if self.lazy && !self.members.is_empty() => PickerEffect::Queue,
            ConnectivityState::TransientFailure => PickerEffect::Fail(self.failure()),
            _ => PickerEffect::Queue,
        };
    }

    /// Connects idle subconns, unless the policy decides that.
    fn connect(&mut self, connects: bool, effects: &mut Effects) {
        let did = std::mem::replace(&mut self.connects, connects);
        let idle = std::mem::take(&mut self.idle_members);
        if connects && !did {
            effects.connect.extend(self.members.subconns().cloned());
        } else if connects {
            effects.connect.extend(idle.into_iter().filter_map(|id| self.members.find(id)).cloned());
        }
    }

    /// Returns why no RPC can be served.
    fn failure(&self) -> String {
        let target = &self.target;
        match &self.resolution {
            Resolution::Failed(error) => format!("{target} could not be resolved: {error}"),
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::super::starter::StartEffect;
    use super::*;
    use crate::lifecycle::{PickerBuilder, Placement, Policy, Stage};
    use crate::subconn::ReadySet;

    /// A policy that is never started: the tests play the shell.
    #[derive(Debug)]
    struct Named(u64);

    impl Policy for Named {
        fn version(&self) -> PolicyVersion {
            PolicyVersion::new("named", self.0, "")
        }

        fn start(&self, _: &Placement, _: &ReadySet) -> Result<Box<dyn PickerBuilder>, StartError> {
            Err(StartError::new("not started in tests"))
        }
    }

    #[derive(Clone, Debug)]
    enum Event {
        Resolved(Vec<u8>, Option<&'static str>),
        ResolverFailed,
        ResolverEnded,
        ResolverPanicked,
        WatchedAgain,
        Chosen(u64),
        NothingChosen,
        StartEnded(Result<bool, bool>),
        RetryDue,
        FirstPolicyTimeout,
        SubConn(u8, ConnectivityState),
        Sleep,
        Wake,
        PickAgain,
    }

    fn event() -> impl Strategy<Value = Event> {
        let endpoints = prop::collection::vec(0u8..6, 0..5);
        let policy = prop::option::of(prop_oneof![Just("a"), Just("b")]);
        let state = prop_oneof![
            Just(ConnectivityState::Idle),
            Just(ConnectivityState::Connecting),
            Just(ConnectivityState::Ready),
            Just(ConnectivityState::TransientFailure),
        ];
        prop_oneof![
            3 => (endpoints, policy).prop_map(|(endpoints, policy)| Event::Resolved(endpoints, policy)),
            1 => Just(Event::ResolverFailed),
            1 => Just(Event::ResolverEnded),
            1 => Just(Event::ResolverPanicked),
            1 => Just(Event::WatchedAgain),
            3 => (0u64..3).prop_map(Event::Chosen),
            1 => Just(Event::NothingChosen),
            3 => any::<Result<bool, bool>>().prop_map(Event::StartEnded),
            1 => Just(Event::RetryDue),
            1 => Just(Event::FirstPolicyTimeout),
            6 => (0u8..6, state).prop_map(|(number, state)| Event::SubConn(number, state)),
            1 => Just(Event::Sleep),
            2 => Just(Event::Wake),
            1 => Just(Event::PickAgain),
        ]
    }

    fn endpoint(number: u8) -> Endpoint {
        Endpoint::new(format!("10.0.0.{number}:80").parse().expect("an address"))
    }

    /// Plays the shell, the resolver, the subconns and the threads that start policies.
    struct World {
        state: State,
        now: Instant,
        /// The resolver will say something, or is watched again after its panic.
        is_watched: bool,
        watches_again: bool,
        is_starting: bool,
        is_cut: bool,
        runs_policy_timeout: bool,
        ready: ReadySet,
        /// Subconns in IDLE that were asked to connect.
        connecting: BTreeSet<u32>,
        last_resolved: Vec<u8>,
    }

    impl World {
        fn new(policies: Option<&str>) -> Self {
            let mut config = ServiceConfig::default();
            if let Some(name) = policies {
                config = config.with_policy(name, &serde_json::json!({}));
            }
            Self {
                state: State::new("static:///test".to_owned(), config, SubConn::fake),
                now: Instant::now(),
                is_watched: true,
                watches_again: false,
                is_starting: false,
                is_cut: false,
                runs_policy_timeout: true,
                ready: ReadySet::default(),
                connecting: BTreeSet::new(),
                last_resolved: Vec::new(),
            }
        }

        /// Translates an event to an input, if it can happen now.
        fn input(&mut self, event: &Event) -> Option<Input> {
            let resolver = |event| Some(Input::Resolver(event));
            match event {
                Event::Resolved(..)
                | Event::ResolverFailed
                | Event::ResolverEnded
                | Event::ResolverPanicked
                    if !self.is_watched =>
                {
                    None
                }
                Event::Resolved(numbers, policy) => {
                    self.last_resolved.clone_from(numbers);
                    let endpoints: Vec<_> = numbers.iter().copied().map(endpoint).collect();
                    let mut update = ResolverUpdate::endpoints(endpoints);
                    if let Some(name) = policy {
                        let config = ServiceConfig::default().with_policy(*name, &serde_json::json!({}));
                        update = update.with_service_config(Ok(config));
                    }
                    resolver(ResolverEvent::Update(update))
                }
                Event::ResolverFailed => resolver(ResolverEvent::Update(ResolverUpdate::error("failed"))),
                Event::ResolverEnded => resolver(ResolverEvent::Ended),
                Event::ResolverPanicked => {
                    self.watches_again = true;
                    resolver(ResolverEvent::Panicked)
                }
                Event::WatchedAgain => {
                    self.is_watched |= std::mem::take(&mut self.watches_again) && !self.state.idle;
                    None
                }
                Event::Chosen(_) | Event::NothingChosen
                    if !self.state.is_resolved() || self.state.policies().is_empty() =>
                {
                    None
                }
                Event::Chosen(version) => Some(Input::Chosen(Chosen::Policy(StartRequest {
                    policy: Arc::new(Named(*version)),
                    config: "{}".to_owned(),
                }))),
                Event::NothingChosen => Some(Input::Chosen(Chosen::Nothing { names: "a".to_owned() })),
                Event::StartEnded(result) => {
                    if !std::mem::take(&mut self.is_starting) {
                        return None;
                    }
                    self.is_cut = false;
                    Some(Input::StartEnded(result.map_err(|transient| {
                        if transient {
                            StartError::transient(Stage::Init, "no thread")
                        } else {
                            StartError::new("refused")
                        }
                    })))
                }
                Event::RetryDue => self.state.starter.retry_at().map(|_| Input::RetryStart),
                Event::FirstPolicyTimeout => self.state.awaits_policy.then_some(Input::FirstPolicyTimeout),
                Event::SubConn(number, state) => {
                    let subconn = self.ready.all().get(usize::from(*number))?.clone();
                    let legal = matches!(
                        (subconn.state(), state),
                        (ConnectivityState::Connecting, _)
                            | (
                                ConnectivityState::Ready | ConnectivityState::TransientFailure,
                                ConnectivityState::Idle
                            )
                            | (ConnectivityState::Ready, ConnectivityState::TransientFailure)
                    ) || (*state == ConnectivityState::Connecting
                        && self.connecting.remove(&subconn.id()));
                    legal.then(|| {
                        subconn.set_state(*state, None);
                        Input::SubConns(vec![subconn.id()])
                    })
                }
                Event::Sleep => Some(Input::Sleep),
                Event::Wake => Some(Input::Wake),
                Event::PickAgain => Some(Input::PickAgain),
            }
        }

        /// Carries out effects as the shell does, and checks that they are possible.
        fn apply(&mut self, effects: &Effects) -> Result<(), TestCaseError> {
            match effects.resolver {
                Some(ResolverEffect::Watch) => self.is_watched = true,
                Some(ResolverEffect::Stop) => self.is_watched = false,
                None => {}
            }
            match &effects.start {
                Some(StartEffect::Start(_)) => {
                    prop_assert!(!self.is_starting, "two starts at once");
                    self.is_starting = true;
                }
                Some(StartEffect::Cut) => {
                    prop_assert!(self.is_starting, "nothing to cut");
                    self.is_cut = true;
                }
                None => {}
            }
            self.runs_policy_timeout |= effects.restart_policy_timeout;
            prop_assert!(effects.connect.is_empty() || !self.state.idle, "an idle channel connects");
            prop_assert!(effects.disconnect.is_empty() || self.state.idle);
            self.connecting.extend(effects.connect.iter().map(SubConn::id));
            for gone in &effects.shutdown {
                prop_assert!(effects.ready.find(gone.id()).is_none());
                self.connecting.remove(&gone.id());
            }
            for subconn in &effects.disconnect {
                self.connecting.remove(&subconn.id());
                if subconn.set_state(ConnectivityState::Idle, None) {
                    // Its task would say so next.
                    let again = self.state.step(Input::SubConns(vec![subconn.id()]), self.now);
                    prop_assert!(again.connect.is_empty());
                }
            }
            self.ready = effects.ready.clone();
            Ok(())
        }

        /// Checks what RPCs see, and that none waits for a picker that does not come.
        fn check(&self, effects: &Effects) -> Result<(), TestCaseError> {
            prop_assert_eq!(effects.state == ConnectivityState::Idle && self.state.idle, self.state.idle);
            prop_assert_eq!(effects.picker == PickerEffect::Wake, self.state.idle);
            prop_assert!(effects.picker != PickerEffect::Policy || effects.notify);
            if effects.state == ConnectivityState::Ready && !self.state.awaits_policy {
                prop_assert_eq!(&effects.picker, &PickerEffect::Policy);
            }
            if effects.picker != PickerEffect::Queue {
                return Ok(());
            }
            let is_awaited = |subconn: &SubConn| match subconn.state() {
                ConnectivityState::Connecting => true,
                ConnectivityState::Idle => self.connecting.contains(&subconn.id()),
                _ => false,
            };
            let is_pending = (!self.state.is_resolved() && self.is_watched)
                || (self.state.awaits_policy && self.runs_policy_timeout)
                || effects.ready.all().iter().any(is_awaited);
            prop_assert!(is_pending, "RPCs wait for nothing, in state {}", effects.state);
            Ok(())
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        /// For any sequence of events: effects are possible when they are returned, the snapshot has the endpoints of
        /// the resolver's last answer, subconns of endpoints that stay are kept, and no RPC waits for a picker that
        /// never comes.
        #[test]
        fn every_sequence_leads_to_a_legal_state(
            policies in prop::option::of(Just("a")),
            events in prop::collection::vec(event(), 0..120),
        ) {
            let mut world = World::new(policies);
            let mut known: BTreeMap<_, u32> = BTreeMap::new();
            for event in events {
                world.now += Duration::from_millis(700);
                let Some(input) = world.input(&event) else { continue };
                let is_answer = matches!(event, Event::Resolved(..));
                let effects = world.state.step(input, world.now);
                world.apply(&effects)?;
                world.check(&effects)?;
                if is_answer {
                    let mut seen = BTreeSet::new();
                    let expected: Vec<_> =
                        world.last_resolved.iter().filter(|number| seen.insert(**number)).map(|number| endpoint(*number)).collect();
                    let found: Vec<_> =
                        effects.ready.all().iter().map(|subconn| Endpoint::clone(&subconn.endpoint())).collect();
                    prop_assert_eq!(found, expected);
                    let now: BTreeMap<_, _> = effects
                        .ready
                        .all()
                        .iter()
                        .map(|subconn| (subconn.endpoint().addresses().to_vec(), subconn.id()))
                        .collect();
                    for (addresses, id) in &now {
                        prop_assert!(known.get(addresses).is_none_or(|before| before == id));
                    }
                    known = now;
                }
            }
        }
    }
}
