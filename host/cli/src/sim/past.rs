//! A trace as a scenario: the RPCs of the past, at their times and with their metadata, picked for by another policy.
//!
//! How long an RPC would have taken elsewhere is not known. The assumption is that an endpoint is as fast as it was: an
//! RPC that is picked for otherwise takes as long as the recorded RPC on that endpoint that began nearest in time. What it
//! does not show is what more or less load does to an endpoint.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::{Context as _, ensure};
use hotpick::connectivity::ConnectivityState;
use hotpick::picker::{PastPick, PickInfo, PickedBy};
use hotpick::policy::{Placement, Policy, SavedState, SimulatedChannel, SimulatedPick, SimulatedRpc};
use hotpick::resolver::Endpoint;
use hotpick::trace::{End, Event, PickResult, RecordOptions, Recorded, Start, Trace, Value};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;
use tonic::Code;

use super::clock;
use super::measured::Measured;
use super::servers::Nanos;

/// What a trace says of the world, without the policy.
pub(crate) struct Past {
    pub(crate) start: Start,
    /// Length of the trace.
    pub(crate) length: Nanos,
    /// Names of the endpoints, by number.
    pub(crate) endpoints: Vec<String>,
    moments: Vec<(Nanos, Moment)>,
    /// RPCs that each endpoint has answered, by the time of their beginning.
    answers: Vec<Vec<Answer>>,
    keys: Vec<HeaderName>,
    affinity: Option<String>,
    methods: Vec<String>,
}

enum Moment {
    /// The endpoints that there are, and which are ready.
    Endpoints(Rc<[(Endpoint, ConnectivityState)]>),
    Rpc(Rpc),
}

struct Rpc {
    affinity: Option<u64>,
    random: Option<u64>,
    method: u32,
    attempt: u32,
    wait_for_ready: bool,
    values: Vec<(u8, Value)>,
    /// The endpoint that was picked, if one was.
    to: Option<usize>,
    /// How it ended, if that is in the trace.
    end: Option<End>,
}

#[derive(Clone, Copy)]
struct Answer {
    at: Nanos,
    latency: Nanos,
    code: Code,
}

impl Answer {
    fn of(at: Nanos, end: &End) -> Self {
        /// Longer than any RPC of a recording.
        const LONGEST: Nanos = 86_400_000_000_000;
        Self { at, latency: end.latency.min(LONGEST), code: Code::from_i32(end.code.into()) }
    }
}

/// How the picks of a policy differ from those of the past.
#[derive(Debug, Default)]
pub(crate) struct Differences {
    pub(crate) picks: u64,
    pub(crate) differ: u64,
    /// Number of picks that went from one endpoint to another. `None`: no endpoint, the RPC was not sent.
    pub(crate) moved: BTreeMap<(Option<usize>, Option<usize>), u64>,
    /// Picks of endpoints that no recorded RPC had been sent to.
    pub(crate) unknown: u64,
}

impl Past {
    /// Returns the past of a trace.
    pub(crate) fn of(trace: &Trace) -> anyhow::Result<Self> {
        let Some(Recorded { at: origin, event: Event::Start(start), .. }) = trace.events.first() else {
            anyhow::bail!("the trace has no beginning");
        };
        let mut reader = Reader::default();
        for recorded in &trace.events {
            reader.read(recorded.at.saturating_sub(*origin), &recorded.event);
        }
        let Reader { names, mut moments, answers, keys, affinity, methods, .. } = reader;
        moments.sort_by_key(|(at, _)| *at);
        let length = moments.last().map_or(0, |(at, _)| *at);
        let longest = RecordOptions::LONGEST.as_secs() + 600;
        ensure!(
            length / 1_000_000_000 <= longest,
            "the trace lasts {} s, longer than any recording",
            length / 1_000_000_000
        );
        ensure!(moments.iter().any(|(_, moment)| matches!(moment, Moment::Rpc(_))), "the trace has no RPC");
        let mut past = Self {
            start: (**start).clone(),
            length,
            endpoints: names,
            moments,
            answers,
            keys,
            affinity,
            methods,
        };
        for answers in &mut past.answers {
            answers.sort_by_key(|answer| answer.at);
        }
        Ok(past)
    }

    /// Returns the metadata keys whose values are in the trace.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(HeaderName::as_str)
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.length as f64 / 1e9
    }

    /// Returns what an RPC that begins at this time would get from an endpoint.
    fn nearest(&self, endpoint: usize, at: Nanos) -> Option<Answer> {
        let answers = self.answers.get(endpoint)?;
        let after = answers.partition_point(|answer| answer.at < at);
        let candidates =
            [after.checked_sub(1), Some(after)].into_iter().flatten().filter_map(|at| answers.get(at));
        candidates.min_by_key(|answer| answer.at.abs_diff(at)).copied()
    }

    /// Returns what was, measured as a simulation is.
    pub(crate) fn measured(&self) -> Measured {
        let mut measured = Measured::new(self.endpoints.len());
        for (at, moment) in &self.moments {
            let Moment::Rpc(Rpc { end: Some(end), to: Some(to), .. }) = moment else { continue };
            let (part, code) = (self.part(*at), Code::from_i32(end.code.into()));
            measured.ended(part, end.latency, code == Code::Ok);
            if code == Code::Ok {
                measured.served(part, *to);
            }
        }
        measured
    }

    fn part(&self, at: Nanos) -> f64 {
        at as f64 / self.length.max(1) as f64
    }

    fn headers(&self, values: &[(u8, Value)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (key, value) in values {
            let key = self.keys.get(usize::from(*key));
            if let (Some(key), Ok(value)) = (key, HeaderValue::from_bytes(&value.bytes())) {
                headers.append(key, value);
            }
        }
        headers
    }
}

