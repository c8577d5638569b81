//! What any policy must do, tested on one: for its author, whatever language it is written in.

use std::collections::BTreeMap;
use std::fmt::Display;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::scenarios::{COLORS, ended, endpoint};
use crate::connectivity::ConnectivityState;
use crate::lifecycle::{Placement, Policy as _, SavedState};
use crate::picker::{PickInfo, PickResult};
use crate::policy::instance::{InstanceError, Methods, PICKS, Rehearsal};
use crate::policy::wasm_policy::WasmPolicy;

/// How a policy is tried.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConformanceOptions {
    /// The configuration that it is to take: JSON, `{}` for none.
    pub config: String,
    /// So many picks in a row, over which its memory is not to grow.
    pub picks: u64,
    /// A policy whose routes it is to have, for both as they are configured: of the same RPCs on the same endpoints each
    /// endpoint is to get as many. Both must be exact, as round robins are.
    pub like: Option<WasmPolicy>,
}

impl Default for ConformanceOptions {
    fn default() -> Self {
        Self { config: "{}".to_owned(), picks: 1_000_000, like: None }
    }
}

/// One of the things that a policy has to do.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Conformance {
    /// Which.
    pub name: &'static str,
    /// Whether the policy conforms.
    pub passed: bool,
    /// What was observed, or why the policy does not conform.
    pub detail: String,
}

type Seen = Result<String, String>;

impl WasmPolicy {
    /// Tests what any policy must do whatever it is for: it refuses invalid configurations with a reason, works with
    /// every set of endpoints and every RPC, its optional parts work, and its memory does not grow. Within a Tokio
    /// runtime, but not on its worker threads: it blocks.
    #[must_use]
    pub fn conformance(&self, options: &ConformanceOptions) -> Vec<Conformance> {
        let policy = &self.clone().with_more_time(PATIENCE);
        let run = Run { policy, placement: self.placement(&Placement::new("check:///", &options.config)) };
        let mut all = vec![
            ("configuration", run.configuration()),
            ("endpoints", run.endpoints()),
            ("metadata", run.metadata()),
            ("methods", run.methods()),
            ("parts", run.parts()),
            ("hand-over", run.handover()),
            ("memory", run.memory(options.picks)),
        ];
        if let Some(like) = &options.like {
            let placement = like.placement(&Placement::new("check:///", "{}"));
            all.push((
                "routes",
                run.like(&Run { policy: &like.clone().with_more_time(PATIENCE), placement }),
            ));
        }
        all.into_iter()
            .map(|(name, result)| match result {
                Ok(detail) => Conformance { name, passed: true, detail },
                Err(detail) => Conformance { name, passed: false, detail },
            })
            .collect()
    }
}

/// Factor by which limits of CPU time are raised: how fast a policy is depends on what else the machine does.
const PATIENCE: u32 = 10;

/// A policy, and where it is tried.
struct Run<'a> {
    policy: &'a WasmPolicy,
    placement: Placement,
}

