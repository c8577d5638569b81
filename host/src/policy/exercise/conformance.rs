//! Conformance tests: what every policy must do, whatever language it is written in.

use std::collections::BTreeMap;
use std::fmt::Display;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::scenarios::{COLORS, ended, ended_unavailable, endpoint};
use super::test_bed::TestBed;
use crate::connectivity::ConnectivityState;
use crate::lifecycle::{Placement, Policy as _, SavedState};
use crate::picker::{PickInfo, PickResult};
use crate::policy::instance::{InstanceError, Methods, PICKS};
use crate::policy::wasm_policy::WasmPolicy;
use crate::setters::setters;

/// Options of [`WasmPolicy::conformance`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConformanceOptions {
    /// Configuration that the policy must accept: JSON, `{}` for none.
    pub config: String,
    /// Number of consecutive picks during which the policy's memory must not grow.
    pub picks: u64,
    /// Reference policy with the same routes, each policy with its own configuration: for the same RPCs on the same
    /// endpoints, each endpoint must get the same number of RPCs from both. Both must distribute RPCs exactly, as round
    /// robin does. `None`: routes are not compared.
    pub like: Option<WasmPolicy>,
}

setters!(ConformanceOptions {
    with_config: config: String,
    with_picks: picks: u64,
    with_like: like: Option<WasmPolicy>,
});

impl Default for ConformanceOptions {
    fn default() -> Self {
        Self { config: "{}".to_owned(), picks: 1_000_000, like: None }
    }
}

/// Result of one conformance test.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Conformance {
    /// Name of the test.
    pub name: &'static str,
    /// Whether the policy conforms.
    pub passed: bool,
    /// Observation, or the reason why the policy does not conform.
    pub detail: String,
}

type Seen = Result<String, String>;

