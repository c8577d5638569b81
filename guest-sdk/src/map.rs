//! What a policy keeps of each subconn.

use crate::{Map, SubConn};

/// A value for each of some subconns (or methods). The values are in a list, in no particular order but always the same
/// one after the same changes; for all types of values there is one kind of hash map, which keeps policies small.
#[derive(Clone, Debug)]
pub struct SubConnMap<T> {
    places: Map<SubConn, u32>,
    entries: Vec<(SubConn, T)>,
}

impl<T> Default for SubConnMap<T> {
    fn default() -> Self {
        Self { places: Map::default(), entries: Vec::new() }
    }
}

impl<T> SubConnMap<T> {
    fn place(&self, id: SubConn) -> Option<usize> {
        self.places.get(&id).map(|place| *place as usize)
    }

    /// The value of one.
    #[must_use]
    pub fn get(&self, id: SubConn) -> Option<&T> {
        self.place(id).and_then(|at| self.entries.get(at)).map(|(_, value)| value)
    }

    /// The value of one, to change it.
    pub fn get_mut(&mut self, id: SubConn) -> Option<&mut T> {
        self.place(id).and_then(|at| self.entries.get_mut(at)).map(|(_, value)| value)
    }

    /// Whether there is a value.
    #[must_use]
    pub fn has(&self, id: SubConn) -> bool {
        self.places.contains_key(&id)
    }

    /// Sets the value of one, and gives the value that it had.
    pub fn insert(&mut self, id: SubConn, value: T) -> Option<T> {
        if let Some(known) = self.get_mut(id) {
            return Some(std::mem::replace(known, value));
        }
        self.get_or_insert_with(id, || value);
        None
    }

    /// The value of one; a new one if it has none.
    pub fn get_or_insert_with(&mut self, id: SubConn, new: impl FnOnce() -> T) -> &mut T {
        let at = self.place(id).unwrap_or_else(|| add(&mut self.places, id, self.entries.len()));
        if at == self.entries.len() {
            self.entries.push((id, new()));
        }
        &mut self.entries[at].1
    }

    /// Takes the value of one out.
    pub fn remove(&mut self, id: SubConn) -> Option<T> {
        let at = self.places.remove(&id)? as usize;
        let (_, value) = self.entries.swap_remove(at);
        if let Some((moved, _)) = self.entries.get(at) {
            add(&mut self.places, *moved, at);
        }
        Some(value)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (SubConn, &T)> {
        self.entries.iter().map(|(id, value)| (*id, value))
    }

    /// All subconns that have a value.
    pub fn ids(&self) -> impl Iterator<Item = SubConn> {
        self.entries.iter().map(|(id, _)| *id)
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|(_, value)| value)
    }

    /// All values, to change them.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().map(|(_, value)| value)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// The same code for all types.
#[inline(never)]
#[expect(clippy::cast_possible_truncation, reason = "one for each number")]
fn add(places: &mut Map<SubConn, u32>, id: SubConn, at: usize) -> usize {
    places.insert(id, at as u32);
    at
}

impl<T> FromIterator<(SubConn, T)> for SubConnMap<T> {
    fn from_iter<I: IntoIterator<Item = (SubConn, T)>>(entries: I) -> Self {
        let mut map = Self::default();
        entries.into_iter().for_each(|(id, value)| drop(map.insert(id, value)));
        map
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map(changes in prop::collection::vec((0u32..20, prop::option::of(0u8..9)), 0..100)) {
            let (mut map, mut model) = (SubConnMap::default(), std::collections::BTreeMap::new());
            for (id, change) in changes {
                match change {
                    Some(value) => {
                        map.insert(id, value);
                        model.insert(id, value);
                    }
                    None => prop_assert_eq!(map.remove(id), model.remove(&id)),
                }
                prop_assert_eq!(map.len(), model.len());
            }
            let mut all: Vec<_> = map.iter().map(|(id, value)| (id, *value)).collect();
            all.sort_unstable();
            prop_assert_eq!(all, model.iter().map(|(id, value)| (*id, *value)).collect::<Vec<_>>());
            prop_assert!((0..20).all(|id| map.get(id) == model.get(&id) && map.has(id) == model.contains_key(&id)));
        }
    }
}
