//! Calls into an instance.

#[cfg(feature = "testing")]
use std::time::Duration;

use tokio::time::Instant;

use super::bindings::exports::hotpick::policy::handover::Saved as WitSaved;
use super::bindings::exports::hotpick::policy::outcomes::Outcome;
use super::bindings::exports::hotpick::policy::picker::{
    PickInfo as WitPickInfo, PickResult as WitPickResult,
};
use super::bindings::exports::hotpick::policy::plans::Plan as WitPlan;
use super::bindings::hotpick::policy::types::FailCode;
use super::convert::{grpc_code, wit_endpoint, wit_state};
use super::fault::Fault;
use super::imports::{AffinityKind, HostState, PickExtras};
use super::instance::{Instance, arm};
use super::plan::{Order, Plan};
use super::record::{record, record_changed, record_pick, record_plan, saved_digest};
use super::time::{now, time};
use crate::connectivity::ConnectivityState;
use crate::lifecycle::SavedState;
use crate::picker::{Pick, PickInfo, PickResult, PickedBy};
use crate::policy::limits::LONGEST_PLAN;
use crate::subconn::{Changes, ReadySet};
use crate::trace::Event;

/// A pick, and the numbers that identify it when the RPC ends.
pub(crate) struct Answer {
    pub(crate) result: PickResult,
    pub(crate) call: u64,
    pub(crate) method: u32,
}

/// Returns the random number of a pick.
#[inline]
fn random(state: &mut HostState, info: &PickInfo<'_>) -> u64 {
    #[cfg(feature = "testing")]
    if let Some(random) = info.past.and_then(|past| past.random) {
        return random;
    }
    let _ = info;
    state.random.u64(..)
}

impl Instance {
    /// Notifies the policy of all changes since the previous notification.
    pub(crate) fn notify(&mut self, ready: &ReadySet) -> Result<(), Fault> {
        let Self { store, exports, limits, .. } = self;
        let Changes { added, removed, ready: ready_changed, states } =
            ready.changes_since(&store.data().acknowledged);
        // From now on subconn numbers refer to the new snapshot, also in what the policy requests during these calls.
        store.data_mut().acknowledged = ready.clone();
        // The first notification takes place even if nothing has changed, because it must come before any pick.
        let ready_changed = ready_changed || !std::mem::replace(&mut self.is_notified, true);
        let at = now();
        // A policy may rebuild a ring or a table of all endpoints when one of them changes.
        let limit = limits.update_of(ready.all().len() + removed.len());
        if !added.is_empty() || !removed.is_empty() {
            let added: Vec<_> = added.iter().map(|(id, endpoint)| wit_endpoint(*id, endpoint)).collect();
            arm(store, limit);
            let called = exports.endpoints.call_changed(&mut *store, &added, &removed, at);
            record_changed(store, at, &added, &removed);
            called.map_err(|error| Fault::of_call(store, &error))?;
        }
        if let Some(connectivity) = &exports.connectivity
            && !states.is_empty()
        {
            // One limit for all of these calls together, not for each.
            arm(store, limit);
            for (id, state) in states {
                let error = ready.find(id).filter(|_| state == ConnectivityState::TransientFailure);
                let message = error.and_then(|subconn| subconn.last_error()).unwrap_or_default();
                let called = connectivity.call_changed(&mut *store, id, wit_state(state), &message, at);
                let state = wit_state(state) as u8;
                record(store, at, || Event::State { subconn: id, state, message });
                called.map_err(|error| Fault::of_call(store, &error))?;
            }
        }
        if ready_changed {
            arm(store, limit);
            let called = exports.endpoints.call_ready(&mut *store, ready.ready().ids(), at);
            record(store, at, || Event::Ready(ready.ready().ids().to_vec()));
            called.map_err(|error| Fault::of_call(store, &error))?;
        }
        self.apply_effects();
        Ok(())
    }

