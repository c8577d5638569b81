//! The subconns of a channel and their states, indexed so that a change of one costs nearly the same however
//! many there are.

use std::collections::HashMap;

use crate::connectivity::ConnectivityState;
use crate::resolver::{Address, Endpoint};
use crate::subconn::{Entry, ReadySet, Snapshots, SubConn};

/// A channel's subconns, in the resolver's order.
#[derive(Default)]
pub(super) struct Members {
    /// Endpoints in the resolver's order, without duplicates.
    list: Vec<Endpoint>,
    by_addresses: HashMap<Box<[Address]>, u32>,
    members: HashMap<u32, Member>,
    /// The next number to try.
    next: u32,
    /// Number of subconns in each state, as the channel sees it.
    counts: [usize; 5],
    snapshots: Snapshots,
}

struct Member {
    subconn: SubConn,
    /// State at the last [observation](Members::observe).
    last: ConnectivityState,
    /// As the channel sees it: once in TRANSIENT_FAILURE it stays there until READY (gRFC A62), so that
    /// RPCs fail fast instead of hanging at each new attempt.
    state: ConnectivityState,
}

/// A change of a subconn.
pub(super) struct Change {
    pub(super) state: ConnectivityState,
    /// Whether the subconn was READY or has failed: its endpoint may be gone.
    pub(super) is_lost: bool,
}

const ALL: [ConnectivityState; 5] = [
    ConnectivityState::Idle,
    ConnectivityState::Connecting,
    ConnectivityState::Ready,
    ConnectivityState::TransientFailure,
    ConnectivityState::Shutdown,
];

/// Changes of an update.
pub(super) struct Update {
    /// Numbers of new subconns.
    pub(super) added: Vec<u32>,
    /// Subconns of endpoints that are gone.
    pub(super) removed: Vec<SubConn>,
}

impl Members {
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Returns all subconns, in the resolver's order.
    pub(super) fn subconns(&self) -> impl DoubleEndedIterator<Item = &SubConn> {
        self.snapshots.order().iter().filter_map(|id| self.members.get(id)).map(|member| &member.subconn)
    }

    /// Returns the subconn of this number.
    pub(super) fn find(&self, id: u32) -> Option<&SubConn> {
        self.members.get(&id).map(|member| &member.subconn)
    }

    /// Returns the aggregate of their states.
    pub(super) fn state(&self) -> ConnectivityState {
        let present = ALL.into_iter().zip(self.counts).filter(|(_, count)| *count > 0);
        ConnectivityState::aggregate(present.map(|(state, _)| state))
    }

    /// Records the state of a subconn. `None`: there is no such subconn. The state may be unchanged, if it has changed
    /// twice.
    pub(super) fn observe(&mut self, id: u32) -> Option<Change> {
        let member = self.members.get_mut(&id)?;
        let state = member.subconn.state();
        let before = std::mem::replace(&mut member.last, state);
        if before == state {
            return Some(Change { state, is_lost: false });
        }
        let seen = match (member.state, state) {
            (
                ConnectivityState::TransientFailure,
                ConnectivityState::Idle | ConnectivityState::Connecting,
            ) => ConnectivityState::TransientFailure,
            _ => state,
        };
        self.counts[std::mem::replace(&mut member.state, seen) as usize] -= 1;
        self.counts[seen as usize] += 1;
        self.snapshots.put(member.entry());
        let is_lost = before == ConnectivityState::Ready || state == ConnectivityState::TransientFailure;
        Some(Change { state, is_lost })
    }

    /// Forgets failures from before the channel was idle.
    pub(super) fn forget_failures(&mut self) {
        self.counts = [0; 5];
        for member in self.members.values_mut() {
            member.state = member.last;
            self.counts[member.state as usize] += 1;
        }
    }

    /// Replaces the endpoints. Endpoints that stay keep their subconns; those of new ones are created by `spawn`.
    pub(super) fn update(
        &mut self,
        endpoints: Vec<Endpoint>,
        spawn: impl FnMut(u32, Endpoint) -> SubConn,
    ) -> Update {
        // Usually only a few endpoints differ from the previous list.
        let alike = |(new, old): &(&Endpoint, &Endpoint)| new == old;
        let first = endpoints.iter().zip(&self.list).take_while(alike).count();
        let (new, old) = (&endpoints[first..], &self.list[first..]);
        let last = new.iter().rev().zip(old.iter().rev()).take_while(alike).count();
        let (new, old) = (&new[..new.len() - last], &old[..old.len() - last]);
        let is_elsewhere = |endpoint: &Endpoint| {
            let is_old = old.iter().any(|old| old.addresses() == endpoint.addresses());
            !is_old && self.by_addresses.contains_key(endpoint.addresses())
        };
        if new.len().saturating_mul(old.len()) > self.list.len() || new.iter().any(is_elsewhere) {
            let old = self.list.len();
            self.replace(0, old, &endpoints, spawn)
        } else {
            let (new, old) = (new.to_vec(), old.len());
            self.replace(first, old, &new, spawn)
        }
    }

