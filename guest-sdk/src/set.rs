//! Sets of subconns.

use crate::SubConn;

/// Some subconns, to ask whether one is among them. One bit for each number up to the largest: these are small and
/// dense, and so it is smaller than a hash set.
#[derive(Clone, Debug, Default)]
pub struct SubConnSet(Vec<u64>);

impl SubConnSet {
    /// Whether this one is among them.
    #[must_use]
    pub fn has(&self, id: SubConn) -> bool {
        self.0.get(id as usize / 64).is_some_and(|word| word >> (id % 64) & 1 == 1)
    }

    /// Adds one.
    pub fn insert(&mut self, id: SubConn) {
        let at = id as usize / 64;
        if at >= self.0.len() {
            self.0.resize(at + 1, 0);
        }
        self.0[at] |= 1 << (id % 64);
    }

    /// Takes one out.
    pub fn remove(&mut self, id: SubConn) {
        if let Some(word) = self.0.get_mut(id as usize / 64) {
            *word &= !(1 << (id % 64));
        }
    }
}

impl FromIterator<SubConn> for SubConnSet {
    fn from_iter<I: IntoIterator<Item = SubConn>>(ids: I) -> Self {
        let mut set = Self::default();
        ids.into_iter().for_each(|id| set.insert(id));
        set
    }
}

impl From<&[SubConn]> for SubConnSet {
    fn from(ids: &[SubConn]) -> Self {
        ids.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set(ids in prop::collection::vec((0u32..300, any::<bool>()), 0..100)) {
            let (mut set, mut model) = (SubConnSet::default(), std::collections::BTreeSet::new());
            for (id, add) in ids {
                if add {
                    set.insert(id);
                    model.insert(id);
                } else {
                    set.remove(id);
                    model.remove(&id);
                }
            }
            prop_assert!((0..400).all(|id| set.has(id) == model.contains(&id)));
        }
    }
}