    /// Calls the policy to pick a subconn among those that it was last notified of.
    pub(crate) fn pick(&mut self, info: &PickInfo<'_>) -> Result<Answer, Fault> {
        self.calls += 1;
        let store = &mut self.store;
        let state = store.data_mut();
        state.start_pick(info);
        let wit_info = WitPickInfo {
            call: self.calls,
            method: state.method(info.method),
            affinity: state.affinity(info),
            random: random(state, info),
            now: time(info.now),
            attempt: info.earlier_attempts(),
            wait_for_ready: info.wait_for_ready,
            requeued: info.requeued,
        };
        arm(store, self.limits.pick);
        #[cfg(feature = "testing")]
        let fuel = super::fuel::left(store);
        let answer = self.exports.picker.call_pick(&mut *store, wit_info);
        #[cfg(feature = "testing")]
        super::fuel::count(store, fuel);
        if store.data().recorder.is_some() {
            record_pick(store, info, &wit_info, answer.as_ref().ok().copied());
        }
        let answer = answer.map_err(|error| Fault::of_call(store, &error))?;
        let extras = store.data_mut().end_pick();
        let status = |code: FailCode, verb: &str| {
            let text = extras.as_ref().and_then(|extras| extras.explanation.clone());
            let text = text.unwrap_or_else(|| format!("{verb} by policy {:?}", self.policy));
            tonic::Status::new(grpc_code(code), text)
        };
        let result = match answer {
            WitPickResult::Pick(id) => {
                let state = store.data_mut();
                let subconn = state.acknowledged.find(id).ok_or(Fault::UnknownSubConn(id))?;
                let mut pick = Pick::to(subconn.clone());
                if state.lazy() && subconn.state() == ConnectivityState::Idle {
                    state.effects.subconns.insert(id, true);
                }
                if let Some(PickExtras { explanation, metadata }) = extras {
                    pick.metadata = metadata;
                    if let Some(explanation) = explanation {
                        pick.notes_mut().explanation = Some(explanation.into_boxed_str());
                    }
                }
                pick.by = PickedBy::Called;
                PickResult::Pick(pick)
            }
            WitPickResult::Queue => PickResult::Queue,
            WitPickResult::Fail(code) => PickResult::Fail(status(code, "failed")),
            WitPickResult::Drop(code) => PickResult::Drop(status(code, "dropped")),
        };
        self.apply_effects();
        Ok(Answer { result, call: wit_info.call, method: wit_info.method })
    }

    /// Calls the policy to plan picks ahead, for the endpoints that it knows. The policy is not called for planned
    /// picks. `None`: the policy makes no plan now.
    pub(crate) fn plan(&mut self, serial: u64) -> Result<Option<Plan>, Fault> {
        let Self { store, exports, limits, .. } = self;
        let Some(plans) = exports.plans.as_ref().filter(|_| self.plans) else { return Ok(None) };
        let random = store.data_mut().random.u64(..);
        arm(store, limits.update_of(store.data().acknowledged.all().len()));
        let at = now();
        let made = plans.call_make(&mut *store, LONGEST_PLAN, random, at);
        record_plan(store, at, random, made.as_ref().ok());
        let made = made.map_err(|error| Fault::of_call(store, &error))?;
        self.apply_effects();
        let (order, picks) = match made {
            WitPlan::None => return Ok(None),
            WitPlan::ByAffinity(_) if self.has_numbered_affinity() => return Ok(None),
            WitPlan::Sequence(picks) => (Order::Sequence, picks),
            WitPlan::ByAffinity(picks) => (Order::ByAffinity, picks),
        };
        let state = self.store.data();
        let plan = Plan::new(order, picks, &state.acknowledged, serial, self.calls + 1, state.methods())?;
        self.calls += plan.as_ref().map_or(0, Plan::calls);
        Ok(plan)
    }

    /// Returns whether the affinity of picks is a number. A number, unlike a hash, cannot select an entry of a table.
    pub(super) fn has_numbered_affinity(&self) -> bool {
        self.store.data().affinity_key().is_some_and(|(_, kind)| kind == AffinityKind::Number)
    }

