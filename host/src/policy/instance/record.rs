//! Recording of an instance: each call, when it has returned.

use http::{HeaderMap, HeaderName};
use smallvec::SmallVec;
use twox_hash::XxHash64;
use wasmtime::Store;

use super::bindings::exports::hotpick::policy::lifecycle::Placement;
use super::bindings::exports::hotpick::policy::picker::{PickInfo, PickResult};
use super::bindings::exports::hotpick::policy::plans::Plan;
use super::bindings::hotpick::policy::types::Endpoint;
use super::convert::grpc_code;
use super::imports::{AffinityKind, HostState, Methods, Tape};
use super::program::Program;
use super::time::{now, time};
use crate::lifecycle::SavedState;
use crate::picker;
use crate::policy::instance::Outcome;
use crate::trace::{self, Digest, Event, LastValues, Made, PickParts, PlannedParts, Recorder, ValueParts};

/// Records a call that has returned.
pub(super) fn record(store: &mut Store<HostState>, at: u64, event: impl FnOnce() -> Event) {
    let state = store.data_mut();
    if let (Some(recorder), Tape::Recording(answers)) = (&state.recorder, &mut state.tape) {
        recorder.record(at, &event(), answers.written());
        answers.clear();
    }
}

/// Records that the instance was started, with `init`.
pub(super) fn record_init(
    store: &mut Store<HostState>,
    program: &Program,
    placed: &Placement,
    config: &str,
    saved: &[SavedState],
    result: &Result<(), String>,
) {
    let state = store.data_mut();
    let affinity = state.affinity_key().filter(|(_, kind)| *kind == AffinityKind::Hash);
    let affinity = affinity.map(|(key, _)| key.as_str().to_owned());
    let (Some(recorder), Tape::Recording(answers)) = (&state.recorder, &mut state.tape) else { return };
    let version = &program.spec.version;
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let start = trace::Start {
        policy: version.name.clone(),
        generation: version.generation,
        digest: version.digest.clone(),
        target: placed.target.clone(),
        shard: placed.shard,
        shards: placed.shards,
        seed: placed.seed,
        config: config.to_owned(),
        saved: saved.iter().map(|saved| (saved.schema, saved.data.clone())).collect(),
        unix_ms: u64::try_from(since_1970.as_millis()).unwrap_or_default(),
    };
    recorder.restart();
    recorder.knows_config(config);
    recorder.record(now(), &Event::Start(Box::new(start)), &[]);
    let mut keys: Vec<_> = state.keys.iter().map(|key| key.as_str().to_owned()).collect();
    for key in recorder.metadata() {
        if !keys.contains(key) {
            keys.push(key.clone());
        }
    }
    keys.truncate(usize::from(u8::MAX));
    let init = trace::Init { result: result.clone(), keys, affinity };
    recorder.record(now(), &Event::Init(Box::new(init)), answers.written());
    answers.clear();
}

/// Records a notification of endpoints.
pub(super) fn record_changed(store: &mut Store<HostState>, at: u64, added: &[Endpoint], removed: &[u32]) {
    let Some(recorder) = store.data().recorder.clone() else { return };
    for endpoint in added {
        recorder.knows(endpoint.attributes.iter().map(|attribute| attribute.value.as_str()));
    }
    // What was hashed may be known now.
    store.data_mut().recorded_values = LastValues::default();
    record(store, at, || Event::Changed {
        added: added.iter().map(endpoint).collect(),
        removed: removed.to_owned(),
    });
}

fn endpoint(endpoint: &Endpoint) -> trace::Endpoint {
    let attributes = endpoint.attributes.iter();
    trace::Endpoint {
        id: endpoint.id,
        addresses: endpoint.addresses.clone(),
        weight: endpoint.weight,
        attributes: attributes.map(|attribute| (attribute.key.clone(), attribute.value.clone())).collect(),
    }
}

/// Records a pick. `None`: the call was a fault.
#[inline(never)]
pub(super) fn record_pick(
    store: &mut Store<HostState>,
    info: &picker::PickInfo<'_>,
    told: &PickInfo,
    answer: Option<PickResult>,
) {
    let state = store.data_mut();
    let (Some(recorder), Tape::Recording(answers)) = (&state.recorder, &mut state.tape) else { return };
    // Filled in place: moving it would cost as much as the rest.
    let mut values = Values::new();
    if state.reads_metadata && recorder.metadata().is_empty() {
        // Those that were looked up for the policy.
        for (key, value) in state.call.metadata() {
            let parts = state.recorded_values.value(recorder, key, state.keys[key].as_str(), value);
            values.push((place(key), parts));
        }
    } else {
        find(&mut values, recorder, &state.keys, info.metadata);
    }
    let pick = PickParts {
        call: told.call,
        method: told.method,
        affinity: told.affinity,
        random: told.random,
        attempt: told.attempt,
        wait_for_ready: told.wait_for_ready,
        requeued: told.requeued,
        tried: info.tried,
        values: &values,
        result: match answer {
            Some(PickResult::Pick(id)) => trace::PickResult::Pick(id),
            Some(PickResult::Queue) => trace::PickResult::Queue,
            Some(PickResult::Fail(code)) => trace::PickResult::Fail(grpc_code(code) as u8),
            Some(PickResult::Drop(code)) => trace::PickResult::Drop(grpc_code(code) as u8),
            None => trace::PickResult::Fault,
        },
    };
    let name = |number| Methods::lock(&state.methods).known(number);
    recorder.record_pick(told.now, told.method, name, &pick, answers.written());
    answers.clear();
}

