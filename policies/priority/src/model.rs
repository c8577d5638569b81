//! gRFC A56, implemented independently as in its text, and compared with the policy in random histories.

use std::collections::{BTreeMap, BTreeSet};

use hotpick_guest::ConnectivityState::{Idle, Ready, TransientFailure};
use hotpick_guest::random::Random;
use hotpick_guest::testing::{FakeHost, LazyHost, Rpc, endpoint, histories};
use hotpick_guest::{ConnectivityState, Duration, PickResult, SubConn};

use super::Priority;

const FAILOVER: u64 = 10_000;
const RETENTION: u64 = 900_000;

/// A child of the priority policy: round robin over the endpoints of a priority.
struct Child {
    reports: Report,
    failover_timer: Option<u64>,
    seen_ready_since_failure: bool,
    deactivation_timer: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Report {
    Ready,
    Connecting,
    TransientFailure,
}

/// State of A56, and the subchannels below it. Times in milliseconds.
#[derive(Default)]
struct Model {
    now: u64,
    /// The priority of each endpoint.
    endpoints: BTreeMap<SubConn, u32>,
    /// States as counted by round robin: an endpoint that has failed counts as failed until it is ready.
    states: BTreeMap<SubConn, ConnectivityState>,
    children: BTreeMap<u32, Child>,
    /// What RPCs do, and the priority that they went to last.
    picker: Picker,
    current: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Picker {
    Of(u32),
    #[default]
    Queue,
    Fail,
}

impl Model {
    fn priorities(&self) -> BTreeSet<u32> {
        self.endpoints.values().copied().collect()
    }

    fn round_robin(&self, priority: u32) -> Report {
        let members = self.endpoints.iter().filter(|(_, of)| **of == priority);
        let states: Vec<_> = members.map(|(id, _)| self.states.get(id).copied().unwrap_or(Idle)).collect();
        match () {
            () if states.contains(&Ready) => Report::Ready,
            () if states.iter().all(|state| *state == TransientFailure) => Report::TransientFailure,
            () => Report::Connecting,
        }
    }

    /// Applies a changed state of a child.
    fn update(&mut self, priority: u32) {
        let reports = self.round_robin(priority);
        let now = self.now;
        let Some(child) = self.children.get_mut(&priority).filter(|child| child.reports != reports) else {
            return;
        };
        child.reports = reports;
        match reports {
            Report::Ready => {
                child.seen_ready_since_failure = true;
                child.failover_timer = None;
            }
            Report::TransientFailure => {
                child.seen_ready_since_failure = false;
                child.failover_timer = None;
            }
            Report::Connecting => {
                if child.seen_ready_since_failure {
                    child.failover_timer = Some(now + FAILOVER);
                }
            }
        }
    }

    fn choose_priority(&mut self) {
        let priorities = self.priorities();
        self.children.retain(|priority, _| priorities.contains(priority));
        priorities.iter().for_each(|priority| self.update(*priority));
        // Not in A56: RPCs whose priority is ready do not wait for a better one that connects.
        let held = self
            .current
            .filter(|current| self.children.get(current).is_some_and(|child| child.reports == Report::Ready));
        for priority in &priorities {
            if !self.children.contains_key(priority) {
                let child = Child {
                    reports: Report::Connecting,
                    failover_timer: Some(self.now + FAILOVER),
                    seen_ready_since_failure: true,
                    deactivation_timer: None,
                };
                self.children.insert(*priority, child);
                self.update(*priority);
            }
            let child = self.children.get_mut(priority).expect("made");
            child.deactivation_timer = None;
            if child.reports == Report::Ready {
                self.current = Some(*priority);
                self.picker = Picker::Of(*priority);
                for (_, lower) in self.children.range_mut(priority + 1..) {
                    lower.deactivation_timer.get_or_insert(self.now + RETENTION);
                }
                return;
            }
            if child.failover_timer.is_some_and(|timer| timer > self.now)
                && held.is_none_or(|held| held < *priority)
            {
                self.picker = Picker::Queue;
                return;
            }
        }
        let connects = self.children.values().any(|child| child.reports == Report::Connecting);
        self.picker = if connects || priorities.is_empty() { Picker::Queue } else { Picker::Fail };
    }

