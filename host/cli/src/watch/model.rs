//! What the admin listener says, as data.

use std::collections::{BTreeMap, VecDeque};

use serde::Deserialize;

/// A message of `/live`.
#[derive(Debug)]
pub(crate) enum Update {
    /// The whole state.
    Snapshot(Box<Model>),
    Tick(Tick),
    Event(Event),
}

impl Update {
    /// Reads a server-sent event. `None`: it is not known here.
    pub(crate) fn parse(name: &str, data: &str) -> Option<Self> {
        match name {
            "snapshot" => serde_json::from_str(data).ok().map(Self::Snapshot),
            "tick" => serde_json::from_str(data).ok().map(Self::Tick),
            "event" => serde_json::from_str(data).ok().map(Self::Event),
            _ => None,
        }
    }
}

/// All that is shown.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Model {
    pub(super) version: String,
    pub(super) now: u64,
    pub(super) not_ready: Vec<String>,
    pub(super) channels: Vec<Channel>,
    pub(super) policies: Vec<Policy>,
    pub(super) events: VecDeque<Event>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Channel {
    pub(super) id: usize,
    pub(super) target: String,
    pub(super) state: String,
    pub(super) policy: PolicyVersion,
    pub(super) refused: Option<Refused>,
    pub(super) endpoints: Vec<Endpoint>,
    #[serde(skip)]
    pub(super) numbers: ChannelNumbers,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct PolicyVersion {
    pub(super) text: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Refused {
    pub(super) stage: String,
    pub(super) reason: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Endpoint {
    pub(super) id: u32,
    pub(super) addresses: Vec<String>,
    pub(super) weight: u32,
    pub(super) attributes: BTreeMap<String, String>,
    pub(super) state: String,
    pub(super) since: u64,
    pub(super) last_error: Option<String>,
    pub(super) connections: u64,
    pub(super) max_streams: Option<u32>,
    #[serde(skip)]
    pub(super) numbers: EndpointNumbers,
    /// Picks per second of the last ticks, oldest first.
    #[serde(skip)]
    pub(super) picks: VecDeque<u64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Policy {
    pub(super) name: String,
    pub(super) state: String,
    pub(super) generation: Option<u64>,
    pub(super) digest: Option<String>,
    pub(super) rejected: Option<Refused>,
    pub(super) quarantined: Option<Quarantined>,
    pub(super) refusals: Vec<Refusal>,
    /// The channels that use it.
    #[serde(default)]
    pub(super) channels: Vec<serde_json::Value>,
    pub(super) last_fault: Option<String>,
    pub(super) picks: u64,
    pub(super) planned_picks: u64,
    pub(super) fallback_picks: u64,
    #[serde(skip)]
    pub(super) faults_total: u64,
    #[serde(skip)]
    pub(super) pick_ns: Option<u64>,
    /// Picks per second, and of those the planned ones.
    #[serde(skip)]
    pub(super) rates: (f64, f64),
    #[serde(default)]
    pub(super) rollout: Option<Rollout>,
}

/// A new version that is tried beside the active one.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Rollout {
    pub(super) mode: String,
    pub(super) generation: u64,
    pub(super) paused: bool,
    pub(super) step: usize,
    pub(super) steps: Vec<f64>,
    pub(super) share: f64,
    pub(super) verdict: Option<Verdict>,
    pub(super) active: Side,
    pub(super) candidate: Side,
    pub(super) compared: u64,
    pub(super) agreed: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Verdict {
    pub(super) text: String,
}

/// What a version of a rollout did in the present interval.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Side {
    pub(super) rpcs: u64,
    pub(super) failure_rate: f64,
    pub(super) fallback: u64,
    pub(super) p50_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Quarantined {
    pub(super) generation: u64,
    pub(super) reason: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Refusal {
    pub(super) target: String,
    pub(super) stage: String,
    pub(super) reason: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Event {
    pub(super) t: u64,
    pub(super) kind: String,
    pub(super) target: Option<String>,
    pub(super) text: String,
}

impl Event {
    fn is_of_endpoint(&self) -> bool {
        matches!(self.kind.as_str(), "state" | "joined" | "lost" | "disconnect")
    }
}

/// Numbers of the last moment.
#[derive(Debug, Deserialize)]
pub(crate) struct Tick {
    now: u64,
    not_ready: Vec<String>,
    channels: Vec<ChannelTick>,
    policies: Vec<PolicyTick>,
}

#[derive(Debug, Deserialize)]
struct ChannelTick {
    id: usize,
    #[serde(flatten)]
    numbers: ChannelNumbers,
    endpoints: Vec<EndpointTick>,
}

/// Numbers of a channel; rates are per second, latencies in milliseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct ChannelNumbers {
    pub(super) started: Option<f64>,
    pub(super) failed: Option<f64>,
    pub(super) in_flight: f64,
    pub(super) p50: Option<f64>,
    pub(super) p99: Option<f64>,
}

/// Number of the subconn, number of the state, RPCs in flight, picks and failures per second, mean latency (ms).
#[derive(Debug, Deserialize)]
struct EndpointTick(u32, usize, u32, Option<f64>, Option<f64>, Option<f64>);

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EndpointNumbers {
    pub(super) in_flight: u32,
    pub(super) picks: f64,
    pub(super) failed: f64,
    pub(super) latency: f64,
}

#[derive(Debug, Deserialize)]
struct PolicyTick {
    name: String,
    picks: u64,
    planned_picks: u64,
    fallback_picks: u64,
    faults: u64,
    pick_ns: Option<u64>,
    #[serde(default)]
    rollout: Option<Rollout>,
}

const STATES: [&str; 5] = ["IDLE", "CONNECTING", "READY", "TRANSIENT_FAILURE", "SHUTDOWN"];
/// Events and samples that are kept.
const KEPT: usize = 200;

impl Model {
    /// Takes in a message.
    pub(super) fn update(&mut self, update: Update) {
        match update {
            Update::Snapshot(mut new) => {
                new.keep_numbers_of(self);
                *self = *new;
            }
            Update::Tick(tick) => self.tick(tick),
            Update::Event(event) => {
                // Of endpoints there may be so many that nothing else would be left.
                let is_alike = |other: &Event| other.is_of_endpoint() == event.is_of_endpoint();
                if self.events.iter().filter(|other| is_alike(other)).count() >= KEPT
                    && let Some(oldest) = self.events.iter().position(is_alike)
                {
                    self.events.remove(oldest);
                }
                self.events.push_back(event);
            }
        }
    }

    /// A snapshot has no numbers: those of the last tick stay until the next one.
    fn keep_numbers_of(&mut self, before: &mut Self) {
        for channel in &mut self.channels {
            let Some(old) = before.channels.iter_mut().find(|old| old.target == channel.target) else {
                continue;
            };
            channel.numbers = old.numbers;
            let mut known: BTreeMap<_, _> = old
                .endpoints
                .drain(..)
                .map(|endpoint| (endpoint.id, (endpoint.numbers, endpoint.picks)))
                .collect();
            for endpoint in &mut channel.endpoints {
                if let Some((numbers, picks)) = known.remove(&endpoint.id) {
                    (endpoint.numbers, endpoint.picks) = (numbers, picks);
                }
            }
        }
        for policy in &mut self.policies {
            if let Some(old) = before.policies.iter().find(|old| old.name == policy.name) {
                (policy.rates, policy.faults_total, policy.pick_ns) =
                    (old.rates, old.faults_total, old.pick_ns);
            }
        }
    }

    fn tick(&mut self, tick: Tick) {
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let seconds = (tick.now.saturating_sub(self.now) as f64 / 1000.0).max(0.1);
        (self.now, self.not_ready) = (tick.now, tick.not_ready);
        for of in tick.channels {
            let Some(channel) = self.channels.iter_mut().find(|channel| channel.id == of.id) else {
                continue;
            };
            channel.numbers = of.numbers;
            let mut new: BTreeMap<_, _> = of.endpoints.into_iter().map(|one| (one.0, one)).collect();
            for endpoint in &mut channel.endpoints {
                if let Some(EndpointTick(_, state, in_flight, picks, failed, latency)) =
                    new.remove(&endpoint.id)
                {
                    if let Some(state) = STATES.get(state) {
                        (*state).clone_into(&mut endpoint.state);
                    }
                    let or_zero = |number: Option<f64>| number.unwrap_or_default();
                    endpoint.numbers = EndpointNumbers {
                        in_flight,
                        picks: or_zero(picks),
                        failed: or_zero(failed),
                        latency: or_zero(latency),
                    };
                    if endpoint.picks.len() == KEPT {
                        endpoint.picks.pop_front();
                    }
                    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a plot")]
                    endpoint.picks.push_back(or_zero(picks) as u64);
                }
            }
        }
        for new in tick.policies {
            let Some(policy) = self.policies.iter_mut().find(|policy| policy.name == new.name) else {
                continue;
            };
            #[expect(clippy::cast_precision_loss, reason = "for people")]
            let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
            policy.rates = (rate(new.picks, policy.picks), rate(new.planned_picks, policy.planned_picks));
            (policy.picks, policy.planned_picks) = (new.picks, new.planned_picks);
            (policy.fallback_picks, policy.faults_total) = (new.fallback_picks, new.faults);
            policy.pick_ns = new.pick_ns;
            policy.rollout = new.rollout;
        }
    }
}
