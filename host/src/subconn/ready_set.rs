//! Snapshots of a channel's subconns, from which pickers choose.

use std::fmt;
use std::iter::FusedIterator;
use std::sync::Arc;

use super::SubConn;
use super::sparse::Sparse;
use crate::connectivity::ConnectivityState;
use crate::resolver::Endpoint;

/// An immutable snapshot of a channel's subconns. Cheap to clone.
///
/// Anything that is computed from a snapshot (an index, a table) is stale as soon as there is a newer one.
///
/// Successive snapshots share what has not changed, and only the rest is compared. So a new snapshot and its difference
/// from the previous one are cheap when few subconns change.
#[derive(Clone, Debug, Default)]
pub struct ReadySet(Arc<Inner>);

#[derive(Clone, Debug, Default)]
struct Inner {
    /// Numbers in the resolver's order.
    all: Arc<[u32]>,
    ready: Arc<[u32]>,
    /// Entries by number, in pages of [`PAGE`]. A page without entries is none.
    pages: Sparse<Arc<Page>>,
}

const PAGE: u32 = 64;
type Page = [Option<Entry>; PAGE as usize];

/// A subconn as it was at the time of the snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) subconn: SubConn,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) state: ConnectivityState,
}

/// Some of the subconns of a [`ReadySet`], in the resolver's order.
#[derive(Clone, Copy)]
pub struct SubConns<'a> {
    ids: &'a [u32],
    set: &'a ReadySet,
}

/// The difference between two snapshots.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// New subconns, and those whose weight or attributes have changed; in the resolver's order.
    pub(crate) added: Vec<(u32, Arc<Endpoint>)>,
    pub(crate) removed: Vec<u32>,
    /// Whether the set of ready subconns, or their order, has changed.
    pub(crate) ready: bool,
    /// Subconns whose state has changed, in the resolver's order. A new subconn counts as IDLE before.
    pub(crate) states: Vec<(u32, ConnectivityState)>,
}

impl ReadySet {
    /// Creates a snapshot of subconns and their states, in the resolver's order.
    pub(crate) fn new(members: impl IntoIterator<Item = (SubConn, ConnectivityState)>) -> Self {
        let mut inner = Inner::default();
        let (mut all, mut ready) = (Vec::new(), Vec::new());
        for (subconn, state) in members {
            let id = subconn.id();
            all.push(id);
            if state == ConnectivityState::Ready {
                ready.push(id);
            }
            let endpoint = subconn.endpoint();
            inner.set(id, Some(Entry { subconn, endpoint, state }));
        }
        (inner.all, inner.ready) = (all.into(), ready.into());
        Self(Arc::new(inner))
    }

    /// Returns the next snapshot, with these entries replaced (`None` removes one). `all` and `ready` are the numbers
    /// in the resolver's order; `None`: as before.
    pub(crate) fn next(
        &self,
        entries: impl IntoIterator<Item = (u32, Option<Entry>)>,
        all: Option<Arc<[u32]>>,
        ready: Option<Arc<[u32]>>,
    ) -> Self {
        let mut inner = Inner::clone(&self.0);
        for (id, entry) in entries {
            inner.set(id, entry);
        }
        inner.all = all.unwrap_or(inner.all);
        inner.ready = ready.unwrap_or(inner.ready);
        Self(Arc::new(inner))
    }

    /// Returns the ready subconns, in the resolver's order.
    #[must_use]
    pub fn ready(&self) -> SubConns<'_> {
        SubConns { ids: &self.0.ready, set: self }
    }

    /// Returns all subconns, in the resolver's order.
    #[must_use]
    pub fn all(&self) -> SubConns<'_> {
        SubConns { ids: &self.0.all, set: self }
    }

    /// Returns the subconn with this number, ready or not. `None`: it is not in the snapshot.
    #[must_use]
    #[inline]
    pub fn find(&self, id: u32) -> Option<&SubConn> {
        self.0.entry(id).map(|entry| &entry.subconn)
    }

    /// Returns the state of this subconn at the time of the snapshot. `None`: it is not in the snapshot.
    #[must_use]
    pub fn state(&self, id: u32) -> Option<ConnectivityState> {
        self.0.entry(id).map(|entry| entry.state)
    }

    /// Returns whether both are the same snapshot, by identity.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns the difference from an `earlier` snapshot.
    pub(crate) fn changes_since(&self, earlier: &Self) -> Changes {
        let (before, now) = (&earlier.0, &self.0);
        let ready = !Arc::ptr_eq(&before.ready, &now.ready) && before.ready != now.ready;
        let mut changes = Changes { ready, ..Changes::default() };
        let (mut olds, mut news) = (before.pages.iter().peekable(), now.pages.iter().peekable());
        loop {
            let next = [&mut olds, &mut news].into_iter().filter_map(|pages| pages.peek()).map(|(at, _)| *at);
            let Some(at) = next.min() else { break };
            let page = |(number, _): &(u32, _)| *number == at;
            let (old, new) = (olds.next_if(page), news.next_if(page));
            let (old, new) = (old.map(|(_, page)| page), new.map(|(_, page)| page));
            if !old.zip(new).is_some_and(|(old, new)| Arc::ptr_eq(old, new)) {
                for slot in 0..PAGE as usize {
                    let entry = |page: Option<&'_ Arc<Page>>| page.and_then(|page| page[slot].clone());
                    changes.record(entry(old), entry(new));
                }
            }
        }
        if changes.added.len() > 1 || changes.states.len() > 1 {
            let rank: std::collections::HashMap<u32, usize> = now.all.iter().copied().zip(0..).collect();
            changes.added.sort_by_key(|(id, _)| rank.get(id));
            changes.states.sort_by_key(|(id, _)| rank.get(id));
        }
        changes
    }
}