/// Returns the place of a key in a trace. There are fewer keys.
fn place(key: usize) -> u8 {
    u8::try_from(key).unwrap_or(u8::MAX)
}

/// Values of an RPC's metadata, with the places of their keys.
type Values<'a> = SmallVec<[(u8, ValueParts<'a>); 4]>;

/// Finds the values of these keys and of those that the recording keeps, as the trace may contain them.
fn find<'a>(found: &mut Values<'a>, recorder: &Recorder, declared: &[HeaderName], metadata: &'a HeaderMap) {
    if metadata.is_empty() || declared.is_empty() && recorder.metadata().is_empty() {
        return;
    }
    let mut place = 0u8;
    let mut add = |name: &str, values: http::header::GetAll<'a, http::HeaderValue>| {
        found.extend(values.iter().map(|value| (place, recorder.value(name, value.as_bytes()))));
        place = place.saturating_add(1);
    };
    for key in declared {
        add(key.as_str(), metadata.get_all(key));
    }
    for key in recorder.metadata().iter().filter(|key| !declared.iter().any(|known| known == key.as_str())) {
        add(key, metadata.get_all(key.as_str()));
    }
}

/// Records a plan. `None`: the call was a fault.
pub(super) fn record_plan(store: &mut Store<HostState>, at: u64, random: u64, made: Option<&Plan>) {
    record(store, at, || Event::Plan {
        random: random.to_le_bytes(),
        made: made.map_or(Made::Fault, digest_of),
    });
}

/// Returns what a trace contains of a plan.
pub(super) fn digest_of(plan: &Plan) -> Made {
    match plan {
        Plan::None => Made::None,
        Plan::Sequence(picks) => Made::Sequence(digest(picks)),
        Plan::ByAffinity(picks) => Made::ByAffinity(digest(picks)),
    }
}

fn digest(picks: &[u32]) -> Digest {
    use std::hash::Hasher as _;
    let mut hasher = XxHash64::with_seed(0);
    picks.iter().for_each(|id| hasher.write(&id.to_le_bytes()));
    Digest { length: picks.len() as u64, hash: hasher.finish() }
}

/// Returns what a trace contains of a saved state.
pub(super) fn saved_digest(data: &[u8]) -> Digest {
    Digest { length: data.len() as u64, hash: XxHash64::oneshot(0, data) }
}

/// A pick by a plan, for the trace of the instance that made the plan.
pub(crate) struct PlannedPick<'a> {
    pub(crate) info: &'a picker::PickInfo<'a>,
    pub(crate) call: u64,
    pub(crate) method: u32,
    pub(crate) affinity: Option<u64>,
    pub(crate) subconn: u32,
}

/// Records a pick by a plan.
pub(crate) fn record_planned(
    recorder: &Recorder,
    methods: &std::sync::Mutex<Methods>,
    keys: &[HeaderName],
    pick: &PlannedPick<'_>,
) {
    let mut values = Values::new();
    find(&mut values, recorder, keys, pick.info.metadata);
    let planned = PlannedParts {
        call: pick.call,
        method: pick.method,
        affinity: pick.affinity,
        subconn: pick.subconn,
        values: &values,
    };
    let name = |number| Methods::lock(methods).known(number);
    recorder.record_pick(time(pick.info.now), pick.method, name, &planned, &[]);
}

/// Records the end of an RPC.
pub(crate) fn record_end(recorder: &Recorder, outcome: &Outcome, reported: bool) {
    let load = outcome.load.map(|load| [load.application, load.cpu, load.memory, load.rps, load.eps]);
    let end = trace::End {
        call: outcome.call,
        subconn: outcome.subconn,
        method: outcome.method,
        code: outcome.code as u8,
        not_sent: outcome.not_sent,
        client_ended: outcome.client_ended,
        reported,
        latency: outcome.latency,
        load,
    };
    recorder.record_end(&end);
}
