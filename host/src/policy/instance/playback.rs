//! Repeats the calls of a trace in an instance.

use std::collections::VecDeque;
use std::ops::Range;

use super::bindings::exports::hotpick::policy::outcomes::{Load, Outcome};
use super::bindings::exports::hotpick::policy::picker::{PickInfo, PickResult as WitPickResult};
use super::bindings::exports::hotpick::policy::plans::Plan;
use super::bindings::hotpick::policy::types::{Attribute, ConnectivityState, Endpoint};
use super::convert::{grpc_code, wit_code};
use super::fault::{Fault, InstanceError};
use super::imports::{Playback, Tape};
use super::instance::{Instance, Role, arm};
use super::program::Program;
use super::record::{digest_of, saved_digest};
use crate::lifecycle::{Placement, SavedState};
use crate::policy::limits::LONGEST_PLAN;
use crate::trace::{self, Event, PickResult, Recorded, Start};

/// An instance that gets the calls of a trace.
pub(crate) struct Player {
    instance: Instance,
    saved: Vec<SavedState>,
    /// Ends of RPCs that are to be reported.
    ends: VecDeque<Outcome>,
    /// Number of the last call.
    calls: u64,
    /// The last plans: the numbers of their calls, and their picks.
    plans: VecDeque<(Range<u64>, Plan)>,
}

/// Number of plans that RPCs may still pick by.
const PLANS: usize = 8;

impl Player {
    /// Starts an instance as the recorded one was started, and compares what `init` returns.
    pub(crate) fn start(
        program: &Program,
        start: &Start,
        init: &trace::Init,
        answers: &[u8],
    ) -> Result<(Option<Self>, Option<String>), InstanceError> {
        let mut placement = Placement::new(start.target.clone(), start.config.clone());
        placement.shard.number = start.shard;
        placement.shard.count = start.shards;
        let mut playback = Playback::default();
        playback.load(answers);
        let role = Role::Playing { seed: start.seed, playback };
        let saved = start.saved.iter().map(|(schema, data)| SavedState::new(*schema, data.clone())).collect();
        let (instance, result) = match Instance::new(program, &placement, role, &[]) {
            Ok(instance) => (Some(instance), Ok(())),
            Err(InstanceError::Refused(why)) => (None, Err(why)),
            Err(error) => return Err(error),
        };
        let player = instance.map(|instance| Self {
            instance,
            saved,
            ends: VecDeque::new(),
            calls: 0,
            plans: VecDeque::new(),
        });
        if result != init.result {
            let text =
                format!("init returned {}, and in the recording {}", shown(&result), shown(&init.result));
            return Ok((player, Some(text)));
        }
        let mut player = player;
        let difference = player.as_mut().and_then(Self::difference);
        Ok((player, difference))
    }

    fn difference(&mut self) -> Option<String> {
        match &mut self.instance.store.data_mut().tape {
            Tape::Playing(playback) => playback.difference(),
            Tape::Off | Tape::Recording(_) => None,
        }
    }

    /// Repeats an event. Returns how the policy does something else than in the trace, if it does.
    pub(crate) fn play(&mut self, recorded: &Recorded) -> Result<Option<String>, Fault> {
        if let Tape::Playing(playback) = &mut self.instance.store.data_mut().tape {
            playback.load(&recorded.answers);
        }
        let differs = self.call(recorded.at, &recorded.event)?;
        Ok(self.difference().or(differs))
    }

    fn call(&mut self, at: u64, event: &Event) -> Result<Option<String>, Fault> {
        let Instance { store, exports, limits, .. } = &mut self.instance;
        let called = match event {
            Event::Restore => {
                let restored = self.instance.restore(&self.saved)?;
                return Ok(restored.err().map(|error| format!("the policy does not restore: {error}")));
            }
            Event::Changed { added, removed } => {
                arm(store, limits.update_of(added.len() + removed.len()));
                let added: Vec<_> = added.iter().map(endpoint).collect();
                exports.endpoints.call_changed(&mut *store, &added, removed, at)
            }
            Event::State { subconn, state, message } => {
                let Some(connectivity) = &exports.connectivity else { return Ok(missing("connectivity")) };
                arm(store, limits.update);
                connectivity.call_changed(&mut *store, *subconn, connectivity_state(*state), message, at)
            }
            Event::Ready(ready) => {
                arm(store, limits.update_of(ready.len()));
                exports.endpoints.call_ready(&mut *store, ready, at)
            }
            Event::Pick(pick) => return self.pick(at, pick),
            Event::Plan { random, made } => return self.plan(at, u64::from_le_bytes(*random), *made),
            Event::Planned(planned) => return Ok(self.planned(planned)),
            Event::End(end) => {
                if end.reported {
                    self.ends.push_back(outcome(end));
                }
                return Ok(None);
            }
            Event::Done(count) => {
                let Some(outcomes) = &exports.outcomes else { return Ok(missing("outcomes")) };
                let count = usize::try_from(*count).unwrap_or(usize::MAX).min(self.ends.len());
                let batch: Vec<_> = self.ends.drain(..count).collect();
                arm(store, limits.update);
                outcomes.call_done(&mut *store, &batch, at)
            }
            Event::Fired(id) => {
                let Some(alarms) = &exports.alarms else { return Ok(missing("alarms")) };
                arm(store, limits.update);
                alarms.call_fired(&mut *store, *id, at)
            }
            Event::Saved { schema, data } => {
                let Some(handover) = &exports.handover else { return Ok(missing("handover")) };
                arm(store, limits.save);
                store.set_hostcall_fuel(limits.handed_over.max(limits.saved.saturating_mul(2)));
                let saved = handover.call_save(&mut *store);
                store.set_hostcall_fuel(limits.handed_over);
                let saved = saved.map_err(|error| Fault::of_call(store, &error))?;
                let is_same = (saved.schema, saved_digest(&saved.data)) == (*schema, *data);
                return Ok((!is_same).then(|| "the policy saves another state".to_owned()));
            }
            Event::Start(_) | Event::Init(_) | Event::Method(_) | Event::Fault(_) | Event::Finish(_) => {
                return Ok(None);
            }
        };
        called.map_err(|error| Fault::of_call(store, &error))?;
        Ok(None)
    }

