//! One Store, one instance of a policy in it, and the calls into it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use wasmtime::Store;

use super::WasmPolicy;
use super::bindings::exports::hotpick::policy::endpoints::Endpoint as WitEndpoint;
use super::bindings::exports::hotpick::policy::handover::Saved as WitSaved;
use super::bindings::exports::hotpick::policy::lifecycle::Placement as WitPlacement;
use super::bindings::exports::hotpick::policy::outcomes::Outcome;
use super::bindings::exports::hotpick::policy::picker::{
    PickInfo as WitPickInfo, PickResult as WitPickResult,
};
use super::bindings::exports::hotpick::policy::plans::Plan as WitPlan;
use super::bindings::hotpick::policy::types::{Attribute, ConnectivityState as WitState, FailCode};
use super::engine::has_stack;
use super::exports::Exports;
use super::imports::{self, AffinityKind, Fittings, State, Wishes};
use super::limits::Limits;
use super::meter::Meter;
use super::plan::{BUDGET, Order, Plan};
use super::record::FaultKind;
use crate::connectivity::ConnectivityState;
use crate::picker::{Pick, PickInfo, PickResult, Placement, Saved, Stage};
use crate::resolver::{Endpoint, ResolveNow};
use crate::subconn::{Changes, ReadySet};
use crate::text::clip;

/// An instance of a policy. After a [`Fault`] it must not be called again: wasmtime has poisoned its
/// Store, or its answers make no sense.
pub(super) struct Instance {
    store: Store<State>,
    exports: Exports,
    limits: Limits,
    policy: String,
    role: Role,
    /// It may plan ahead.
    plans: bool,
    calls: u64,
    started_with: usize,
    /// It has been told what is ready, at least once.
    told: bool,
    /// The channel picks by it: what it wants done to connections is done. Before that another policy is in force, which may
    /// want the contrary.
    in_force: bool,
}

/// What an instance is for.
#[derive(Clone)]
pub(super) enum Role {
    /// To pick for RPCs. It may ask for new endpoints here.
    Serving(ResolveNow),
    /// To be tried out: whatever it does has no effect.
    Trial,
}

/// What ends an instance.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("trapped: {0}")]
    Trap(String),
    #[error("could not be called: the host panicked")]
    Host,
    #[error("ran past its limit of time")]
    Deadline,
    #[error("asked for more memory than its limit")]
    Memory,
    #[error("picked subconn {0}, which does not exist")]
    UnknownSubConn(u32),
    #[error("made a plan of {0} picks, more than {BUDGET}")]
    LongPlan(usize),
}

impl Fault {
    pub(super) const fn kind(&self) -> FaultKind {
        match self {
            Self::Trap(_) => FaultKind::Trap,
            Self::Host => FaultKind::Start,
            Self::Deadline => FaultKind::Deadline,
            Self::Memory => FaultKind::Memory,
            Self::UnknownSubConn(_) => FaultKind::UnknownSubConn,
            Self::LongPlan(_) => FaultKind::LongPlan,
        }
    }
}

/// Why there is no instance.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum InitError {
    #[error("failed to start: it cannot be instantiated: {0}")]
    Instantiate(Fault),
    #[error("cannot be started at this moment, and is tried again: {0}")]
    NotNow(String),
    #[error("failed to start: {0}")]
    Fault(#[from] Fault),
    #[error("refused its configuration: {0}")]
    Refused(String),
    #[error(
        "failed to start: the thread that starts it has less stack left than the 640 KiB that a policy may need"
    )]
    NoStack,
    #[error("has a configuration of {0} bytes, more than {1}")]
    ConfigTooLong(usize, usize),
    #[error("failed its trial picks: {0}")]
    Trial(Fault),
    #[error("only queues RPCs, though {0} endpoints are ready")]
    OnlyQueues(usize),
}

impl InitError {
    /// The machine was in the way, and not the policy.
    pub(super) const fn is_passing(&self) -> bool {
        matches!(self, Self::NotNow(_))
    }

    pub(super) const fn stage(&self) -> Stage {
        match self {
            Self::Instantiate(_) | Self::NoStack | Self::NotNow(_) => Stage::Instantiate,
            Self::Fault(_) | Self::Refused(_) | Self::ConfigTooLong(..) => Stage::Init,
            Self::Trial(_) | Self::OnlyQueues(_) => Stage::PreFlight,
        }
    }
}

