//! A Store with one instance of a policy.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::Store;

use super::bindings::exports::hotpick::policy::lifecycle::Placement as WitPlacement;
use super::exports::Exports;
use super::fault::{Fault, InstanceError};
#[cfg(feature = "testing")]
use super::imports::Playback;
use super::imports::{Effects, HostState, InstanceConfig, Tape};
use super::program::Program;
use super::record::{record, record_init};
use super::time::now;
use crate::connectivity::ConnectivityState;
use crate::lifecycle::{Placement, SavedState, Standing};
use crate::policy::compile::has_stack;
use crate::policy::judge::Instruments;
use crate::policy::limits::Limits;
use crate::resolver::ResolveNow;
use crate::subconn::OutcomeSink;
use crate::text::clip;
use crate::trace::{Event, Finish, Recorder, Scratch};

/// An instance of a policy. After a [`Fault`] it must not be called again.
pub(crate) struct Instance {
    pub(super) store: Store<HostState>,
    pub(super) exports: Exports,
    pub(super) limits: Limits,
    pub(super) policy: String,
    role: Role,
    /// Whether the policy may plan ahead.
    pub(super) plans: bool,
    /// Number of the last call.
    pub(super) calls: u64,
    /// Bytes of memory in use when the instance was [settled](Self::settled).
    settled_memory: usize,
    /// Whether the policy has been notified of the ready subconns at least once.
    pub(super) is_notified: bool,
    /// What the instance may do. Before the channel picks with it, its requests to connect and disconnect are not carried
    /// out: another policy is active, which may want the contrary.
    standing: Standing,
    /// Receives the ends of the RPCs that the instance has picked for, if they are recorded.
    recorded_ends: Option<Arc<dyn OutcomeSink>>,
}

/// Purpose of an instance.
#[derive(Clone)]
pub(crate) enum Role {
    /// Picks for RPCs.
    Serving {
        /// Requests for a new resolution go to the resolver.
        resolve_now: ResolveNow,
        /// Records the instance, if it is recorded.
        recorder: Option<Arc<Recorder>>,
    },
    /// Rehearses: nothing that the policy does has an effect.
    Rehearsal,
    /// Repeats the calls of a trace, with its answers.
    #[cfg(feature = "testing")]
    Playing { seed: u64, playback: Playback },
}

impl Instance {
    /// Instantiates the policy, calls its `init`, and its `restore` with the states that its predecessors saved. A
    /// policy that refuses these states starts without them.
    pub(crate) fn new(
        program: &Program,
        placement: &Placement,
        role: Role,
        saved: &[SavedState],
    ) -> Result<Self, InstanceError> {
        let mut instance = Self::init(program, placement, role.clone(), saved)?;
        if saved.is_empty() || instance.exports.handover.is_none() {
            return Ok(instance);
        }
        let restored = instance.restore(saved);
        if let Ok(Ok(())) = restored {
            record(&mut instance.store, now(), || Event::Restore);
            return Ok(instance);
        }
        if matches!(role, Role::Serving { .. }) {
            let error = match &restored {
                Ok(Err(error)) => error.clone(),
                Err(fault) => fault.to_string(),
                Ok(Ok(())) => String::new(),
            };
            tracing::warn!(policy = %program.spec.version, error, "saved state not restored: cold start");
        }
        // The state may have been restored in part.
        instance.store.data_mut().recorder = None;
        Self::init(program, placement, role, &[])
    }

    /// `saved`: what the instance is to restore, for its trace.
    fn init(
        program: &Program,
        placement: &Placement,
        role: Role,
        saved: &[SavedState],
    ) -> Result<Self, InstanceError> {
        let Program { linked, spec, metrics } = program;
        let limits = spec.limits;
        if !has_stack() {
            return Err(InstanceError::NoStack);
        }
        if placement.config.len() > limits.config {
            return Err(InstanceError::ConfigTooLong(placement.config.len(), limits.config));
        }
        let (seed, tape, recorder) = match &role {
            Role::Serving { recorder: Some(recorder), .. } => {
                (placement.next_seed(), Tape::Recording(Scratch::default()), Some(Arc::clone(recorder)))
            }
            Role::Serving { recorder: None, .. } | Role::Rehearsal => {
                (placement.next_seed(), Tape::Off, None)
            }
            #[cfg(feature = "testing")]
            Role::Playing { seed, playback } => (*seed, Tape::Playing(playback.clone()), None),
        };
        let is_rehearsal = !matches!(role, Role::Serving { .. });
        let instruments =
            if is_rehearsal { Instruments::default().into() } else { metrics.instruments(&placement.target) };
        let config = InstanceConfig {
            policy: spec.version.name.clone(),
            seed,
            limits,
            grants: Arc::clone(&spec.grants),
            instruments,
            generation: spec.version.generation,
            reads_metadata: linked.reads_metadata,
            cut: Arc::clone(&placement.cut),
            silent: is_rehearsal,
            tape,
            recorder,
        };
        let state = HostState::new(config, linked.runtime.ticker.tick());
        let mut store = Store::new(linked.pre.engine(), state);
        store.limiter(|state| &mut state.memory);
        #[cfg(feature = "testing")]
        super::fuel::fill(&mut store);
        store.set_hostcall_fuel(limits.handed_over);
        store.epoch_deadline_callback(|mut store| {
            Ok(if store.data_mut().may_go_on() {
                wasmtime::UpdateDeadline::Continue(1)
            } else {
                wasmtime::UpdateDeadline::Interrupt
            })
        });

        arm(&mut store, limits.init);
        let instantiated = linked.pre.instantiate(&mut store);
        let instantiated = instantiated.and_then(|instance| linked.indices.load(&mut store, &instance));
        let exports = instantiated.map_err(|error| InstanceError::of_instantiation(&store, &error))?;
        let mut instance = Self {
            store,
            exports,
            limits,
            policy: spec.version.name.clone(),
            role,
            plans: spec.plans,
            calls: 0,
            settled_memory: 0,
            is_notified: false,
            standing: Standing::Shadow,
            recorded_ends: None,
        };
        let placed = WitPlacement {
            target: placement.target.clone(),
            shard: placement.shard.number,
            shards: placement.shard.count,
            seed,
            generation: spec.version.generation,
        };
        instance.store.data_mut().in_init = true;
        let lifecycle = &instance.exports.lifecycle;
        let init = lifecycle.call_init(&mut instance.store, &placement.config, &placed);
        instance.store.data_mut().in_init = false;
        if let Ok(result) = &init {
            record_init(&mut instance.store, program, &placed, &placement.config, saved, result);
        }
        match init {
            Ok(Ok(())) => Ok(instance),
            Ok(Err(message)) => Err(InstanceError::Refused(clip(&message, limits.log_line))),
            Err(error) => Err(Fault::of_call(&instance.store, &error).into()),
        }
    }

