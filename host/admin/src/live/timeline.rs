//! A timeline of what has happened to channels and policies.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::SystemTime;

use hotpick::channel::ChannelStatus;
use hotpick::connectivity::ConnectivityState;
use hotpick::directory::PolicyStatus;
use serde_json::{Value, json};

use crate::status::unix_millis;

/// Events that are kept of endpoints, and as many of everything else.
const KEPT: usize = 200;
/// Kinds of events of endpoints.
const OF_ENDPOINTS: [&str; 4] = ["state", "joined", "lost", "disconnect"];
/// Endpoints that are named one by one in events of the same change.
const NAMED: usize = 5;

/// The last events, oldest first. A fleet of endpoints would push all others out of one list.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    of_endpoints: VecDeque<Value>,
    others: VecDeque<Value>,
}

/// Something that has happened.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    kind: &'static str,
    target: Option<String>,
    text: String,
}

impl Timeline {
    /// Adds events, now. Returns them as JSON.
    pub(super) fn add(&mut self, events: Vec<Event>) -> Vec<Value> {
        let now = unix_millis(Some(SystemTime::now()));
        let json =
            |Event { kind, target, text }| json!({ "t": now, "kind": kind, "target": target, "text": text });
        let new: Vec<_> = events.into_iter().map(json).collect();
        for event in &new {
            let is_of_endpoint =
                matches!(&event["kind"], Value::String(kind) if OF_ENDPOINTS.contains(&&**kind));
            let kept = if is_of_endpoint { &mut self.of_endpoints } else { &mut self.others };
            if kept.len() == KEPT {
                kept.pop_front();
            }
            kept.push_back(event.clone());
        }
        new
    }

    /// Returns all events in their order.
    fn all(&self) -> Vec<&Value> {
        let mut all: Vec<_> = self.others.iter().chain(&self.of_endpoints).collect();
        all.sort_by_key(|event| event["t"].as_u64());
        all
    }

    /// Returns the events of this target.
    pub(super) fn of(&self, target: &str) -> Vec<Value> {
        self.all().into_iter().filter(|event| event["target"] == target).cloned().collect()
    }

    pub(super) fn json(&self) -> Value {
        self.all().into_iter().cloned().collect()
    }
}

/// What is remembered of a channel, to find out what has changed.
#[derive(Debug, Default)]
pub(super) struct ChannelMemory {
    is_known: bool,
    state: Option<ConnectivityState>,
    policy: (String, u64, String),
    refused: Option<String>,
    endpoints: HashMap<u32, (String, ConnectivityState)>,
    disconnections: BTreeMap<String, u64>,
}

impl ChannelMemory {
    /// Returns what has changed.
    pub(super) fn update(&mut self, status: &ChannelStatus) -> Vec<Event> {
        let mut events = Vec::new();
        let mut tell = |kind, text| events.push(Event { kind, target: Some(status.target.clone()), text });
        let is_first = !std::mem::replace(&mut self.is_known, true);
        if self.state.replace(status.state) != Some(status.state) && !is_first {
            tell("state", format!("the channel is {}", status.state));
        }
        let policy = &status.policy;
        let now = (policy.name.clone(), policy.generation, policy.to_string());
        let (name, generation, text) = std::mem::replace(&mut self.policy, now);
        if !is_first && text != policy.to_string() {
            let is_older = name == policy.name && policy.generation < generation;
            tell(if is_older { "rollback" } else { "swap" }, format!("policy {policy} replaces {text}"));
        }
        let refused = status.refused.as_ref().map(|error| format!("{}: {error}", error.stage()));
        if refused != self.refused {
            if let Some(why) = &refused {
                tell("rejected", format!("a newer policy is refused ({why})"));
            }
            self.refused = refused;
        }
        self.endpoints(status, is_first, &mut tell);
        for (reason, count) in &status.connections.disconnections {
            let before = self.disconnections.insert(reason.clone(), *count).unwrap_or(0);
            match count.saturating_sub(before) {
                0 => {}
                1 if !is_first => tell("disconnect", format!("a connection has ended: {reason}")),
                more if !is_first => tell("disconnect", format!("{more} connections have ended: {reason}")),
                _ => {}
            }
        }
        events
    }