/// A pick, and what the end of the RPC will be told by.
pub(super) struct Answer {
    pub(super) result: PickResult,
    pub(super) call: u64,
    pub(super) method: u32,
}

impl Instance {
    /// Instantiates the policy and calls its `init`, and its `restore` with what the one before has saved.
    /// A policy that cannot make use of that starts without.
    pub(super) fn new(
        policy: &WasmPolicy,
        placement: &Placement,
        role: Role,
        parts: &[Saved],
    ) -> Result<Self, InitError> {
        let mut instance = Self::init(policy, placement, role.clone())?;
        if parts.is_empty() || instance.exports.handover.is_none() {
            return Ok(instance);
        }
        let restored = instance.restore(parts);
        if let Ok(Ok(())) = restored {
            return Ok(instance);
        }
        if matches!(role, Role::Serving(_)) {
            let error = match &restored {
                Ok(Err(error)) => error.clone(),
                Err(fault) => fault.to_string(),
                Ok(Ok(())) => String::new(),
            };
            tracing::warn!(policy = %policy.terms.version, error, "state not taken over: a cold start");
        }
        // Half of it may be there.
        Self::init(policy, placement, role)
    }

    fn init(policy: &WasmPolicy, placement: &Placement, role: Role) -> Result<Self, InitError> {
        let WasmPolicy { compiled, terms } = policy;
        let limits = terms.limits;
        if !has_stack() {
            return Err(InitError::NoStack);
        }
        if placement.config.len() > limits.config {
            return Err(InitError::ConfigTooLong(placement.config.len(), limits.config));
        }
        let seed = placement.next_seed();
        let is_trial = matches!(role, Role::Trial);
        let meter = if is_trial { Meter::default().into() } else { terms.record.meter(&placement.target) };
        let fittings = Fittings {
            policy: terms.version.name.clone(),
            seed,
            limits,
            grants: terms.grants.clone(),
            meter,
            generation: terms.version.generation,
            reads_metadata: compiled.reads_metadata,
            cut: Arc::clone(&placement.cut),
            silent: is_trial,
        };
        let state = State::new(fittings, compiled.engine.tick());
        let mut store = Store::new(&compiled.engine.wasm, state);
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(limits.handed_over);
        store.epoch_deadline_callback(|mut store| {
            Ok(if store.data_mut().look() {
                wasmtime::UpdateDeadline::Continue(1)
            } else {
                wasmtime::UpdateDeadline::Interrupt
            })
        });

        arm(&mut store, limits.init);
        let instantiated = compiled.pre.instantiate(&mut store);
        let instantiated = instantiated.and_then(|instance| compiled.indices.load(&mut store, &instance));
        let exports = instantiated.map_err(|error| match lack(&error) {
            Some(lack) => InitError::NotNow(lack),
            None => InitError::Instantiate(fault(&store, &error)),
        })?;
        let policy = terms.version.name.clone();
        let mut instance = Self {
            store,
            exports,
            limits,
            policy,
            role,
            plans: terms.plans,
            calls: 0,
            started_with: 0,
            told: false,
            in_force: false,
        };
        let place = WitPlacement {
            target: placement.target.clone(),
            shard: placement.shard.number,
            shards: placement.shard.count,
            seed,
            generation: terms.version.generation,
        };
        instance.store.data_mut().in_init = true;
        let lifecycle = &instance.exports.lifecycle;
        let init = lifecycle.call_init(&mut instance.store, &placement.config, &place);
        instance.store.data_mut().in_init = false;
        match init {
            Ok(Ok(())) => Ok(instance),
            Ok(Err(message)) => Err(InitError::Refused(clip(&message, limits.log_line))),
            Err(error) => Err(fault(&instance.store, &error).into()),
        }
    }

    /// From now on the channel picks by it.
    pub(super) const fn enter_into_force(&mut self) {
        self.in_force = true;
    }