#[derive(Default)]
struct Reader {
    /// Endpoints by subconn.
    endpoints: BTreeMap<u32, Endpoint>,
    places: HashMap<String, usize>,
    /// Numbers of the endpoints in `names`, by subconn.
    numbers: HashMap<u32, usize>,
    names: Vec<String>,
    moments: Vec<(Nanos, Moment)>,
    /// The RPCs that have not ended, by the numbers of their picks: places in `moments`.
    open: HashMap<u64, usize>,
    answers: Vec<Vec<Answer>>,
    keys: Vec<HeaderName>,
    affinity: Option<String>,
    methods: Vec<String>,
}

impl Reader {
    fn read(&mut self, at: Nanos, event: &Event) {
        match event {
            Event::Init(init) => {
                self.keys = init.keys.iter().filter_map(|key| key.parse().ok()).collect();
                self.affinity.clone_from(&init.affinity);
            }
            Event::Method(name) => self.methods.push(name.clone()),
            Event::Changed { added, removed } => {
                for id in removed {
                    self.endpoints.remove(id);
                }
                for endpoint in added {
                    self.add(endpoint);
                }
            }
            Event::Ready(ready) => {
                // In the order of the resolver, as far as it is known.
                let known = ready.iter().filter_map(|id| self.endpoints.get(id));
                let mut all: Vec<_> =
                    known.map(|endpoint| (endpoint.clone(), ConnectivityState::Ready)).collect();
                let ready: HashSet<_> = ready.iter().collect();
                let others = self.endpoints.iter().filter(|(id, _)| !ready.contains(id));
                all.extend(
                    others.map(|(_, endpoint)| (endpoint.clone(), ConnectivityState::TransientFailure)),
                );
                self.moments.push((at, Moment::Endpoints(all.into())));
            }
            // It is picked for again, which is another event.
            Event::Pick(pick) if matches!(pick.result, PickResult::Queue | PickResult::Fault) => {}
            Event::Pick(pick) => {
                let to = match pick.result {
                    PickResult::Pick(id) => self.numbers.get(&id).copied(),
                    _ => None,
                };
                let rpc = Rpc {
                    affinity: pick.affinity,
                    random: Some(u64::from_le_bytes(pick.random)),
                    method: pick.method,
                    attempt: pick.attempt,
                    wait_for_ready: pick.wait_for_ready,
                    values: pick.values.clone(),
                    to,
                    end: None,
                };
                self.rpc(at, pick.call, rpc);
            }
            Event::Planned(pick) => {
                let rpc = Rpc {
                    affinity: pick.affinity,
                    random: None,
                    method: pick.method,
                    attempt: 0,
                    wait_for_ready: false,
                    values: pick.values.clone(),
                    to: self.numbers.get(&pick.subconn).copied(),
                    end: None,
                };
                self.rpc(at, pick.call, rpc);
            }
            Event::End(end) => self.end(end),
            _ => {}
        }
    }

    fn add(&mut self, endpoint: &hotpick::trace::Endpoint) {
        let mut addresses =
            endpoint.addresses.iter().filter_map(|address| address.parse::<SocketAddr>().ok());
        // Nothing is dialled: an address of another kind (a Unix socket) only needs to be another one.
        let own =
            SocketAddr::from((std::net::Ipv4Addr::from_bits(0x7f00_0000u32.wrapping_add(endpoint.id)), 1));
        let mut made = Endpoint::new(addresses.next().unwrap_or(own).into()).with_weight(endpoint.weight);
        for (key, value) in &endpoint.attributes {
            made = made.with_attribute(key, value.clone());
        }
        let name = endpoint.addresses.first().cloned().unwrap_or_default();
        let next = self.names.len();
        let number = *self.places.entry(name.clone()).or_insert(next);
        if number == next {
            self.names.push(name);
            self.answers.push(Vec::new());
        }
        self.numbers.insert(endpoint.id, number);
        self.endpoints.insert(endpoint.id, made.with_attribute(NUMBER, number.to_string()));
    }

    fn rpc(&mut self, at: Nanos, call: u64, rpc: Rpc) {
        if rpc.to.is_some() {
            self.open.insert(call, self.moments.len());
        }
        self.moments.push((at, Moment::Rpc(rpc)));
    }

