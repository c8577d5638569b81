//! One Store, one instance of a policy in it, and what it was last told.

use wasmtime::Store;

use super::bindings::Policy as Exports;
use super::bindings::exports::hotpick::policy::endpoints::Endpoint as WitEndpoint;
use super::bindings::exports::hotpick::policy::lifecycle::Placement as WitPlacement;
use super::bindings::exports::hotpick::policy::picker::{
    PickInfo as WitPickInfo, PickResult as WitPickResult,
};
use super::bindings::hotpick::policy::types::{Attribute, FailCode};
use super::compiled::Compiled;
use super::imports::{self, State};
use crate::picker::{Pick, PickInfo, PickResult, Placement};
use crate::subconn::{Changes, ReadySet};

/// An instance of a policy. After a [`Fault`] it must not be called again: wasmtime has poisoned its
/// Store, or its answers make no sense.
pub(super) struct Instance {
    store: Store<State>,
    exports: Exports,
    told: ReadySet,
    calls: u64,
}

/// What ends an instance.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("trapped: {0}")]
    Trap(String),
    #[error("ran past its limit of time")]
    Deadline,
    #[error("asked for more memory than its limit")]
    Memory,
    #[error("picked subconn {0}, which does not exist")]
    UnknownSubConn(u32),
}

/// Why there is no instance.
#[derive(Debug, thiserror::Error)]
pub(super) enum InitError {
    #[error("failed to start: {0}")]
    Fault(#[from] Fault),
    #[error("refused its configuration: {0}")]
    Refused(String),
    #[error("has a configuration of {0} bytes, more than {1}")]
    ConfigTooLong(usize, usize),
}

impl Instance {
    /// Instantiates the policy and calls its `init`.
    pub(super) fn new(compiled: &Compiled, placement: &Placement) -> Result<Self, InitError> {
        let limits = &compiled.limits;
        if placement.config.len() > limits.config {
            return Err(InitError::ConfigTooLong(placement.config.len(), limits.config));
        }
        let seed = fastrand::u64(..);
        let name = compiled.version.name.clone();
        let state = State::new(name, seed, *limits, compiled.engine.tick());
        let mut store = Store::new(&compiled.engine.wasm, state);
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(limits.handed_over);
        store.epoch_deadline_callback(|mut store| {
            Ok(if store.data_mut().watchdog.look() {
                wasmtime::UpdateDeadline::Continue(1)
            } else {
                wasmtime::UpdateDeadline::Interrupt
            })
        });

        arm(&mut store, limits.init);
        let exports = compiled.pre.instantiate(&mut store).map_err(|error| fault(&store, &error))?;
        let mut instance = Self { store, exports, told: ReadySet::default(), calls: 0 };
        let place = WitPlacement {
            target: placement.target.clone(),
            shard: 0,
            shards: 1,
            seed,
            generation: compiled.version.generation,
        };
        instance.store.data_mut().in_init = true;
        let init = instance.exports.hotpick_policy_lifecycle().call_init(
            &mut instance.store,
            &placement.config,
            &place,
        );
        instance.store.data_mut().in_init = false;
        match init {
            Ok(Ok(())) => Ok(instance),
            Ok(Err(message)) => Err(InitError::Refused(imports::clip(&message, limits.log_line))),
            Err(error) => Err(fault(&instance.store, &error).into()),
        }
    }

    /// Tells the policy what has changed since it was last told.
    pub(super) fn tell(&mut self, compiled: &Compiled, ready: &ReadySet) -> Result<(), Fault> {
        let Changes { added, removed, ready: ready_changed } = ready.changes_since(&self.told);
        let now = imports::now();
        let store = &mut self.store;
        let endpoints = self.exports.hotpick_policy_endpoints();
        if !added.is_empty() || !removed.is_empty() {
            let added: Vec<_> = added
                .iter()
                .map(|(id, endpoint)| WitEndpoint {
                    id: *id,
                    addresses: endpoint.addresses().iter().map(ToString::to_string).collect(),
                    weight: endpoint.weight(),
                    attributes: endpoint
                        .attributes()
                        .iter()
                        .map(|(key, value)| Attribute { key: key.clone(), value: value.clone() })
                        .collect(),
                })
                .collect();
            arm(store, compiled.limits.update_of(added.len() + removed.len()));
            endpoints
                .call_changed(&mut *store, &added, &removed, now)
                .map_err(|error| fault(store, &error))?;
        }
        if ready_changed {
            let ids: Vec<_> = ready.ready().iter().map(crate::subconn::SubConn::id).collect();
            arm(store, compiled.limits.update_of(ids.len()));
            endpoints.call_ready(&mut *store, &ids, now).map_err(|error| fault(store, &error))?;
        }
        self.told = ready.clone();
        Ok(())
    }

    /// Asks the policy for a subconn, out of those that it was last told of.
    pub(super) fn pick(&mut self, compiled: &Compiled, info: &PickInfo<'_>) -> Result<PickResult, Fault> {
        self.calls += 1;
        let store = &mut self.store;
        let state = store.data_mut();
        state.begin(info);
        let asked = WitPickInfo {
            call: self.calls,
            method: state.method(info.method),
            affinity: state.affinity(),
            random: state.random.u64(..),
            now: imports::now(),
            attempt: u32::try_from(info.tried.len()).unwrap_or(u32::MAX),
            wait_for_ready: info.wait_for_ready,
            requeued: info.requeued,
        };
        arm(store, compiled.limits.pick);
        let answer = self.exports.hotpick_policy_picker().call_pick(&mut *store, asked);
        let answer = answer.map_err(|error| fault(store, &error))?;
        let left = store.data_mut().end();
        let status = |code: FailCode, verb: &str| {
            let text = left.explanation.clone();
            let text = text.unwrap_or_else(|| format!("{verb} by policy {:?}", compiled.version.name));
            tonic::Status::new(grpc_code(code), text)
        };
        Ok(match answer {
            WitPickResult::Pick(id) => {
                let subconn = self.told.find(id).ok_or(Fault::UnknownSubConn(id))?;
                let mut pick = Pick::to(subconn.clone());
                pick.metadata = left.added;
                PickResult::Pick(pick)
            }
            WitPickResult::Queue => PickResult::Queue,
            WitPickResult::Fail(code) => PickResult::Fail(status(code, "failed")),
            WitPickResult::Drop(code) => PickResult::Drop(status(code, "dropped")),
        })
    }
}

/// A call begins.
fn arm(store: &mut Store<State>, limit: std::time::Duration) {
    store.data_mut().watchdog.arm(limit);
    store.set_epoch_deadline(1);
}

fn fault(store: &Store<State>, error: &wasmtime::Error) -> Fault {
    match error.downcast_ref::<wasmtime::Trap>() {
        Some(wasmtime::Trap::Interrupt) => Fault::Deadline,
        // Most languages answer a refused growth by trapping.
        _ if store.data().memory.refused => Fault::Memory,
        Some(trap) => Fault::Trap(trap.to_string()),
        None => Fault::Trap(imports::clip(&error.root_cause().to_string(), 200)),
    }
}

fn grpc_code(code: FailCode) -> tonic::Code {
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