    /// Tells the policy what has changed since it was last told.
    pub(super) fn tell(&mut self, ready: &ReadySet) -> Result<(), Fault> {
        let Self { store, exports, limits, .. } = self;
        let Changes { added, removed, ready: ready_changed, states } =
            ready.changes_since(&store.data().told);
        // From now on numbers are those of the new list: what the policy asks for in these calls, too.
        store.data_mut().told = ready.clone();
        // The first time even if there is nothing to be told: no pick comes before.
        let ready_changed = ready_changed || !std::mem::replace(&mut self.told, true);
        let now = imports::now();
        // A ring, or a table, is made anew of all of them when one changes.
        let limit = limits.update_of(ready.all().len() + removed.len());
        if !added.is_empty() || !removed.is_empty() {
            let added: Vec<_> = added.iter().map(|(id, endpoint)| wit_endpoint(*id, endpoint)).collect();
            arm(store, limit);
            let told = exports.endpoints.call_changed(&mut *store, &added, &removed, now);
            told.map_err(|error| fault(store, &error))?;
        }
        if let Some(connectivity) = &exports.connectivity
            && !states.is_empty()
        {
            // All of these calls together: a policy must not take its time for each.
            arm(store, limit);
            for (id, state) in states {
                let error = ready.find(id).filter(|_| state == ConnectivityState::TransientFailure);
                let message = error.and_then(|subconn| subconn.last_error()).unwrap_or_default();
                let told = connectivity.call_changed(&mut *store, id, wit_state(state), &message, now);
                told.map_err(|error| fault(store, &error))?;
            }
        }
        if ready_changed {
            arm(store, limit);
            let told = exports.endpoints.call_ready(&mut *store, ready.ready().ids(), now);
            told.map_err(|error| fault(store, &error))?;
        }
        self.grant_wishes();
        Ok(())
    }

    /// Asks the policy for a subconn, out of those that it was last told of.
    pub(super) fn pick(&mut self, info: &PickInfo<'_>) -> Result<Answer, Fault> {
        self.calls += 1;
        let store = &mut self.store;
        let state = store.data_mut();
        state.begin(info);
        let asked = WitPickInfo {
            call: self.calls,
            method: state.method(info.method),
            affinity: state.affinity(info),
            random: state.random.u64(..),
            now: imports::time(info.now),
            attempt: u32::try_from(info.tried.len()).unwrap_or(u32::MAX),
            wait_for_ready: info.wait_for_ready,
            requeued: info.requeued,
        };
        arm(store, self.limits.pick);
        let answer = self.exports.picker.call_pick(&mut *store, asked);
        let answer = answer.map_err(|error| fault(store, &error))?;
        let left = store.data_mut().end();
        let status = |code: FailCode, verb: &str| {
            let text = left.explanation.clone();
            let text = text.unwrap_or_else(|| format!("{verb} by policy {:?}", self.policy));
            tonic::Status::new(grpc_code(code), text)
        };
        let result = match answer {
            WitPickResult::Pick(id) => {
                let state = store.data_mut();
                let subconn = state.told.find(id).ok_or(Fault::UnknownSubConn(id))?;
                let mut pick = Pick::to(subconn.clone());
                if state.lazy && subconn.state() == ConnectivityState::Idle {
                    state.wishes.subconns.insert(id, true);
                }
                pick.metadata = left.added;
                PickResult::Pick(pick)
            }
            WitPickResult::Queue => PickResult::Queue,
            WitPickResult::Fail(code) => PickResult::Fail(status(code, "failed")),
            WitPickResult::Drop(code) => PickResult::Drop(status(code, "dropped")),
        };
        self.grant_wishes();
        Ok(Answer { result, call: asked.call, method: asked.method })
    }

    /// Whether the policy may have plans.
    pub(super) const fn makes_plans(&self) -> bool {
        self.plans && self.exports.plans.is_some()
    }

    /// Has the policy make a plan for the endpoints that it knows, of picks that it is then not asked for.
    pub(super) fn plan(&mut self, serial: u64) -> Result<Option<Plan>, Fault> {
        let Self { store, exports, limits, .. } = self;
        let Some(plans) = exports.plans.as_ref().filter(|_| self.plans) else { return Ok(None) };
        let random = store.data_mut().random.u64(..);
        arm(store, limits.update_of(store.data().told.all().len()));
        let made = plans.call_make(&mut *store, BUDGET, random, imports::now());
        let made = made.map_err(|error| fault(store, &error))?;
        self.grant_wishes();
        let (order, picks) = match made {
            WitPlan::None => return Ok(None),
            WitPlan::ByAffinity(_) if self.has_numbered_affinity() => return Ok(None),
            WitPlan::Sequence(picks) => (Order::Sequence, picks),
            WitPlan::ByAffinity(picks) => (Order::ByAffinity, picks),
        };
        let state = self.store.data();
        let plan = Plan::new(order, &picks, &state.told, serial, self.calls + 1, state.methods())?;
        self.calls += plan.as_ref().map_or(0, Plan::calls);
        Ok(plan)
    }