    fn end(&mut self, end: &End) {
        let Some(place) = self.open.remove(&end.call) else { return };
        let Some((at, Moment::Rpc(rpc))) = self.moments.get_mut(place) else { return };
        let answer = Answer::of(*at, end);
        rpc.end = Some(*end);
        // What the client gave up says how long the client waited.
        if let Some(to) = rpc.to.filter(|_| !end.not_sent) {
            self.answers[to].push(answer);
        }
    }
}

/// Attribute with the number of an endpoint.
const NUMBER: &str = "hotpick-sim-number";

/// Gives the RPCs of the past to a policy.
pub(crate) async fn run(
    policy: &dyn Policy,
    config: &str,
    past: &Past,
    seed: Option<u64>,
) -> anyhow::Result<(Measured, Differences)> {
    clock::align().await;
    let origin = Instant::now();
    // As the recorded instance was started, unless it is to be another one.
    let Start { saved, seed: own, .. } = &past.start;
    let saved = saved.iter().map(|(schema, data)| SavedState::new(*schema, data.clone())).collect();
    let placement = Placement::new(past.start.target.clone(), config);
    let placement = match seed {
        Some(seed) => placement.with_seed(seed),
        None => placement.with_past(*own, saved),
    };
    let first = past.moments.iter().find_map(|(_, moment)| match moment {
        Moment::Endpoints(all) => Some(all.to_vec()),
        Moment::Rpc(_) => None,
    });
    let channel = SimulatedChannel::start(policy, &placement, first.unwrap_or_default());
    let mut channel = channel.context("the policy does not start")?;
    let (mut measured, mut differences) = (Measured::new(past.endpoints.len()), Differences::default());
    let mut ends: BinaryHeap<Reverse<(Nanos, usize)>> = BinaryHeap::new();
    let mut in_flight: HashMap<usize, (SimulatedRpc, Code, bool)> = HashMap::new();
    let mut now = 0;
    let last = past.moments.len();
    for place in 0..=last {
        let until = past.moments.get(place).map_or(past.length, |(at, _)| *at);
        while let Some(Reverse((at, rpc))) = ends.peek().copied().filter(|Reverse((at, _))| *at <= until) {
            ends.pop();
            clock::advance(&mut now, at).await;
            if let Some((mut sent, code, is_late)) = in_flight.remove(&rpc) {
                if !is_late {
                    sent.respond();
                }
                sent.end(code, is_late, None);
            }
        }
        clock::advance(&mut now, until).await;
        match past.moments.get(place) {
            Some((_, Moment::Endpoints(all))) => channel.update(all.to_vec()),
            Some((at, Moment::Rpc(rpc))) => {
                let metadata = past.headers(&rpc.values);
                let method = past.methods.get(rpc.method as usize).map_or("", String::as_str);
                let mut info = PickInfo::new(method, &metadata);
                (info.attempt, info.wait_for_ready) = (rpc.attempt, rpc.wait_for_ready);
                info.now = origin + std::time::Duration::from_nanos(*at);
                info.begun = info.now;
                let affinity = past.affinity.as_deref().zip(rpc.affinity);
                let of_the_past = PastPick { affinity, random: rpc.random };
                info.past = Some(&of_the_past);
                let picked = channel.pick(&info);
                let to = match &picked {
                    SimulatedPick::Sent(sent) => number(&channel, sent.subconn()),
                    _ => None,
                };
                let is_queued = matches!(picked, SimulatedPick::Queue);
                differences.add(rpc.to, to);
                let part = past.part(*at);
                let (SimulatedPick::Sent(sent), Some(to)) = (picked, to) else {
                    // One that is queued may be picked for later, and how it ends is not known.
                    if !is_queued {
                        measured.ended(part, 0, false);
                    }
                    continue;
                };
                measured.fallback_picks += u64::from(sent.picked_by() == PickedBy::Fallback);
                let own = rpc.end.filter(|_| rpc.to == Some(to));
                let same = own.map(|end| Answer::of(*at, &end));
                let Some(answer) = same.or_else(|| past.nearest(to, *at)) else {
                    differences.unknown += 1;
                    continue;
                };
                // Of RPCs that had not ended at the end of the recording, nothing is known.
                if rpc.end.is_some() || rpc.to.is_none() {
                    measured.ended(part, answer.latency, answer.code == Code::Ok);
                    if answer.code == Code::Ok {
                        measured.served(part, to);
                    }
                }
                ends.push(Reverse((at.saturating_add(answer.latency), place)));
                in_flight.insert(place, (sent, answer.code, own.is_some_and(|end| end.client_ended)));
            }
            None => {}
        }
    }
    measured.faults = channel.faults().count;
    Ok((measured, differences))
}

fn number(channel: &SimulatedChannel, subconn: u32) -> Option<usize> {
    channel.endpoint(subconn)?.attributes().get(NUMBER)?.parse().ok()
}

impl Differences {
    fn add(&mut self, was: Option<usize>, is: Option<usize>) {
        self.picks += 1;
        if was != is {
            self.differ += 1;
            *self.moved.entry((was, is)).or_default() += 1;
        }
    }
}
