//! One priority: its endpoints, and its state in gRFC A56.

use hotpick_guest::group::{Balance, Group};
use hotpick_guest::states::States;
use hotpick_guest::{ConnectivityState, Nanos, SubConn, connections};

/// Endpoints of the same priority.
#[derive(Debug)]
pub(crate) struct Tier {
    pub(crate) members: Vec<SubConn>,
    /// Number of members that are ready.
    ready: usize,
    /// Number of members that have failed.
    failed: usize,
    /// The child of A56. Exists from when the tier is first needed until it has been unused for the retention time.
    /// While it exists, the members are connected.
    pub(crate) child: Option<Child>,
    /// Since when a better tier has been in use.
    pub(crate) unused_since: Option<Nanos>,
    /// The ready members, while RPCs go to the tier.
    pub(crate) group: Group,
}

/// State of a tier that is, or recently was, needed.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) state: State,
    /// Until when RPCs wait for the tier if it is not ready (the failover timer). `None`: the timer is not running.
    pub(crate) patience: Option<Nanos>,
    /// Whether the tier is new, or has been ready since it last failed. If so, the failover timer starts when it
    /// connects.
    was_well: bool,
    pub(crate) ready_since: Nanos,
}

/// The state that round robin over the members reports: a member that has failed counts as failed until it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    Connecting,
    Failed,
}

impl Child {
    /// Applies the current state of the tier.
    fn note(&mut self, state: State, now: Nanos, failover: Nanos) {
        if state == self.state {
            return;
        }
        match state {
            State::Ready => (self.patience, self.was_well, self.ready_since) = (None, true, now),
            State::Failed => (self.patience, self.was_well) = (None, false),
            State::Connecting if self.was_well => self.patience = Some(now.saturating_add(failover)),
            State::Connecting => {}
        }
        self.state = state;
    }
}

impl Tier {
    pub(crate) fn new(balance: Balance) -> Self {
        let (members, group) = (Vec::new(), Group::new(balance));
        Self { members, ready: 0, failed: 0, child: None, unused_since: None, group }
    }

    /// Removes all members, before the list is rebuilt.
    pub(crate) fn clear(&mut self) {
        self.members.clear();
        (self.ready, self.failed) = (0, 0);
    }

    pub(crate) fn add(&mut self, id: SubConn, state: ConnectivityState) {
        self.members.push(id);
        self.count(state, true);
    }

    /// Counts one more, or one less, member in this state.
    pub(crate) fn count(&mut self, state: ConnectivityState, more: bool) {
        let count = match state {
            ConnectivityState::Ready => &mut self.ready,
            ConnectivityState::TransientFailure => &mut self.failed,
            _ => return,
        };
        *count = if more { *count + 1 } else { count.saturating_sub(1) };
    }

    pub(crate) fn state(&self) -> State {
        match () {
            () if self.ready > 0 => State::Ready,
            () if self.failed < self.members.len() => State::Connecting,
            () => State::Failed,
        }
    }

    /// Marks the tier as needed. A new tier is connected, and has `failover` to become ready.
    pub(crate) fn need(&mut self, now: Nanos, failover: Nanos) {
        self.unused_since = None;
        let state = self.state();
        if let Some(child) = &mut self.child {
            return child.note(state, now, failover);
        }
        self.members.iter().copied().for_each(connections::connect);
        let patience = Some(now.saturating_add(failover));
        let mut child = Child { state: State::Connecting, patience, was_well: true, ready_since: now };
        child.note(state, now, failover);
        self.child = Some(child);
    }

    /// Applies the current state of the members.
    pub(crate) fn note(&mut self, now: Nanos, failover: Nanos) {
        let state = self.state();
        if let Some(child) = &mut self.child {
            child.note(state, now, failover);
        }
    }

    /// Marks the tier as not needed, because a better one is in use. Returns when its connections are closed; `None` if
    /// it has none.
    pub(crate) fn rest(&mut self, now: Nanos, retention: Nanos, states: &mut States) -> Option<Nanos> {
        // A tier without a child may have connections of the previous policy.
        if self.child.is_none() && self.ready == 0 {
            return None;
        }
        let until = self.unused_since.get_or_insert(now).saturating_add(retention);
        if now < until {
            return Some(until);
        }
        (self.child, self.failed) = (None, 0);
        self.members.iter().for_each(|id| give_up(*id, states));
        None
    }

    /// Returns the share of RPCs that the tier takes. Proportional to its ready members if less than `spill_below`
    /// percent of them are ready.
    #[expect(clippy::cast_precision_loss, reason = "a number of endpoints")]
    pub(crate) fn part(&self, spill_below: u32) -> f64 {
        let needed = self.members.len() as f64 * f64::from(spill_below) / 100.0;
        if self.ready as f64 >= needed { 1.0 } else { self.ready as f64 / needed }
    }
}

/// Disconnects an endpoint. A failed one counts as new when it is needed again.
pub(crate) fn give_up(id: SubConn, states: &mut States) {
    if states.has_failed(id) {
        states.remove(id);
    }
    connections::disconnect(id);
}