    /// Whether the affinity of picks is a number, and says nothing of where a value belongs.
    fn has_numbered_affinity(&self) -> bool {
        self.store.data().affinity_key().is_some_and(|(_, kind)| kind == AffinityKind::Number)
    }

    /// Whether the policy wants to be told how RPCs end.
    pub(super) const fn wants_outcomes(&self) -> bool {
        self.exports.outcomes.is_some()
    }

    /// Tells how RPCs ended.
    pub(super) fn done(&mut self, batch: &[Outcome]) -> Result<(), Fault> {
        let Self { store, exports, limits, .. } = self;
        let Some(outcomes) = &exports.outcomes else { return Ok(()) };
        arm(store, limits.update);
        let told = outcomes.call_done(&mut *store, batch, imports::now());
        told.map_err(|error| fault(store, &error))?;
        self.grant_wishes();
        Ok(())
    }

    /// Whether a timer has been set since this was last asked.
    pub(super) fn has_new_timer(&mut self) -> bool {
        self.exports.alarms.is_some() && self.store.data_mut().timers.take_new()
    }

    /// When its next timer is due.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.exports.alarms.as_ref().and_then(|_| self.store.data().timers.next())
    }

    /// Delivers the timers that are due.
    pub(super) fn fire(&mut self) -> Result<(), Fault> {
        let due = self.store.data_mut().timers.take_due(Instant::now());
        self.fire_these(due)
    }

    /// The same of all timers, due or not: for trials.
    pub(super) fn fire_all(&mut self) -> Result<(), Fault> {
        let longest = self.next_timer().into_iter().fold(Instant::now(), Instant::max);
        let due = self.store.data_mut().timers.take_due(longest + Duration::from_secs(3600));
        self.fire_these(due)
    }

    fn fire_these(&mut self, due: Vec<u32>) -> Result<(), Fault> {
        let Self { store, exports, limits, .. } = self;
        let Some(alarms) = &exports.alarms else { return Ok(()) };
        // Once each, and all together in the time of one: a policy that sets them anew must not be at it for
        // ever.
        arm(store, limits.update);
        for id in due {
            let told = alarms.call_fired(&mut *store, id, imports::now());
            told.map_err(|error| fault(store, &error))?;
        }
        self.grant_wishes();
        Ok(())
    }

    /// Whether the policy has a state to hand over.
    pub(super) const fn can_save(&self) -> bool {
        self.exports.handover.is_some()
    }

    /// The policy's state, if it has one that is not too large.
    pub(super) fn save(&mut self) -> Result<Option<Saved>, Fault> {
        let Self { store, exports, limits, .. } = self;
        let Some(handover) = &exports.handover else { return Ok(None) };
        arm(store, limits.save);
        store.set_hostcall_fuel(limits.handed_over.max(limits.saved.saturating_mul(2)));
        let saved = handover.call_save(&mut *store);
        store.set_hostcall_fuel(limits.handed_over);
        let WitSaved { schema, data } = saved.map_err(|error| fault(store, &error))?;
        self.grant_wishes();
        let size = data.len();
        if size > self.limits.saved {
            let limit = self.limits.saved;
            tracing::warn!(policy = self.policy, size, limit, "state too large: it is not kept");
            return Ok(None);
        }
        Ok(Some(Saved { schema, data }))
    }

    pub(super) fn restore(&mut self, parts: &[Saved]) -> Result<Result<(), String>, Fault> {
        let Self { store, exports, limits, .. } = self;
        let Some(handover) = &exports.handover else { return Ok(Ok(())) };
        let part = |saved: &Saved| WitSaved { schema: saved.schema, data: saved.data.clone() };
        let parts: Vec<_> = parts.iter().map(part).collect();
        arm(store, limits.init);
        let restored = handover.call_restore(&mut *store, &parts);
        restored.map_err(|error| fault(store, &error))
    }

    /// What the policy says of itself: a summary, and the schema of its configuration.
    pub(super) fn describe(&mut self) -> Result<Option<(String, String)>, Fault> {
        let Self { store, exports, limits, .. } = self;
        let Some(about) = &exports.about else { return Ok(None) };
        arm(store, limits.init);
        let said = about.call_describe(&mut *store).map_err(|error| fault(store, &error))?;
        Ok(Some((said.summary, said.config_schema)))
    }

    /// What the policy has declared, and what it holds.
    pub(super) fn state(&self) -> &State {
        self.store.data()
    }

    /// Bytes of memory in use.
    pub(super) fn memory(&self) -> usize {
        self.store.data().memory.used()
    }

    /// It knows all there is to know: what it has now, a fresh one would have, too.
    pub(super) fn settled(mut self) -> Self {
        self.started_with = self.memory();
        self
    }

    /// There is little left of its memory, and a fresh one would have more.
    pub(super) fn is_worn(&self) -> bool {
        let memory = &self.store.data().memory;
        memory.is_short() && self.started_with < self.limits.memory / 5 * 3
    }

    /// Does what the policy wants done to connections.
    fn grant_wishes(&mut self) {
        let state = self.store.data_mut();
        let is_early = !self.in_force && matches!(self.role, Role::Serving(_));
        if state.wishes.is_empty() || is_early {
            return;
        }
        let Wishes { subconns, resolve_now } = std::mem::take(&mut state.wishes);
        let Role::Serving(resolver) = &self.role else { return };
        for (id, connect) in subconns {
            match state.told.find(id) {
                Some(subconn) if connect && subconn.state() == ConnectivityState::Idle => subconn.connect(),
                // One in backoff stays there: it is not the policy's to cut short.
                Some(subconn)
                    if !connect
                        && matches!(
                            subconn.state(),
                            ConnectivityState::Connecting | ConnectivityState::Ready
                        ) =>
                {
                    subconn.enter_idle();
                }
                _ => {}
            }
        }
        if resolve_now {
            resolver.request();
        }
    }
}

