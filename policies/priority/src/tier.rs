//! One priority: its endpoints, and what gRFC A56 keeps of it.

use hotpick_guest::group::{Balance, Group};
use hotpick_guest::states::States;
use hotpick_guest::{ConnectivityState, Nanos, SubConn, connections};

/// Endpoints of the same priority.
#[derive(Debug)]
pub(crate) struct Tier {
    pub(crate) members: Vec<SubConn>,
    /// How many of them are ready, and have failed.
    ready: usize,
    failed: usize,
    /// What A56 calls its child: there from when the tier is first needed until it was not used for long. As long as it is,
    /// the members are connected.
    pub(crate) child: Option<Child>,
    /// Since when a better one is in use.
    pub(crate) unused_since: Option<Nanos>,
    /// The ready members, while RPCs go to it.
    pub(crate) group: Group,
}

/// The state of a tier that is, or was, needed.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) state: State,
    /// Until then RPCs wait for it, if it is not ready (the failover timer).
    pub(crate) patience: Option<Nanos>,
    /// It was ready, or is new, since it failed: if it is connecting again it has its time to do so.
    was_well: bool,
    pub(crate) ready_since: Nanos,
}

/// What round robin over the members would report, to which one that has failed is failed until it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    Connecting,
    Failed,
}

impl Child {
    /// Takes in the state of its tier.
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

    /// The list is made again.
    pub(crate) fn clear(&mut self) {
        self.members.clear();
        (self.ready, self.failed) = (0, 0);
    }

    pub(crate) fn add(&mut self, id: SubConn, state: ConnectivityState) {
        self.members.push(id);
        self.count(state, true);
    }

    /// One more, or one less, in this state.
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

    /// It is needed: from now on it is connected, and has `failover` to become ready if it is new.
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

    /// Something has changed.
    pub(crate) fn note(&mut self, now: Nanos, failover: Nanos) {
        let state = self.state();
        if let Some(child) = &mut self.child {
            child.note(state, now, failover);
        }
    }

    /// It is not needed, as a better one is in use. Gives when its connections are given up, if it has any.
    pub(crate) fn rest(&mut self, now: Nanos, retention: Nanos, states: &mut States) -> Option<Nanos> {
        // One that is not connected may have connections of the policy before.
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

    /// What part of the RPCs it takes, if it takes less the fewer of its endpoints are ready, below so many percent.
    #[expect(clippy::cast_precision_loss, reason = "a number of endpoints")]
    pub(crate) fn part(&self, spill_below: u32) -> f64 {
        let needed = self.members.len() as f64 * f64::from(spill_below) / 100.0;
        if self.ready as f64 >= needed { 1.0 } else { self.ready as f64 / needed }
    }
}

/// One is not to be connected any more. When it is wanted again it is a new one.
pub(crate) fn give_up(id: SubConn, states: &mut States) {
    if states.has_failed(id) {
        states.remove(id);
    }
    connections::disconnect(id);
}
