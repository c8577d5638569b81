//! A fake host for policies that decide when to connect.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::FakeHost;
use crate::random::Random;
use crate::{Connectivity, ConnectivityState, Endpoint, SubConn};

/// Subconns that connect when the policy requests it, and whose connections a test makes or breaks.
#[derive(Debug)]
pub struct LazyHost<P> {
    policy: FakeHost<P>,
    /// In the resolver's order.
    order: Vec<SubConn>,
    states: BTreeMap<SubConn, ConnectivityState>,
    wanted: BTreeSet<SubConn>,
}

impl<P: Connectivity> LazyHost<P> {
    /// Creates a host without endpoints.
    #[must_use]
    pub const fn new(policy: FakeHost<P>) -> Self {
        Self { policy, order: Vec::new(), states: BTreeMap::new(), wanted: BTreeSet::new() }
    }

    /// Returns the policy and its clock.
    pub const fn policy(&mut self) -> &mut FakeHost<P> {
        &mut self.policy
    }

    /// Changes the list of endpoints.
    pub fn change(&mut self, added: &[Endpoint], removed: &[SubConn]) {
        for endpoint in added {
            if let Entry::Vacant(entry) = self.states.entry(endpoint.id) {
                entry.insert(ConnectivityState::Idle);
                self.order.push(endpoint.id);
            }
        }
        for id in removed {
            self.states.remove(id);
            self.wanted.remove(id);
            self.order.retain(|known| known != id);
        }
        self.policy.change(added, removed);
        self.settle();
        self.notify_ready();
        self.settle();
    }

    /// Changes the state of a subconn.
    pub fn becomes(&mut self, id: SubConn, state: ConnectivityState) {
        self.set(id, state);
        self.settle();
    }

    /// Carries out what the policy has requested. To be called after any call in which the policy may request
    /// something, such as a pick or a timer.
    pub fn settle(&mut self) {
        loop {
            let asked = self.policy.take_connects();
            if asked.is_empty() {
                return;
            }
            for (id, connect) in asked {
                match self.state(id) {
                    ConnectivityState::Shutdown => {}
                    _ if connect => drop(self.wanted.insert(id)),
                    ConnectivityState::Ready | ConnectivityState::Connecting => {
                        self.set(id, ConnectivityState::Idle);
                    }
                    _ => drop(self.wanted.remove(&id)),
                }
            }
        }
    }

    /// Returns a random subconn that can change, and a possible next state. `None`: no subconn can change.
    pub fn next(&self, random: &mut Random) -> Option<(SubConn, ConnectivityState)> {
        let may_change =
            |id: &SubConn| self.wanted.contains(id) || self.state(*id) == ConnectivityState::TransientFailure;
        let all: Vec<_> = self.order.iter().copied().filter(may_change).collect();
        let id = *all.get(random.below(all.len()))?;
        let next = match self.state(id) {
            ConnectivityState::Idle => ConnectivityState::Connecting,
            ConnectivityState::Connecting if random.below(2) == 0 => ConnectivityState::Ready,
            ConnectivityState::Connecting => ConnectivityState::TransientFailure,
            // The connection is lost, or the backoff is over.
            _ => ConnectivityState::Idle,
        };
        Some((id, next))
    }

    /// Returns the state of a subconn.
    #[must_use]
    pub fn state(&self, id: SubConn) -> ConnectivityState {
        self.states.get(&id).copied().unwrap_or(ConnectivityState::Shutdown)
    }

    /// Returns all endpoints, in the resolver's order.
    #[must_use]
    pub fn all(&self) -> &[SubConn] {
        &self.order
    }

    /// Returns the subconns that the policy wants connected.
    #[must_use]
    pub const fn wanted(&self) -> &BTreeSet<SubConn> {
        &self.wanted
    }

    /// Returns the ready subconns, in the resolver's order.
    #[must_use]
    pub fn ready(&self) -> Vec<SubConn> {
        let is_ready = |id: &SubConn| self.state(*id) == ConnectivityState::Ready;
        self.order.iter().copied().filter(is_ready).collect()
    }

    fn set(&mut self, id: SubConn, state: ConnectivityState) {
        self.states.insert(id, state);
        if state != ConnectivityState::Connecting && state != ConnectivityState::Ready {
            // A subconn that is idle again connects only at the next request.
            self.wanted.remove(&id);
        }
        self.policy.connectivity(
            id,
            state,
            if state == ConnectivityState::TransientFailure { "refused" } else { "" },
        );
        self.notify_ready();
    }

    fn notify_ready(&mut self) {
        let ready = self.ready();
        self.policy.ready(&ready);
    }
}