fn wit_endpoint(id: u32, endpoint: &Endpoint) -> WitEndpoint {
    let attribute = |(key, value): (&String, &String)| Attribute { key: key.clone(), value: value.clone() };
    WitEndpoint {
        id,
        addresses: endpoint.addresses().iter().map(ToString::to_string).collect(),
        weight: endpoint.weight(),
        attributes: endpoint.attributes().iter().map(attribute).collect(),
    }
}

const fn wit_state(state: ConnectivityState) -> WitState {
    match state {
        ConnectivityState::Idle => WitState::Idle,
        ConnectivityState::Connecting => WitState::Connecting,
        ConnectivityState::Ready => WitState::Ready,
        ConnectivityState::TransientFailure => WitState::TransientFailure,
        ConnectivityState::Shutdown => WitState::Shutdown,
    }
}

/// A call begins.
fn arm(store: &mut Store<State>, limit: Duration) {
    store.data_mut().arm(limit);
    store.set_epoch_deadline(1);
}

/// What the machine lacks, if that is why: wasmtime says so in words alone.
fn lack(error: &wasmtime::Error) -> Option<String> {
    let text = error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ");
    let of_the_system = ["mmap failed", "mprotect failed", "Cannot allocate memory", "os error 12"];
    of_the_system.iter().any(|words| text.contains(words)).then(|| clip(&text, 200))
}

fn fault(store: &Store<State>, error: &wasmtime::Error) -> Fault {
    match error.downcast_ref::<wasmtime::Trap>() {
        Some(wasmtime::Trap::Interrupt) => Fault::Deadline,
        // Most languages answer a refused growth by trapping.
        _ if store.data().memory.refused => Fault::Memory,
        trap => {
            let what = trap.map_or_else(|| clip(&error.root_cause().to_string(), 200), ToString::to_string);
            Fault::Trap(match store.data().last_words() {
                "" => what,
                words => format!("{what}; it said: {words}"),
            })
        }
    }
}

const fn grpc_code(code: FailCode) -> tonic::Code {
    match code {
        FailCode::Cancelled => tonic::Code::Cancelled,
        FailCode::Unknown => tonic::Code::Unknown,
        FailCode::DeadlineExceeded => tonic::Code::DeadlineExceeded,
        FailCode::PermissionDenied => tonic::Code::PermissionDenied,
        FailCode::ResourceExhausted => tonic::Code::ResourceExhausted,
        FailCode::Unimplemented => tonic::Code::Unimplemented,
        FailCode::Internal => tonic::Code::Internal,
        FailCode::Unavailable => tonic::Code::Unavailable,
        FailCode::Unauthenticated => tonic::Code::Unauthenticated,
    }
}
