//! Sets of subconns.

use std::collections::BinaryHeap;

use crate::SubConn;

/// An immutable set of subconns: a sorted list, whose size depends only on the number of its members. Creating it takes
/// a sort, unless the members are in order, as they usually are. A lookup is a binary search. For a set that changes
/// member by member, use a [`SubConnMap`](crate::SubConnMap).
#[derive(Clone, Debug, Default)]
pub struct SubConnSet(Vec<SubConn>);

impl SubConnSet {
    /// Returns whether a subconn is in the set.
    #[must_use]
    pub fn has(&self, id: SubConn) -> bool {
        self.0.binary_search(&id).is_ok()
    }
}

impl FromIterator<SubConn> for SubConnSet {
    fn from_iter<I: IntoIterator<Item = SubConn>>(ids: I) -> Self {
        let ids: Vec<_> = ids.into_iter().collect();
        // Sorted by a heap: a quicksort takes 4 KB of code.
        Self(if ids.is_sorted() { ids } else { BinaryHeap::from(ids).into_sorted_vec() })
    }
}

impl From<&[SubConn]> for SubConnSet {
    fn from(ids: &[SubConn]) -> Self {
        ids.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_set_whatever_the_numbers() {
        for ids in [vec![], vec![3], vec![9, 3, 3, u32::MAX, 0]] {
            let set = SubConnSet::from(&ids[..]);
            assert!(
                [0, 1, 3, 9, u32::MAX - 1, u32::MAX].into_iter().all(|id| set.has(id) == ids.contains(&id))
            );
        }
    }
}