impl WasmPolicy {
    /// Runs the conformance tests: the policy refuses invalid configurations with a reason, works with every set of
    /// endpoints and every RPC, its optional parts work, and its memory does not grow.
    ///
    /// Needs the context of a Tokio runtime. Blocks, so do not call it on a worker thread of the runtime.
    #[must_use]
    pub fn conformance(&self, options: &ConformanceOptions) -> Vec<Conformance> {
        let policy = &self.clone().with_more_time(TIME_FACTOR);
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
                run.like(&Run { policy: &like.clone().with_more_time(TIME_FACTOR), placement }),
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

/// Factor by which CPU time limits are raised: the speed of a policy depends on the load of the machine.
const TIME_FACTOR: u32 = 10;

/// A policy under test, and its placement.
struct Run<'a> {
    policy: &'a WasmPolicy,
    placement: Placement,
}

/// Configurations that no policy should accept, each with a description.
const BAD: [(&str, &str); 4] = [
    ("", "not JSON"),
    (r#"{"no-such-setting": 1"#, "incomplete JSON"),
    ("[]", "not an object"),
    (r#"{"no-such-setting": 1}"#, "an unknown setting"),
];

impl Run<'_> {
    fn start(&self) -> Result<TestBed, String> {
        TestBed::start(self.policy.program(), &self.placement, &[]).map_err(text)
    }

    /// Starts the policy with three ready endpoints.
    fn start_on_three(&self) -> Result<TestBed, String> {
        let mut rehearsal = self.start()?;
        rehearsal.set_ready(3).map_err(text)?;
        Ok(rehearsal)
    }

    fn configuration(&self) -> Seen {
        drop(self.start()?);
        let mut refused = 0;
        for (config, what) in BAD {
            let placement = Placement { config: config.to_owned(), ..self.placement.clone() };
            match TestBed::start(self.policy.program(), &placement, &[]) {
                Err(InstanceError::Refused(why)) if !why.trim().is_empty() => refused += 1,
                Err(InstanceError::Refused(_)) => {
                    return Err(format!("refuses {config:?} ({what}) without a reason"));
                }
                Err(other) => return Err(format!("does not refuse {config:?} ({what}), but fails: {other}")),
                // Unwise, but allowed: the names of settings are up to the policy.
                Ok(_) => {}
            }
        }
        // A refusal by one instance must not affect the next.
        picks(&mut self.start_on_three()?, 3)?;
        Ok(format!("accepted; {refused} of {} invalid ones refused with a reason", BAD.len()))
    }

    fn endpoints(&self) -> Seen {
        let mut rehearsal = self.start()?;
        // No endpoints, one, several, changed attributes, many, different ones, all connecting or failing, none again.
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
        Ok(format!("{situations} situations with 0 to 1,000 endpoints"))
    }

    fn metadata(&self) -> Seen {
        let mut rehearsal = self.start_on_three()?;
        let instance = &mut rehearsal.instance;
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
        // More values than the host remembers, and than a policy should remember.
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

    /// Tests one more method than there are method numbers, each twice, and reports outcomes of some of them.
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
        Ok(format!("{count} methods, {} of them with a number of their own", Methods::OTHER))
    }

    fn parts(&self) -> Seen {
        let mut rehearsal = self.start_on_three()?;
        let instance = &mut rehearsal.instance;
        let said = instance.describe().map_err(|fault| format!("about: {fault}"))?;
        if let Some((_, schema)) = said.filter(|(_, schema)| !schema.is_empty()) {
            serde_json::from_str::<serde_json::Value>(&schema)
                .map_err(|error| format!("about: its schema is not JSON: {error}"))?;
        }
        // RPCs with every kind of outcome, some of them on a removed subconn.
        for size in [1, 16, 256] {
            let batch: Vec<_> = (0..size).map(|number: u32| ended(number.into(), number % 5)).collect();
            instance.done(&batch).map_err(|fault| format!("outcomes: {fault}"))?;
        }
        instance.fire_all().map_err(|fault| format!("alarms: {fault}"))?;
        instance.plan(0).map_err(|fault| format!("plans: {fault}"))?;
        picks(&mut rehearsal, 3)?;
        // What follows failures in a row, and the timers of that and of picks.
        let instance = &mut rehearsal.instance;
        for subconn in 0..3 {
            let batch: Vec<_> = (0..10).map(|call| ended_unavailable(call, subconn)).collect();
            instance.done(&batch).map_err(|fault| format!("outcomes of failures: {fault}"))?;
        }
        instance.fire_all().map_err(|fault| format!("alarms after failures: {fault}"))?;
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
            .map_err(|error| format!("restore: refuses the state that it saved: {error}"))?;
        next.set_ready(3).map_err(text)?;
        picks(&mut next, 3)?;
        // States of another version and of several instances, and bytes that are not a state.
        let other = SavedState::new(saved.schema.wrapping_add(1), saved.data.clone());
        let junk = SavedState::new(saved.schema, vec![0xff; 64]);
        for parts in [vec![saved.clone(), saved], vec![other], vec![junk]] {
            // The policy may refuse them, and then starts without a state.
            let _ = (self.start()?.instance.restore(&parts))
                .map_err(|fault| format!("restore of a state that it did not save: {fault}"))?;
        }
        Ok(format!("{size} bytes saved and restored"))
    }

    fn memory(&self, picks: u64) -> Seen {
        let mut rehearsal = self.start()?;
        let recolor = |rehearsal: &mut TestBed, color: &str| {
            let labelled =
                |number| (endpoint(number).with_attribute("color", color), ConnectivityState::Ready);
            rehearsal.set((0..3).map(labelled)).map(drop).map_err(text)
        };
        // A garbage collector lets the memory grow to its usual size before it frees any.
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
            // Memory for notifications about endpoints must be freed again.
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
        let theirs =
            other.routes().map_err(|error| format!("the reference policy {name:?} fails: {error}"))?;
        let ours = self.routes()?;
        for ((situation, ours), theirs) in ours.iter().zip(theirs.values()) {
            for answer in ours.keys().chain(theirs.keys()) {
                let count = |of: &BTreeMap<String, usize>| of.get(answer).copied().unwrap_or_default();
                let (ours, theirs) = (count(ours), count(theirs));
                if ours != theirs {
                    return Err(format!(
                        "{situation}: {answer} {ours} times, the reference policy {theirs} times"
                    ));
                }
            }
        }
        Ok(format!("the same as {name:?} in {} situations", ours.len()))
    }

    /// Counts how often the policy gives each answer, in each situation.
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
                // A multiple of the size of each group, so that the starting position makes no difference.
                for _ in 0..3_000 {
                    let answer = rehearsal.instance.pick(&PickInfo::new("/hotpick.Check/Routes", &metadata));
                    *tally.entry(name(&answer.map_err(|fault| fault.to_string())?.result)).or_default() += 1;
                }
            }
        }
        Ok(all)
    }
}

/// Describes a pick result.
fn name(result: &PickResult) -> String {
    let failed = |how: &str, status: &tonic::Status| format!("{how} {:?}", status.code());
    match result {
        PickResult::Pick(pick) => format!("picks {}", pick.subconn.endpoint().addresses()[0]),
        PickResult::Queue => "queues".to_owned(),
        PickResult::Fail(status) => failed("fails", status),
        PickResult::Drop(status) => failed("drops", status),
    }
}

/// Picks several times, half of them with metadata. Fails if all RPCs are queued although endpoints are ready.
fn picks(rehearsal: &mut TestBed, ready: usize) -> Result<(), String> {
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