impl Changes {
    fn record(&mut self, before: Option<Entry>, now: Option<Entry>) {
        let Some(now) = now else {
            self.removed.extend(before.map(|before| before.subconn.id()));
            return;
        };
        let id = now.subconn.id();
        if before.as_ref().map_or(ConnectivityState::Idle, |before| before.state) != now.state {
            self.states.push((id, now.state));
        }
        if before.is_none_or(|before| !Arc::ptr_eq(&before.endpoint, &now.endpoint)) {
            self.added.push((id, now.endpoint));
        }
    }
}

impl Inner {
    #[inline]
    fn entry(&self, id: u32) -> Option<&Entry> {
        self.pages.get(id / PAGE)?[(id % PAGE) as usize].as_ref()
    }

    fn set(&mut self, id: u32, entry: Option<Entry>) {
        if entry.is_none() && self.entry(id).is_none() {
            return;
        }
        let page = self.pages.get_or_insert_with(id / PAGE, || Arc::new([const { None }; PAGE as usize]));
        let is_gone = entry.is_none();
        Arc::make_mut(page)[(id % PAGE) as usize] = entry;
        if is_gone && page.iter().all(Option::is_none) {
            self.pages.remove(id / PAGE);
        }
    }
}

impl<'a> SubConns<'a> {
    /// Returns the number of subconns.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.ids.len()
    }

    /// Returns whether there are no subconns.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Returns the numbers of the subconns.
    #[must_use]
    pub const fn ids(&self) -> &'a [u32] {
        self.ids
    }

    /// Returns the subconn at this index. `None`: the index is out of range.
    #[must_use]
    pub fn get(&self, at: usize) -> Option<&'a SubConn> {
        self.ids.get(at).and_then(|id| self.set.find(*id))
    }

    /// Returns the first subconn. `None`: there are none.
    #[must_use]
    pub fn first(&self) -> Option<&'a SubConn> {
        self.get(0)
    }

    /// Returns the last subconn. `None`: there are none.
    #[must_use]
    pub fn last(&self) -> Option<&'a SubConn> {
        self.get(self.len().checked_sub(1)?)
    }

    /// Iterates over the subconns.
    #[must_use]
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &'a SubConn> + FusedIterator + Clone + use<'a> {
        let set = self.set;
        self.ids.iter().filter_map(|id| set.find(*id))
    }

    /// Returns handles to the subconns.
    #[must_use]
    pub fn to_vec(&self) -> Vec<SubConn> {
        self.iter().cloned().collect()
    }
}

impl fmt::Debug for SubConns<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::subconn::FakeSubConns;

    const STATES: [ConnectivityState; 4] = [
        ConnectivityState::Idle,
        ConnectivityState::Connecting,
        ConnectivityState::Ready,
        ConnectivityState::TransientFailure,
    ];

    /// The state of a policy that is notified of all changes.
    #[derive(Default, PartialEq, Debug)]
    struct Mirror {
        endpoints: std::collections::BTreeMap<u32, Endpoint>,
        states: std::collections::BTreeMap<u32, ConnectivityState>,
        ready: Vec<u32>,
    }

    impl Mirror {
        fn of(set: &ReadySet) -> Self {
            let mut mirror = Self { ready: set.ready().ids().to_vec(), ..Self::default() };
            for subconn in set.all().iter() {
                mirror.endpoints.insert(subconn.id(), Endpoint::clone(&subconn.endpoint()));
                mirror.states.insert(subconn.id(), set.state(subconn.id()).expect("there"));
            }
            mirror
        }

        fn apply(&mut self, changes: Changes, ready: &[u32]) {
            for id in changes.removed {
                assert!(self.endpoints.remove(&id).is_some() && self.states.remove(&id).is_some());
            }
            for (id, endpoint) in changes.added {
                self.endpoints.insert(id, Endpoint::clone(&endpoint));
                self.states.entry(id).or_insert(ConnectivityState::Idle);
            }
            self.states.extend(changes.states);
            if changes.ready {
                self.ready = ready.to_vec();
            }
            assert_eq!(self.ready, ready);
        }
    }

    proptest! {
        #[test]
        fn changes_make_of_one_snapshot_the_other(
            steps in prop::collection::vec(prop::collection::vec((0u16..200, 0usize..4, 1u32..3), 0..100), 1..8),
        ) {
            let (mut endpoints, mut before) = (FakeSubConns::default(), ReadySet::default());
            let mut mirror = Mirror::default();
            for mut step in steps {
                let mut seen = std::collections::HashSet::new();
                step.retain(|(number, ..)| seen.insert(*number));
                let set = endpoints.set(step.into_iter().map(|(number, state, weight)| {
                    let address = format!("10.0.{}.{}:80", number / 100, number % 100).parse().expect("an address");
                    (Endpoint::new(address).with_weight(weight), STATES[state])
                }));
                mirror.apply(set.changes_since(&before), set.ready().ids());
                prop_assert_eq!(&mirror, &Mirror::of(&set));
                before = set;
            }
        }
    }
}
