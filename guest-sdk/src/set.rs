//! Sets of subconns.

use std::collections::BinaryHeap;

use crate::SubConn;

/// Some subconns, to ask whether one is among them: a sorted list, as large as they are many, whatever their numbers. To make
/// it costs as much as a sort, if they are not in order as they mostly are; a look is a binary search. For a set that changes
/// one by one a [`SubConnMap`](crate::SubConnMap) is better.
#[derive(Clone, Debug, Default)]
pub struct SubConnSet(Vec<SubConn>);

impl SubConnSet {
    /// Whether this one is among them.
    #[must_use]
    pub fn has(&self, id: SubConn) -> bool {
        self.0.binary_search(&id).is_ok()
    }
}

impl FromIterator<SubConn> for SubConnSet {
    fn from_iter<I: IntoIterator<Item = SubConn>>(ids: I) -> Self {
        let ids: Vec<_> = ids.into_iter().collect();
        // By a heap: a quicksort is 4 KB of code.
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