    fn pick(&mut self, at: u64, pick: &trace::Pick) -> Result<Option<String>, Fault> {
        let Instance { store, exports, limits, .. } = &mut self.instance;
        self.calls = pick.call;
        let info = PickInfo {
            call: pick.call,
            method: pick.method,
            affinity: pick.affinity,
            random: u64::from_le_bytes(pick.random),
            now: at,
            attempt: pick.attempt,
            wait_for_ready: pick.wait_for_ready,
            requeued: pick.requeued,
        };
        arm(store, limits.pick);
        store.data_mut().activate_call();
        let picked = exports.picker.call_pick(&mut *store, info);
        let picked = picked.map_err(|error| Fault::of_call(store, &error))?;
        store.data_mut().end_pick();
        let picked = match picked {
            WitPickResult::Pick(id) => PickResult::Pick(id),
            WitPickResult::Queue => PickResult::Queue,
            WitPickResult::Fail(code) => PickResult::Fail(grpc_code(code) as u8),
            WitPickResult::Drop(code) => PickResult::Drop(grpc_code(code) as u8),
        };
        Ok((picked != pick.result)
            .then(|| format!("the policy answered {picked}, and in the recording {}", pick.result)))
    }

    fn plan(&mut self, at: u64, random: u64, recorded: trace::Made) -> Result<Option<String>, Fault> {
        let has_numbered_affinity = self.instance.has_numbered_affinity();
        let Instance { store, exports, limits, .. } = &mut self.instance;
        let Some(plans) = &exports.plans else { return Ok(missing("plans")) };
        arm(store, limits.update_of(usize::try_from(LONGEST_PLAN).unwrap_or(usize::MAX)));
        let made = plans.call_make(&mut *store, LONGEST_PLAN, random, at);
        let made = made.map_err(|error| Fault::of_call(store, &error))?;
        let is_same = digest_of(&made) == recorded;
        let calls = match &made {
            Plan::Sequence(picks) => picks.len() as u64,
            Plan::ByAffinity(picks) if !picks.is_empty() && !has_numbered_affinity => 1 << 32,
            Plan::ByAffinity(_) | Plan::None => 0,
        };
        self.plans.push_back((self.calls + 1..self.calls + 1 + calls, made));
        self.calls += calls;
        if self.plans.len() > PLANS {
            self.plans.pop_front();
        }
        Ok((!is_same).then(|| "the policy makes another plan".to_owned()))
    }

    fn planned(&self, planned: &trace::Planned) -> Option<String> {
        let by = self.plans.iter().find(|(calls, _)| calls.contains(&planned.call));
        let Some((calls, plan)) = by else {
            return Some("the policy has no plan with this pick".to_owned());
        };
        let at = |index: u64, picks: &[u32]| picks.get(usize::try_from(index).ok()?).copied();
        let picked = match plan {
            Plan::Sequence(picks) => at(planned.call - calls.start, picks),
            Plan::ByAffinity(picks) => {
                planned.affinity.and_then(|affinity| at(affinity.checked_rem(picks.len() as u64)?, picks))
            }
            Plan::None => None,
        };
        (picked != Some(planned.subconn)).then(|| {
            let picked = picked.map_or_else(|| "nothing".to_owned(), |id| format!("subconn {id}"));
            format!("the plan has {picked}, and in the recording subconn {}", planned.subconn)
        })
    }
}

fn missing(part: &str) -> Option<String> {
    Some(format!("the policy does not export {part}"))
}

fn shown(result: &Result<(), String>) -> String {
    result.as_ref().map_or_else(|error| format!("the error {error:?}"), |()| "no error".to_owned())
}

fn endpoint(endpoint: &trace::Endpoint) -> Endpoint {
    let attribute = |(key, value): &(String, String)| Attribute { key: key.clone(), value: value.clone() };
    Endpoint {
        id: endpoint.id,
        addresses: endpoint.addresses.clone(),
        weight: endpoint.weight,
        attributes: endpoint.attributes.iter().map(attribute).collect(),
    }
}

const fn connectivity_state(state: u8) -> ConnectivityState {
    match state {
        0 => ConnectivityState::Idle,
        1 => ConnectivityState::Connecting,
        2 => ConnectivityState::Ready,
        3 => ConnectivityState::TransientFailure,
        _ => ConnectivityState::Shutdown,
    }
}

fn outcome(end: &trace::End) -> Outcome {
    Outcome {
        call: end.call,
        subconn: end.subconn,
        method: end.method,
        code: wit_code(tonic::Code::from_i32(end.code.into())),
        not_sent: end.not_sent,
        client_ended: end.client_ended,
        latency: end.latency,
        load: end.load.map(|[application, cpu, memory, rps, eps]| Load {
            application,
            cpu,
            memory,
            rps,
            eps,
        }),
    }
}