    /// Sets what the instance may do, now that the channel uses it.
    pub(crate) const fn activate(&mut self, standing: Standing) {
        self.standing = standing;
    }

    /// Returns the host's state for the instance, with the policy's declarations.
    pub(crate) fn state(&self) -> &HostState {
        self.store.data()
    }

    /// Returns the number of bytes of memory in use.
    pub(crate) fn memory(&self) -> usize {
        self.store.data().memory.used()
    }

    /// Marks the start as complete: a new instance would need as much memory as this one uses now.
    pub(crate) fn settled(mut self) -> Self {
        self.settled_memory = self.memory();
        self
    }

    /// Returns whether little memory is left, and a new instance would have more.
    pub(crate) fn is_worn(&self) -> bool {
        let memory = &self.store.data().memory;
        memory.is_short() && self.settled_memory < self.limits.memory / 5 * 3
    }

    /// Returns whether the policy may make plans.
    pub(crate) const fn makes_plans(&self) -> bool {
        self.plans && self.exports.plans.is_some()
    }

    /// Returns whether the policy wants to be notified of the ends of RPCs.
    pub(crate) const fn wants_outcomes(&self) -> bool {
        self.exports.outcomes.is_some()
    }

    /// Returns whether the policy has a state to hand over.
    pub(crate) const fn can_save(&self) -> bool {
        self.exports.handover.is_some()
    }

    /// Carries out what the policy has requested in a call that has returned.
    pub(super) fn apply_effects(&mut self) {
        let state = self.store.data_mut();
        let is_early = self.standing == Standing::Shadow && matches!(self.role, Role::Serving { .. });
        if state.effects.is_empty() || is_early {
            return;
        }
        let Effects { subconns, resolve_now } = std::mem::take(&mut state.effects);
        let Role::Serving { resolve_now: resolver, .. } = &self.role else { return };
        for (id, connect) in subconns {
            match state.acknowledged.find(id) {
                Some(subconn) if connect && subconn.state() == ConnectivityState::Idle => subconn.connect(),
                // A subconn in backoff stays in backoff, which the policy cannot shorten.
                Some(subconn)
                    if !connect
                        && self.standing == Standing::Active
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

impl Instance {
    /// Returns the recorder, if the instance is recorded.
    pub(crate) fn recorder(&self) -> Option<&Arc<Recorder>> {
        self.store.data().recorder.as_ref()
    }

    /// Sets what receives the ends of the RPCs that the instance picks for.
    pub(crate) fn record_ends(&mut self, sink: Arc<dyn OutcomeSink>) {
        self.recorded_ends = Some(sink);
    }

    /// Returns what receives the ends of the RPCs that the instance picks for, if they are recorded.
    pub(crate) fn recorded_ends(&self) -> Option<Arc<dyn OutcomeSink>> {
        self.recorded_ends.clone()
    }

    /// Ends the recording of the instance, for this reason.
    pub(crate) fn stop_recording(&mut self, why: Finish) {
        self.recorded_ends = None;
        let state = self.store.data_mut();
        state.tape = Tape::Off;
        if let Some(recorder) = state.recorder.take() {
            recorder.finish(now(), why);
        }
    }

    /// Records a fault, which ends the recording.
    pub(crate) fn record_fault(&mut self, fault: &str) {
        record(&mut self.store, now(), || Event::Fault(fault.to_owned()));
        self.stop_recording(Finish::Fault);
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.stop_recording(Finish::Replaced);
    }
}

/// Starts to measure a call.
pub(super) fn arm(store: &mut Store<HostState>, limit: Duration) {
    // In this order: the clock may tick as soon as it knows of the call.
    store.set_epoch_deadline(1);
    store.data_mut().arm(limit);
}
