//! Takes samples, and watches for events.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use hotpick::PolicyDir;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::history::History;
use super::timeline::{ChannelMemory, Event, PolicyMemory, Timeline};
use crate::status::{channel_json, policies, policy_json, rollout_json, unix_millis};
use crate::subjects::Subjects;

/// Time between samples.
const INTERVAL: Duration = Duration::from_secs(1);
/// Messages that a page may be behind. Then it gets the whole state again.
const BEHIND: usize = 64;

/// The state behind the page.
#[derive(Debug)]
pub(crate) struct Live {
    subjects: Arc<Subjects>,
    state: Mutex<State>,
    messages: broadcast::Sender<Message>,
}

#[derive(Debug, Default)]
struct State {
    history: History,
    timeline: Timeline,
    /// More than numbers has changed since the last tick.
    is_changed: bool,
    /// What was last known of policies, without numbers.
    policies: Value,
}

/// A message for pages: name and data of a server-sent event.
#[derive(Clone, Debug)]
pub(super) enum Message {
    Tick(Arc<str>),
    Event(Arc<str>),
    /// Send the whole state.
    Changed,
}

impl Live {
    /// Starts to take samples, in tasks of this set.
    pub(crate) fn start(subjects: Arc<Subjects>, tasks: &mut JoinSet<()>) -> Arc<Self> {
        let live = Arc::new(Self {
            state: Mutex::default(),
            messages: broadcast::Sender::new(BEHIND),
            subjects: Arc::clone(&subjects),
        });
        tasks.spawn(Arc::clone(&live).sample());
        for at in 0..subjects.channels.len() {
            tasks.spawn(Arc::clone(&live).watch(at));
        }
        live
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches one channel for events, until it is closed.
    async fn watch(self: Arc<Self>, at: usize) {
        let channel = self.subjects.channels[at].channel.clone();
        let mut memory = ChannelMemory::default();
        let watching = channel.wait_for(|status| {
            let events = memory.update(status);
            self.tell(events);
            self.state().is_changed = true;
            false
        });
        watching.await;
    }

    fn tell(&self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        for event in self.state().timeline.add(events) {
            // Fails if there is no page.
            let _ = self.messages.send(Message::Event(event.to_string().into()));
        }
    }

    async fn sample(self: Arc<Self>) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut memory, mut last) = (PolicyMemory::default(), None::<Instant>);
        loop {
            ticks.tick().await;
            let now = Instant::now();
            let elapsed = last.replace(now).map_or(INTERVAL, |last| now.duration_since(last));
            let policies: Vec<_> = self.subjects.policies.iter().flat_map(PolicyDir::status).collect();
            self.tell(memory.update(&policies));
            let mut numbers = Vec::new();
            let mut rest = Vec::new();
            for policy in &policies {
                let pick_ns = policy.channels.iter().find_map(|one| one.pick_nanos);
                numbers.push(json!({
                    "name": policy.name,
                    "picks": policy.totals.picks,
                    "planned_picks": policy.totals.planned_picks,
                    "fallback_picks": policy.totals.fallback_picks,
                    "faults": policy.faults.values().sum::<u64>(),
                    "pick_ns": pick_ns,
                    "rollout": policy.rollout.as_ref().map(rollout_json),
                }));
                let mut json = policy_json(policy);
                for name in ["picks", "planned_picks", "fallback_picks", "channels"] {
                    json[name].take();
                }
                if let Some(rollout) = json["rollout"].as_object_mut() {
                    rollout
                        .retain(|name, _| !matches!(&**name, "active" | "candidate" | "compared" | "agreed"));
                }
                rest.push(json);
            }
            let rest = Value::from(rest);
            let mut state = self.state();
            let State { history, is_changed, policies, .. } = &mut *state;
            let now = unix_millis(Some(SystemTime::now()));
            history.begin(now);
            let channels = self.subjects.channels.iter().enumerate().map(|(id, watched)| {
                let status = watched.channel.status();
                history.sample(id, watched.calls.totals(), &status.subconns, elapsed)
            });
            let channels: Vec<_> = channels.collect();
            let is_changed = std::mem::take(is_changed) | (std::mem::replace(policies, rest.clone()) != rest);
            drop(state);
            if self.messages.receiver_count() == 0 {
                continue;
            }
            if is_changed {
                let _ = self.messages.send(Message::Changed);
            }
            let not_ready = self.subjects.not_ready();
            let tick = json!({
                "now": now,
                "ready": not_ready.is_empty(),
                "not_ready": not_ready,
                "channels": channels,
                "policies": numbers,
            });
            let _ = self.messages.send(Message::Tick(tick.to_string().into()));
        }
    }

    pub(super) fn listen(&self) -> broadcast::Receiver<Message> {
        self.messages.subscribe()
    }

    /// Returns the whole state.
    pub(super) fn snapshot(&self) -> Value {
        let all = policies(&self.subjects);
        let not_ready = self.subjects.not_ready();
        let statuses: Vec<_> =
            self.subjects.channels.iter().map(|watched| watched.channel.status()).collect();
        let state = self.state();
        let channels = statuses.iter().enumerate().map(|(id, status)| {
            let mut json = channel_json(id, status);
            json["history"] = state.history.of_channel(id);
            json
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "now": unix_millis(Some(SystemTime::now())),
            "interval_ms": u64::try_from(INTERVAL.as_millis()).unwrap_or_default(),
            "ready": not_ready.is_empty(),
            "not_ready": not_ready,
            "directory": all["directory"],
            "channels": channels.collect::<Vec<_>>(),
            "policies": all["policies"],
            "events": state.timeline.json(),
        })
    }

    /// Returns the last events of this target.
    pub(crate) fn events(&self, target: &str) -> Vec<Value> {
        self.state().timeline.of(target)
    }

    /// Returns the history of some endpoints of a channel.
    pub(crate) fn endpoints(&self, channel: usize, endpoints: &[u32]) -> Value {
        self.state().history.of_endpoints(channel, endpoints)
    }
}
