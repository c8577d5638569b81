//! What a picker chooses from.

use std::sync::Arc;

use super::SubConn;
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
    /// `all`, by number, each with its endpoint at the time of the snapshot.
    by_id: Vec<(SubConn, Arc<Endpoint>)>,
}

/// What became of a channel's endpoints between two snapshots.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// New ones, and those whose weight or attributes changed; in the resolver's order.
    pub(crate) added: Vec<(u32, Arc<Endpoint>)>,
    pub(crate) removed: Vec<u32>,
    /// Which are ready, or their order, has changed.
    pub(crate) ready: bool,
}

impl ReadySet {
    /// A snapshot of these subconns, in the resolver's order; `ready` is a part of `all`.
    pub(crate) fn new(all: Vec<SubConn>, ready: Vec<SubConn>) -> Self {
        let mut by_id: Vec<_> = all.iter().map(|subconn| (subconn.clone(), subconn.endpoint())).collect();
        by_id.sort_unstable_by_key(|(subconn, _)| subconn.id());
        Self(Arc::new(Inner { all, ready, by_id }))
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
        self.entry(id).map(|(subconn, _)| subconn)
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
        let changed = |(id, endpoint): &(u32, Arc<Endpoint>)| {
            earlier.entry(*id).is_none_or(|(_, before)| !Arc::ptr_eq(before, endpoint))
        };
        let gone = |(subconn, _): &&(SubConn, Arc<Endpoint>)| self.find(subconn.id()).is_none();
        Changes {
            added: self
                .all()
                .iter()
                .filter_map(|subconn| self.entry(subconn.id()))
                .map(|(subconn, endpoint)| (subconn.id(), Arc::clone(endpoint)))
                .filter(changed)
                .collect(),
            removed: earlier.0.by_id.iter().filter(gone).map(|(subconn, _)| subconn.id()).collect(),
            ready: self.ready() != earlier.ready(),
        }
    }

    fn entry(&self, id: u32) -> Option<&(SubConn, Arc<Endpoint>)> {
        let by_id = &self.0.by_id;
        by_id.binary_search_by_key(&id, |(subconn, _)| subconn.id()).ok().map(|at| &by_id[at])
    }
}