    fn endpoints(
        &mut self,
        status: &ChannelStatus,
        is_first: bool,
        tell: &mut impl FnMut(&'static str, String),
    ) {
        let mut before = std::mem::take(&mut self.endpoints);
        let (mut joined, mut changed) = (Vec::new(), Vec::new());
        for subconn in &status.subconns {
            let (address, state) = (subconn.endpoint().addresses()[0].to_string(), subconn.state());
            match before.remove(&subconn.id()) {
                None => joined.push(address.clone()),
                Some((_, was)) if was != state && is_telling(was, state) => {
                    let why = subconn.last_error().filter(|_| state == ConnectivityState::TransientFailure);
                    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
                    changed.push(format!("{address} is {state}{why}"));
                }
                Some(_) => {}
            }
            self.endpoints.insert(subconn.id(), (address, state));
        }
        if !is_first {
            let lost = before.into_values().map(|(address, _)| address).collect();
            for (kind, verb, addresses) in [("joined", "joined", joined), ("lost", "is gone", lost)] {
                tell_each(kind, addresses.iter().map(|address| format!("{address} {verb}")).collect(), tell);
            }
            tell_each("state", changed, tell);
        }
    }
}

/// Returns whether a change of an endpoint's state is an event. Connecting is none.
const fn is_telling(was: ConnectivityState, state: ConnectivityState) -> bool {
    use ConnectivityState::{Connecting, Idle, Ready, TransientFailure};
    !matches!(
        (was, state),
        (Idle, Connecting) | (Connecting, Idle | Connecting) | (TransientFailure, Connecting)
    ) && matches!(state, Ready | TransientFailure | Idle)
}

fn tell_each(kind: &'static str, texts: Vec<String>, tell: &mut impl FnMut(&'static str, String)) {
    let count = texts.len();
    for text in texts.into_iter().take(NAMED) {
        tell(kind, text);
    }
    if count > NAMED {
        tell(kind, format!("and {} other endpoints", count - NAMED));
    }
}

/// What is remembered of the policies of a directory.
#[derive(Debug, Default)]
pub(super) struct PolicyMemory {
    is_known: bool,
    policies: HashMap<String, OnePolicy>,
}

#[derive(Debug, Default)]
struct OnePolicy {
    faults: u64,
    rejected: Option<String>,
    quarantined: Option<String>,
    /// The generation of the last rollout, and the number of its decisions.
    rollout: (u64, usize),
}

impl PolicyMemory {
    /// Returns what has changed.
    pub(super) fn update(&mut self, policies: &[PolicyStatus]) -> Vec<Event> {
        let mut events = Vec::new();
        let is_first = !std::mem::replace(&mut self.is_known, true);
        let present: BTreeSet<_> = policies.iter().map(|policy| policy.name.as_str()).collect();
        self.policies.retain(|name, _| present.contains(name.as_str()));
        for policy in policies {
            let rollout = policy.rollout.as_ref().or(policy.last_rollout.as_ref());
            let now = OnePolicy {
                faults: policy.faults.values().sum(),
                rejected: policy.rejected.as_ref().map(ToString::to_string),
                quarantined: policy
                    .quarantined
                    .as_ref()
                    .map(|one| format!("{}: {}", one.version, one.reason)),
                rollout: rollout.map_or((0, 0), |one| (one.version.generation, one.events.len())),
            };
            let before = self.policies.entry(policy.name.clone()).or_default();
            let (generation, told) = before.rollout;
            let mut tell = |kind, text: String| {
                if !is_first {
                    events.push(Event {
                        kind,
                        target: None,
                        text: format!("policy {}: {text}", policy.name),
                    });
                }
            };
            if now.faults > before.faults {
                let count = now.faults - before.faults;
                let last = policy.last_fault.as_deref().unwrap_or("unknown");
                let faults = if count == 1 { "1 fault".to_owned() } else { format!("{count} faults") };
                tell("fault", format!("{faults}, the last one: {last}"));
            }
            if let Some(why) = now.rejected.as_ref().filter(|_| now.rejected != before.rejected) {
                tell("rejected", format!("the file is rejected: {why}"));
            }
            if let Some(rollout) = rollout {
                let told = if rollout.version.generation == generation { told } else { 0 };
                for event in rollout.events.iter().skip(told) {
                    tell("rollout", format!("{} of {}: {}", rollout.mode, rollout.version, event.text));
                }
            }
            if let Some(why) = now.quarantined.as_ref().filter(|_| now.quarantined != before.quarantined) {
                tell("quarantined", format!("quarantined: {why}"));
            }
            *before = now;
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_endpoints_at_once_are_summed_up() {
        let mut events = Vec::new();
        let texts = (0..8).map(|number| format!("10.0.0.{number}:1 joined")).collect();
        tell_each("joined", texts, &mut |kind, text| events.push((kind, text)));
        assert_eq!(events.len(), NAMED + 1);
        assert_eq!(events[NAMED], ("joined", "and 3 other endpoints".to_owned()));
    }

    #[test]
    fn the_timeline_is_bounded() {
        let mut timeline = Timeline::default();
        let event = |kind, number: u32| vec![Event { kind, target: None, text: number.to_string() }];
        timeline.add(event("swap", 0));
        (0..300).for_each(|number| drop(timeline.add(event("state", number))));
        let json = timeline.json();
        let all = json.as_array().expect("a list");
        assert_eq!(
            (all.len(), &all[0]["kind"]),
            (KEPT + 1, &json!("swap")),
            "a swap is not lost behind them"
        );
        assert_eq!(all[1]["text"], "100");
        (0..300).for_each(|number| drop(timeline.add(event("swap", number))));
        assert_eq!(timeline.json().as_array().map(Vec::len), Some(2 * KEPT));
    }
}