    /// Reports the ends of RPCs.
    pub(crate) fn done(&mut self, batch: &[Outcome]) -> Result<(), Fault> {
        let Self { store, exports, limits, .. } = self;
        let Some(outcomes) = &exports.outcomes else { return Ok(()) };
        arm(store, limits.update);
        let at = now();
        let called = outcomes.call_done(&mut *store, batch, at);
        record(store, at, || Event::Done(u32::try_from(batch.len()).unwrap_or(u32::MAX)));
        called.map_err(|error| Fault::of_call(store, &error))?;
        self.apply_effects();
        Ok(())
    }

    /// Returns whether a timer was set since the last call of this function.
    pub(crate) fn has_new_timer(&mut self) -> bool {
        self.exports.alarms.is_some() && self.store.data_mut().timers.take_new()
    }

    /// Returns when the next timer is due.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.exports.alarms.as_ref().and_then(|_| self.store.data().timers.next())
    }

    /// Delivers the timers that are due.
    pub(crate) fn fire(&mut self) -> Result<(), Fault> {
        let due = self.store.data_mut().timers.take_due(Instant::now());
        self.fire_these(due)
    }

    /// Delivers all timers, due or not: for rehearsals.
    #[cfg(feature = "testing")]
    pub(crate) fn fire_all(&mut self) -> Result<(), Fault> {
        let longest = self.next_timer().into_iter().fold(Instant::now(), Instant::max);
        let due = self.store.data_mut().timers.take_due(longest + Duration::from_secs(3600));
        self.fire_these(due)
    }

    fn fire_these(&mut self, due: Vec<u32>) -> Result<(), Fault> {
        let Self { store, exports, limits, .. } = self;
        let Some(alarms) = &exports.alarms else { return Ok(()) };
        // Each timer once, and all within the limit of one call: a policy that sets timers again must not run forever.
        arm(store, limits.update);
        for id in due {
            let at = now();
            let called = alarms.call_fired(&mut *store, id, at);
            record(store, at, || Event::Fired(id));
            called.map_err(|error| Fault::of_call(store, &error))?;
        }
        self.apply_effects();
        Ok(())
    }

    /// Returns the policy's state. `None`: the policy does not save a state, or the state is too large.
    pub(crate) fn save(&mut self) -> Result<Option<SavedState>, Fault> {
        let Self { store, exports, limits, .. } = self;
        let Some(handover) = &exports.handover else { return Ok(None) };
        arm(store, limits.save);
        store.set_hostcall_fuel(limits.handed_over.max(limits.saved.saturating_mul(2)));
        let saved = handover.call_save(&mut *store);
        store.set_hostcall_fuel(limits.handed_over);
        let WitSaved { schema, data } = saved.map_err(|error| Fault::of_call(store, &error))?;
        record(store, now(), || Event::Saved { schema, data: saved_digest(&data) });
        self.apply_effects();
        let size = data.len();
        if size > self.limits.saved {
            let limit = self.limits.saved;
            tracing::warn!(policy = self.policy, size, limit, "saved state is too large: discarded");
            return Ok(None);
        }
        Ok(Some(SavedState { schema, data }))
    }

    /// Restores a state. The inner error is the policy's own refusal.
    pub(crate) fn restore(&mut self, saved: &[SavedState]) -> Result<Result<(), String>, Fault> {
        let Self { store, exports, limits, .. } = self;
        let Some(handover) = &exports.handover else { return Ok(Ok(())) };
        let part = |saved: &SavedState| WitSaved { schema: saved.schema, data: saved.data.clone() };
        let parts: Vec<_> = saved.iter().map(part).collect();
        arm(store, limits.init);
        let restored = handover.call_restore(&mut *store, &parts);
        restored.map_err(|error| Fault::of_call(store, &error))
    }

    /// Returns the policy's summary of itself, and the JSON Schema of its configuration. `None`: the policy does not
    /// export `about`.
    #[cfg(feature = "testing")]
    pub(crate) fn describe(&mut self) -> Result<Option<(String, String)>, Fault> {
        let Self { store, exports, limits, .. } = self;
        let Some(about) = &exports.about else { return Ok(None) };
        arm(store, limits.init);
        let said = about.call_describe(&mut *store).map_err(|error| Fault::of_call(store, &error))?;
        Ok(Some((said.summary, said.config_schema)))
    }
}