    /// Replaces `old` endpoints from the `first` on. None of the new ones is among the others.
    fn replace(
        &mut self,
        first: usize,
        old: usize,
        new: &[Endpoint],
        mut spawn: impl FnMut(u32, Endpoint) -> SubConn,
    ) -> Update {
        let mut gone: HashMap<Box<[Address]>, u32> = HashMap::with_capacity(old);
        for endpoint in &self.list[first..first + old] {
            gone.extend(self.by_addresses.remove_entry(endpoint.addresses()));
        }
        let (mut list, mut order, mut fresh) =
            (Vec::with_capacity(new.len()), Vec::with_capacity(new.len()), Vec::new());
        for endpoint in new {
            let addresses = endpoint.addresses();
            // Duplicates collapse into the first.
            if self.by_addresses.contains_key(addresses) {
                continue;
            }
            let id = match gone.remove(addresses) {
                Some(id) => {
                    if let Some(member) = self.members.get(&id)
                        && *member.subconn.endpoint() != *endpoint
                    {
                        member.subconn.update(endpoint.clone());
                        self.snapshots.put(member.entry());
                    }
                    id
                }
                None => {
                    let id = self.number();
                    let (subconn, state) = (spawn(id, endpoint.clone()), ConnectivityState::Idle);
                    let member = Member { subconn, last: state, state };
                    self.snapshots.put(member.entry());
                    self.members.insert(id, member);
                    self.counts[state as usize] += 1;
                    fresh.push(id);
                    id
                }
            };
            self.by_addresses.insert(addresses.into(), id);
            list.push(endpoint.clone());
            order.push(id);
        }
        let mut removed = Vec::new();
        for id in gone.into_values() {
            if let Some(member) = self.members.remove(&id) {
                removed.push(member.subconn);
                self.counts[member.state as usize] -= 1;
                self.snapshots.remove(id);
            }
        }
        self.snapshots.replace(first, old, order);
        self.list.splice(first..first + old, list);
        Update { added: fresh, removed }
    }

    /// Returns a number that no subconn has or, for the first 2^32 of them, had.
    fn number(&mut self) -> u32 {
        loop {
            let id = self.next;
            self.next = id.wrapping_add(1);
            if !self.members.contains_key(&id) {
                return id;
            }
        }
    }

    /// Returns the subconns as they were observed last.
    pub(super) fn snapshot(&mut self) -> ReadySet {
        self.snapshots.next()
    }
}

impl Member {
    fn entry(&self) -> Entry {
        let (subconn, endpoint) = (self.subconn.clone(), self.subconn.endpoint());
        Entry { subconn, endpoint, state: self.last }
    }
}

/// No connection outlives the balancer, however it ends.
impl Drop for Members {
    fn drop(&mut self) {
        for member in self.members.values() {
            member.subconn.shutdown();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// For any lists of endpoints: the first of duplicates counts, and endpoints that stay keep their subconns.
        #[test]
        fn the_subconns_are_those_of_the_list(
            lists in prop::collection::vec(prop::collection::vec((0u8..12, 1u32..3), 0..15), 1..10),
        ) {
            let (mut members, mut before) = (Members::default(), BTreeMap::new());
            // The first numbers are used again on the way.
            members.next = u32::MAX - 5;
            for list in lists {
                let endpoint = |(number, weight): &(u8, u32)| {
                    let address = format!("10.0.0.{number}:80").parse().expect("an address");
                    Endpoint::new(address).with_weight(*weight)
                };
                let Update { added, .. } = members.update(list.iter().map(endpoint).collect(), SubConn::fake);
                let mut seen = std::collections::HashSet::new();
                let expected = list.iter().filter(|(number, _)| seen.insert(*number)).map(endpoint);
                let set = members.snapshot();
                let found = set.all().iter().map(|subconn| Endpoint::clone(&subconn.endpoint()));
                prop_assert!(found.eq(expected));
                let now: BTreeMap<_, _> =
                    set.all().iter().map(|subconn| (subconn.endpoint().addresses().to_vec(), subconn.id())).collect();
                for (addresses, id) in &now {
                    match before.get(addresses) {
                        Some(kept) => prop_assert_eq!(kept, id),
                        None => prop_assert!(added.contains(id)),
                    }
                }
                prop_assert_eq!(members.counts.iter().sum::<usize>(), now.len());
                before = now;
            }
        }
    }
}
