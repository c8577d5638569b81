//! What a picker chooses from.

use std::sync::Arc;

use super::SubConn;
use crate::connectivity::ConnectivityState;
use crate::resolver::Endpoint;

/// An immutable snapshot of a channel's subconns. Cheap to clone.
///
/// Anything computed from one (an index, a table) is stale as soon as there is a newer one.
#[derive(Clone, Debug, Default)]
pub struct ReadySet(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    all: Vec<SubConn>,
    ready: Vec<SubConn>,
    /// Of `all`, by number.
    by_id: Vec<Entry>,
}

/// A subconn as it was at the time of the snapshot.
#[derive(Clone, Debug)]
struct Entry {
    subconn: SubConn,
    endpoint: Arc<Endpoint>,
    state: ConnectivityState,
}

/// What became of a channel's endpoints between two snapshots.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// New ones, and those whose weight or attributes changed; in the resolver's order.
    pub(crate) added: Vec<(u32, Arc<Endpoint>)>,
    pub(crate) removed: Vec<u32>,
    /// Which are ready, or their order, has changed.
    pub(crate) ready: bool,
    /// Those in another state than before, in the resolver's order. One that was not there was IDLE.
    pub(crate) states: Vec<(u32, ConnectivityState)>,
}

impl ReadySet {
    /// A snapshot of subconns, in the resolver's order, each in a state.
    pub(crate) fn new(members: impl IntoIterator<Item = (SubConn, ConnectivityState)>) -> Self {
        let mut inner = Inner::default();
        for (subconn, state) in members {
            inner.all.push(subconn.clone());
            if state == ConnectivityState::Ready {
                inner.ready.push(subconn.clone());
            }
            let endpoint = subconn.endpoint();
            inner.by_id.push(Entry { subconn, endpoint, state });
        }
        inner.by_id.sort_unstable_by_key(|entry| entry.subconn.id());
        Self(Arc::new(inner))
    }

    /// The ready subconns, in the resolver's order.
    #[must_use]
    pub fn ready(&self) -> &[SubConn] {
        &self.0.ready
    }

    /// All subconns, in the resolver's order.
    #[must_use]
    pub fn all(&self) -> &[SubConn] {
        &self.0.all
    }

    /// The subconn of this number, ready or not.
    #[must_use]
    pub fn find(&self, id: u32) -> Option<&SubConn> {
        self.entry(id).map(|entry| &entry.subconn)
    }

    /// The state of this subconn when the snapshot was made.
    #[must_use]
    pub fn state(&self, id: u32) -> Option<ConnectivityState> {
        self.entry(id).map(|entry| entry.state)
    }

    /// Whether this is the very same snapshot.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// What is different from an `earlier` snapshot.
    pub(crate) fn changes_since(&self, earlier: &Self) -> Changes {
        if self.is(earlier) {
            return Changes::default();
        }
        let mut changes = Changes { ready: self.ready() != earlier.ready(), ..Changes::default() };
        for entry in self.all().iter().filter_map(|subconn| self.entry(subconn.id())) {
            let (id, before) = (entry.subconn.id(), earlier.entry(entry.subconn.id()));
            if before.is_none_or(|before| !Arc::ptr_eq(&before.endpoint, &entry.endpoint)) {
                changes.added.push((id, Arc::clone(&entry.endpoint)));
            }
            if before.map_or(ConnectivityState::Idle, |before| before.state) != entry.state {
                changes.states.push((id, entry.state));
            }
        }
        let gone = |entry: &&Entry| self.find(entry.subconn.id()).is_none();
        changes.removed = earlier.0.by_id.iter().filter(gone).map(|entry| entry.subconn.id()).collect();
        changes
    }

    /// Where the subconn of this number is, for [`at`](Self::at).
    pub(crate) fn place(&self, id: u32) -> Option<u32> {
        let at = self.position(id)?;
        u32::try_from(at).ok()
    }

    /// The subconn at a [`place`](Self::place).
    pub(crate) fn at(&self, place: u32) -> Option<&SubConn> {
        self.0.by_id.get(place as usize).map(|entry| &entry.subconn)
    }

    fn entry(&self, id: u32) -> Option<&Entry> {
        self.position(id).map(|at| &self.0.by_id[at])
    }

    fn position(&self, id: u32) -> Option<usize> {
        let by_id = &self.0.by_id;
        // As long as none has gone, each is where its number says.
        if by_id.get(id as usize).is_some_and(|entry| entry.subconn.id() == id) {
            return Some(id as usize);
        }
        by_id.binary_search_by_key(&id, |entry| entry.subconn.id()).ok()
    }
}
