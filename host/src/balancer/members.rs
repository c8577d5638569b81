//! The subconns of a channel, and what is known of them: kept so that what becomes of one costs nearly the same however
//! many there are.

use std::collections::HashMap;

use crate::connectivity::ConnectivityState;
use crate::resolver::{Address, Endpoint};
use crate::subconn::{Entry, ReadySet, SubConn};

/// A channel's subconns, in the resolver's order.
#[derive(Default)]
pub(super) struct Members {
    /// As the resolver gave them, each once.
    list: Vec<Endpoint>,
    /// Their subconns.
    order: Vec<u32>,
    by_addresses: HashMap<Box<[Address]>, u32>,
    members: HashMap<u32, Member>,
    /// How many are in each state, as the channel sees it.
    counts: [usize; 5],
    /// A bit for each number.
    ready: Vec<u64>,
    /// Of the last look.
    set: ReadySet,
    /// Changed since.
    dirty: Vec<u32>,
    order_is_new: bool,
    ready_is_new: bool,
}

struct Member {
    subconn: SubConn,
    /// At the last look.
    last: ConnectivityState,
    /// As the channel sees it: once in TRANSIENT_FAILURE it stays there until READY (gRFC A62), so that
    /// RPCs fail fast instead of hanging at each new attempt.
    state: ConnectivityState,
}

/// What has become of a subconn.
pub(super) struct Noted {
    pub(super) state: ConnectivityState,
    /// It was READY, or has failed: its endpoint may be gone for good.
    pub(super) is_lost: bool,
}

const ALL: [ConnectivityState; 5] = [
    ConnectivityState::Idle,
    ConnectivityState::Connecting,
    ConnectivityState::Ready,
    ConnectivityState::TransientFailure,
    ConnectivityState::Shutdown,
];

impl Members {
    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// In the resolver's order.
    pub(super) fn subconns(&self) -> impl DoubleEndedIterator<Item = &SubConn> {
        self.order.iter().filter_map(|id| self.members.get(id)).map(|member| &member.subconn)
    }

    /// The subconn of this number.
    pub(super) fn find(&self, id: u32) -> Option<&SubConn> {
        self.members.get(&id).map(|member| &member.subconn)
    }

    /// The aggregate of their states.
    pub(super) fn state(&self) -> ConnectivityState {
        let present = ALL.into_iter().zip(self.counts).filter(|(_, count)| *count > 0);
        ConnectivityState::aggregate(present.map(|(state, _)| state))
    }

    /// Looks at a subconn; none if it is not there any more. It may be as it was, having been otherwise meanwhile.
    pub(super) fn note(&mut self, id: u32) -> Option<Noted> {
        let member = self.members.get_mut(&id)?;
        let state = member.subconn.state();
        let before = std::mem::replace(&mut member.last, state);
        if before == state {
            return Some(Noted { state, is_lost: false });
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
        self.dirty.push(id);
        self.ready_is_new |= before == ConnectivityState::Ready || state == ConnectivityState::Ready;
        set(&mut self.ready, id, state == ConnectivityState::Ready);
        let is_lost = before == ConnectivityState::Ready || state == ConnectivityState::TransientFailure;
        Some(Noted { state, is_lost })
    }

    /// What failed long ago is no reason to fail now.
    pub(super) fn start_anew(&mut self) {
        self.counts = [0; 5];
        for member in self.members.values_mut() {
            member.state = member.last;
            self.counts[member.state as usize] += 1;
        }
    }

    /// Keeps the subconns of endpoints that stay, ends those of others, and has those of new ones made. Gives the new.
    pub(super) fn follow(
        &mut self,
        endpoints: Vec<Endpoint>,
        spawn: impl FnMut(Endpoint) -> SubConn,
    ) -> Vec<u32> {
        // As a rule few of them are others than before.
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

    /// Puts endpoints in the place of so many from the `first` on. None of them is among the others.
    fn replace(
        &mut self,
        first: usize,
        old: usize,
        new: &[Endpoint],
        mut spawn: impl FnMut(Endpoint) -> SubConn,
    ) -> Vec<u32> {
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
                        self.dirty.push(id);
                    }
                    id
                }
                None => {
                    let subconn = spawn(endpoint.clone());
                    let (id, state) = (subconn.id(), ConnectivityState::Idle);
                    self.members.insert(id, Member { subconn, last: state, state });
                    self.counts[state as usize] += 1;
                    self.dirty.push(id);
                    fresh.push(id);
                    id
                }
            };
            self.by_addresses.insert(addresses.into(), id);
            list.push(endpoint.clone());
            order.push(id);
        }
        for id in gone.into_values() {
            if let Some(member) = self.members.remove(&id) {
                member.subconn.shutdown();
                self.counts[member.state as usize] -= 1;
                set(&mut self.ready, id, false);
                self.dirty.push(id);
            }
        }
        if self.order[first..first + old] != order[..] {
            self.order.splice(first..first + old, order);
            self.order_is_new = true;
        }
        self.list.splice(first..first + old, list);
        fresh
    }

    /// How they are: as at the last look, but for what has been noted since.
    pub(super) fn look(&mut self) -> ReadySet {
        let order = self.order_is_new.then(|| self.order.as_slice().into());
        let ready = (self.order_is_new || self.ready_is_new).then(|| {
            let ready: Vec<u32> = self.order.iter().copied().filter(|id| has(&self.ready, *id)).collect();
            ready.into()
        });
        if order.is_some() || ready.is_some() || !self.dirty.is_empty() {
            let members = &self.members;
            let entry = |id: u32| {
                let member = members.get(&id);
                let entry = |member: &Member| Entry {
                    subconn: member.subconn.clone(),
                    endpoint: member.subconn.endpoint(),
                    state: member.last,
                };
                (id, member.map(entry))
            };
            self.set = self.set.next(self.dirty.drain(..).map(entry), order, ready);
        }
        (self.order_is_new, self.ready_is_new) = (false, false);
        self.set.clone()
    }
}

/// However the balancer ends, no connection stays behind.
impl Drop for Members {
    fn drop(&mut self) {
        for member in self.members.values() {
            member.subconn.shutdown();
        }
    }
}

fn set(bits: &mut Vec<u64>, id: u32, to: bool) {
    let (at, bit) = (id as usize / 64, 1 << (id % 64));
    if at >= bits.len() {
        bits.resize(at + 1, 0);
    }
    if to {
        bits[at] |= bit;
    } else {
        bits[at] &= !bit;
    }
}

fn has(bits: &[u64], id: u32) -> bool {
    bits.get(id as usize / 64).is_some_and(|word| word >> (id % 64) & 1 == 1)
}