    /// Lets time pass, timer by timer.
    fn run(&mut self, by: u64) {
        let end = self.now + by;
        loop {
            let timers =
                self.children.values().flat_map(|child| [child.failover_timer, child.deactivation_timer]);
            let Some(due) = timers.flatten().filter(|timer| *timer > self.now && *timer <= end).min() else {
                break;
            };
            self.now = due;
            let is_over = |child: &Child| child.deactivation_timer.is_some_and(|timer| timer <= due);
            let over: Vec<_> =
                self.children.iter().filter(|(_, child)| is_over(child)).map(|(at, _)| *at).collect();
            for priority in over {
                self.children.remove(&priority);
                // Its subchannels are removed, and their states with them.
                let Self { endpoints, states, .. } = self;
                states.retain(|id, _| endpoints.get(id) != Some(&priority));
            }
            self.choose_priority();
        }
        self.now = end;
    }

    fn connected(&self) -> BTreeSet<SubConn> {
        let is_connected = |(_, priority): &(&SubConn, &u32)| self.children.contains_key(priority);
        self.endpoints.iter().filter(is_connected).map(|(id, _)| *id).collect()
    }
}

fn history(mut random: Random) {
    let mut host = LazyHost::<Priority>::new(FakeHost::start("{}").expect("started"));
    let mut model = Model::default();
    let mut last = 0;
    for _ in 0..60 {
        match random.below(10) {
            0..=1 => {
                // An endpoint that is new or moves.
                let id = if random.below(3) == 0 && last > 0 {
                    host.all().get(random.below(host.all().len())).copied().unwrap_or(last)
                } else {
                    last += 1;
                    last
                };
                let priority = u32::try_from(random.below(3)).expect("small");
                let moves = model.endpoints.insert(id, priority).is_some_and(|before| before != priority);
                model.choose_priority();
                if moves && !model.children.contains_key(&priority) {
                    model.states.remove(&id);
                }
                host.change(&[endpoint(id, &[("priority", &priority.to_string())])], &[]);
            }
            2 if !host.all().is_empty() => {
                let id = host.all()[random.below(host.all().len())];
                model.endpoints.remove(&id);
                model.states.remove(&id);
                model.choose_priority();
                host.change(&[], &[id]);
            }
            3 => {
                let by = [0, 100, 1_000, 3_000, 11_000, 1_000_000][random.below(6)];
                model.run(by);
                host.policy().run(Duration::from_millis(by));
                host.settle();
            }
            _ => {
                let Some((id, next)) = host.next(&mut random) else { continue };
                let counted = model.states.entry(id).or_insert(Idle);
                if *counted != TransientFailure || next == Ready {
                    *counted = next;
                }
                model.choose_priority();
                host.becomes(id, next);
            }
        }
        // Subconns that were disconnected are idle in the model, too.
        let connected = model.connected();
        model.states.retain(|id, _| connected.contains(id));
        let picked = match host.policy().pick(&Rpc::default()) {
            PickResult::Pick(id) => Picker::Of(model.endpoints[&id]),
            PickResult::Queue => Picker::Queue,
            _ => Picker::Fail,
        };
        assert_eq!(picked, model.picker, "{:?}, {host:?}", model.endpoints);
        for id in host.all() {
            let is_connected = host.wanted().contains(id);
            let backs_off = host.state(*id) == TransientFailure;
            assert!(is_connected == connected.contains(id) || backs_off, "{id}, {host:?}");
        }
    }
}

#[test]
fn it_is_as_grfc_a56_in_random_histories() {
    histories(&[312, 1954], history);
}