/// Configurations that no policy takes, with what they are.
const BAD: [(&str, &str); 4] = [
    ("", "no JSON"),
    (r#"{"no-such-setting": 1"#, "no whole JSON"),
    ("[]", "no object"),
    (r#"{"no-such-setting": 1}"#, "a setting that is not there"),
];

impl Run<'_> {
    fn start(&self) -> Result<Rehearsal, String> {
        Rehearsal::start(self.policy.program(), &self.placement, &[]).map_err(text)
    }

    /// Starts the policy with three ready endpoints.
    fn start_on_three(&self) -> Result<Rehearsal, String> {
        let mut rehearsal = self.start()?;
        rehearsal.set_ready(3).map_err(text)?;
        Ok(rehearsal)
    }

    fn configuration(&self) -> Seen {
        drop(self.start()?);
        let mut refused = 0;
        for (config, what) in BAD {
            let placement = Placement { config: config.to_owned(), ..self.placement.clone() };
            match Rehearsal::start(self.policy.program(), &placement, &[]) {
                Err(InstanceError::Refused(why)) if !why.trim().is_empty() => refused += 1,
                Err(InstanceError::Refused(_)) => {
                    return Err(format!("refuses {config:?} ({what}) without a word"));
                }
                Err(other) => return Err(format!("does not refuse {config:?} ({what}), but fails: {other}")),
                // Not wise, but no fault: what a setting is called is the policy's.
                Ok(_) => {}
            }
        }
        // What one instance refuses is nothing to the next.
        picks(&mut self.start_on_three()?, 3)?;
        Ok(format!("taken; {refused} of {} that are none refused, in words", BAD.len()))
    }

    fn endpoints(&self) -> Seen {
        let mut rehearsal = self.start()?;
        // None, one, more, others, attributes that change, all that fail, none again.
        let mut situations = 0;
        for (count, first, attribute, state) in [
            (0, 0, None, ConnectivityState::Ready),
            (1, 0, None, ConnectivityState::Ready),
            (3, 0, None, ConnectivityState::Ready),
            (3, 0, Some("color"), ConnectivityState::Ready),
            (1_000, 0, Some("color"), ConnectivityState::Ready),
            (3, 1_000, Some("color"), ConnectivityState::Ready),
            (3, 1_000, Some("color"), ConnectivityState::Connecting),
            (3, 1_000, None, ConnectivityState::TransientFailure),
            (3, 1_000, None, ConnectivityState::Ready),
            (0, 0, None, ConnectivityState::Ready),
        ] {
            let all = (first..first + count).map(|number| {
                let color = COLORS[number as usize % 3 % COLORS.len()];
                (
                    attribute
                        .into_iter()
                        .fold(endpoint(number), |endpoint, key| endpoint.with_attribute(key, color)),
                    state,
                )
            });
            let ready = rehearsal
                .set(all)
                .map_err(|error| format!("notified of {count} endpoints, {state}: {error}"))?;
            rehearsal.instance.plan(0).map_err(|fault| format!("planning for {count} endpoints: {fault}"))?;
            picks(&mut rehearsal, ready.ready().len())?;
            situations += 1;
        }
        Ok(format!("{situations} situations, of 0 to 1,000 endpoints"))
    }

    fn metadata(&self) -> Seen {
        let Rehearsal { mut instance, .. } = self.start_on_three()?;
        let keys: Vec<_> = instance.state().keys().to_vec();
        let long = "x".repeat(self.policy.program().spec.limits.metadata_value + 1);
        for value in ["", " ", "red", "\u{e9}\u{1f600}", "%", "-1", &long] {
            let mut headers = HeaderMap::new();
            for key in &keys {
                if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                    headers.append(key, value.clone());
                    headers.append(key, value);
                }
            }
            for number in 0..256 {
                let mut info = PickInfo::new("/hotpick.Check/Metadata", &headers);
                info.wait_for_ready = number % 2 == 1;
                info.requeued = number % 3 == 1;
                let tried = [number % 4];
                info.tried = if number % 5 == 0 { &tried } else { &[] };
                let shown: String = value.chars().take(16).collect();
                instance.pick(&info).map_err(|fault| format!("with the value {shown:?}: {fault}"))?;
            }
        }
        // More values than are remembered, by the host and by any policy that should forget some.
        for number in 0..20_000 {
            let value = format!("value {number}");
            let value = HeaderValue::try_from(value).map_err(|error| error.to_string())?;
            let headers: HeaderMap = keys.iter().map(|key| (key.clone(), value.clone())).collect();
            let picked = instance.pick(&PickInfo::new("/hotpick.Check/Metadata", &headers));
            picked.map_err(|fault| format!("with {number} different values: {fault}"))?;
        }
        let names: Vec<_> = keys.iter().map(HeaderName::as_str).collect();
        Ok(if names.is_empty() { "reads none".to_owned() } else { format!("reads {}", names.join(", ")) })
    }

    /// Every number that a method can have, and one more method than have one; each twice, and how its RPCs end.
    fn methods(&self) -> Seen {
        let mut rehearsal = self.start_on_three()?;
        let (bare, rich) = (HeaderMap::new(), rehearsal.metadata(COLORS[0]));
        let instance = &mut rehearsal.instance;
        let count = Methods::OTHER + 2;
        for number in (0..count).chain(0..count) {
            let name = format!("/hotpick.Check/Method{number}");
            for metadata in [&bare, &rich] {
                let answer = instance.pick(&PickInfo::new(&name, metadata));
                let answer = answer.map_err(|fault| format!("method {number}: {fault}"))?;
                if number % 64 == 0 || number >= Methods::OTHER {
                    let mut end = ended(answer.call, 0);
                    end.method = answer.method;
                    let done = instance.done(&[end]);
                    done.map_err(|fault| format!("outcomes of method {number}: {fault}"))?;
                }
            }
        }
        Ok(format!("{count}, of which {} have a number of their own", Methods::OTHER))
    }

    fn parts(&self) -> Seen {
        let mut rehearsal = self.start_on_three()?;
        let instance = &mut rehearsal.instance;
        let said = instance.describe().map_err(|fault| format!("about: {fault}"))?;
        if let Some((_, schema)) = said.filter(|(_, schema)| !schema.is_empty()) {
            serde_json::from_str::<serde_json::Value>(&schema)
                .map_err(|error| format!("about: its schema is not JSON: {error}"))?;
        }
        // RPCs that ended in every way, some of them on a subconn that is gone.
        for size in [1, 16, 256] {
            let batch: Vec<_> = (0..size).map(|number: u32| ended(number.into(), number % 5)).collect();
            instance.done(&batch).map_err(|fault| format!("outcomes: {fault}"))?;
        }
        instance.fire_all().map_err(|fault| format!("alarms: {fault}"))?;
        instance.plan(0).map_err(|fault| format!("plans: {fault}"))?;
        picks(&mut rehearsal, 3)?;
        let parts = self.policy.optional_parts();
        Ok(if parts.is_empty() { "none".to_owned() } else { parts.join(", ") })
    }

    fn handover(&self) -> Seen {
        let mut rehearsal = self.start_on_three()?;
        picks(&mut rehearsal, 3)?;
        let Some(saved) = rehearsal.instance.save().map_err(|fault| format!("save: {fault}"))? else {
            return Ok("none".to_owned());
        };
        let size = saved.data.len();
        let mut next = self.start()?;
        next.instance
            .restore(std::slice::from_ref(&saved))
            .map_err(|fault| format!("restore: {fault}"))?
            .map_err(|error| format!("restore: it refuses what it has saved: {error}"))?;
        next.set_ready(3).map_err(text)?;
        picks(&mut next, 3)?;
        // States of another version and of several instances, and bytes that are not a state.
        let other = SavedState::new(saved.schema.wrapping_add(1), saved.data.clone());
        let junk = SavedState::new(saved.schema, vec![0xff; 64]);
        for parts in [vec![saved.clone(), saved], vec![other], vec![junk]] {
            // It may refuse them: that is a cold start.
            let _ = (self.start()?.instance.restore(&parts))
                .map_err(|fault| format!("restore of what it did not save: {fault}"))?;
        }
        Ok(format!("{size} bytes saved and taken over"))
    }

    fn memory(&self, picks: u64) -> Seen {
        let mut rehearsal = self.start()?;
        let recolor = |rehearsal: &mut Rehearsal, color: &str| {
            let labelled =
                |number| (endpoint(number).with_attribute("color", color), ConnectivityState::Ready);
            rehearsal.set((0..3).map(labelled)).map(drop).map_err(text)
        };
        // A garbage collector takes as much as it is used to before it frees any.
        for _ in 0..4_096 {
            for color in [COLORS[1], COLORS[0]] {
                recolor(&mut rehearsal, color)?;
            }
        }
        let (bare, rich) = (HeaderMap::new(), rehearsal.metadata(COLORS[0]));
        let (mut half, mut outcomes) = (0, Vec::new());
        for number in 0..picks.max(2) {
            let metadata = if number % 2 == 0 { &bare } else { &rich };
            let answer = rehearsal.instance.pick(&PickInfo::new("/hotpick.Check/Memory", metadata));
            let answer = answer.map_err(|fault| format!("pick {number}: {fault}"))?;
            if let PickResult::Pick(pick) = answer.result {
                outcomes.push(ended(answer.call, pick.subconn.id()));
            }
            if number % 64 == 63 {
                rehearsal
                    .instance
                    .done(&outcomes)
                    .map_err(|fault| format!("outcomes after pick {number}: {fault}"))?;
                outcomes.clear();
                rehearsal.instance.fire().map_err(|fault| format!("alarms after pick {number}: {fault}"))?;
            }
            // What is told of endpoints is forgotten again.
            if number % 256 == 0 {
                for color in [COLORS[1], COLORS[0]] {
                    recolor(&mut rehearsal, color)?;
                }
            }
            if number == picks.max(2) / 2 {
                half = rehearsal.instance.memory();
            }
        }
        let end = rehearsal.instance.memory();
        let kib = |bytes: usize| bytes.div_ceil(1024);
        if end > half {
            return Err(format!(
                "{} KiB after {} picks, {} KiB after {picks}",
                kib(half),
                picks / 2,
                kib(end)
            ));
        }
        Ok(format!("{} KiB, the same after {} and {picks} picks", kib(end), picks / 2))
    }

    fn like(&self, other: &Run<'_>) -> Seen {
        let name = &other.policy.version().name;
        let theirs = other.routes().map_err(|error| format!("the other, {name:?}, fails: {error}"))?;
        let ours = self.routes()?;
        for ((situation, ours), theirs) in ours.iter().zip(theirs.values()) {
            for answer in ours.keys().chain(theirs.keys()) {
                let count = |of: &BTreeMap<String, usize>| of.get(answer).copied().unwrap_or_default();
                let (ours, theirs) = (count(ours), count(theirs));
                if ours != theirs {
                    return Err(format!(
                        "{situation}: {answer} {ours} times, and {theirs} times by the other"
                    ));
                }
            }
        }
        Ok(format!("those of {name:?} in {} situations", ours.len()))
    }

    /// How often each answer is given, in each situation.
    fn routes(&self) -> Result<BTreeMap<String, BTreeMap<String, usize>>, String> {
        let mut all = BTreeMap::new();
        let mut rehearsal = self.start()?;
        for (count, first) in [(3, 0), (2, 1), (1_000, 0), (0, 0), (4, 3)] {
            let endpoints = (first..first + count).map(|number| {
                // Of ten endpoints five are red, three blue, and two have no colour.
                let color = match number % 10 {
                    0..5 => Some("red"),
                    5..8 => Some("blue"),
                    _ => None,
                };
                let endpoint = endpoint(number);
                let labelled = color
                    .into_iter()
                    .fold(endpoint, |endpoint, color| endpoint.with_attribute("color", color));
                (labelled, ConnectivityState::Ready)
            });
            rehearsal.set(endpoints).map_err(text)?;
            for asked in [None, Some("red"), Some("blue"), Some("green")] {
                let mut metadata = HeaderMap::new();
                if let Some(color) = asked {
                    metadata.insert("color", HeaderValue::from_static(color));
                }
                let tally: &mut BTreeMap<_, usize> = all
                    .entry(format!("{count} endpoints, an RPC that asks for {}", asked.unwrap_or("nothing")))
                    .or_default();
                // A multiple of the size of each group, so that whose turn it is makes no difference.
                for _ in 0..3_000 {
                    let answer = rehearsal.instance.pick(&PickInfo::new("/hotpick.Check/Routes", &metadata));
                    *tally.entry(name(&answer.map_err(|fault| fault.to_string())?.result)).or_default() += 1;
                }
            }
        }
        Ok(all)
    }
}

/// An answer, in words.
fn name(result: &PickResult) -> String {
    let failed = |how: &str, status: &tonic::Status| format!("{how} {:?}", status.code());
    match result {
        PickResult::Pick(pick) => format!("picks {}", pick.subconn.endpoint().addresses()[0]),
        PickResult::Queue => "queues".to_owned(),
        PickResult::Fail(status) => failed("fails", status),
        PickResult::Drop(status) => failed("drops", status),
    }
}

/// Picks, half of the time with metadata. Not all RPCs may be queued if endpoints are ready.
fn picks(rehearsal: &mut Rehearsal, ready: usize) -> Result<(), String> {
    let queued = rehearsal.picks("/hotpick.Check/Pick", COLORS[0]);
    let queued = queued.map_err(|fault| format!("{ready} endpoints ready: {fault}"))?;
    if ready > 0 && queued == PICKS {
        return Err(format!("only queues RPCs, though {ready} endpoints are ready"));
    }
    Ok(())
}

fn text(error: impl Display) -> String {
    error.to_string()
}
