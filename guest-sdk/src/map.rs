//! Maps from subconns and from methods.

use std::fmt;

use crate::{Endpoint, OTHER_METHOD, SubConn};

/// A map from subconns. Its values are in a list, in no particular order, but always in the same order after the same
/// changes.
#[derive(Clone)]
pub struct SubConnMap<T> {
    places: Places,
    entries: Vec<(SubConn, T)>,
}

/// Index of each subconn's value, in pages, because the numbers of one time are close together. The pages are sorted,
/// and those without entries are gone, so that their size does not depend on how great the numbers have become. A hash
/// map is larger.
#[derive(Clone, Debug, Default)]
struct Places(Vec<Page>);

#[derive(Clone, Debug)]
struct Page {
    number: u32,
    used: usize,
    places: [u32; PAGE as usize],
}

const PAGE: u32 = 64;
const NONE: u32 = u32::MAX;

/// Returns the page of a subconn, and the index there.
const fn split(id: SubConn) -> (u32, usize) {
    (id / PAGE, (id % PAGE) as usize)
}

impl Places {
    fn get(&self, id: SubConn) -> Option<usize> {
        let (number, at) = split(id);
        let place = self.0[self.find(number).ok()?].places[at];
        (place != NONE).then_some(place as usize)
    }

    #[expect(clippy::cast_possible_truncation, reason = "one for each number")]
    fn set(&mut self, id: SubConn, place: usize) {
        let (number, at) = split(id);
        let page = self.find(number).unwrap_or_else(|at| {
            self.0.insert(at, Page { number, used: 0, places: [NONE; PAGE as usize] });
            at
        });
        let page = &mut self.0[page];
        page.used += usize::from(page.places[at] == NONE);
        page.places[at] = place as u32;
    }

    fn remove(&mut self, id: SubConn) -> Option<usize> {
        let (number, at) = split(id);
        let index = self.find(number).ok()?;
        let page = &mut self.0[index];
        let place = std::mem::replace(&mut page.places[at], NONE);
        if place == NONE {
            return None;
        }
        page.used -= 1;
        if page.used == 0 {
            self.0.remove(index);
        }
        Some(place as usize)
    }

    /// Returns the index of a page, or where it belongs. A page whose number is so much greater than the first one's is
    /// at most so many places after it, and exactly there if none is missing between.
    #[inline]
    fn find(&self, number: u32) -> Result<usize, usize> {
        let Some(first) = self.0.first() else { return Err(0) };
        let most = number.wrapping_sub(first.number) as usize;
        match self.0.get(most) {
            Some(page) if page.number == number => Ok(most),
            _ => self.search(number),
        }
    }

    #[cold]
    fn search(&self, number: u32) -> Result<usize, usize> {
        match self.0.last() {
            Some(last) if last.number < number => Err(self.0.len()),
            _ => self.0.binary_search_by_key(&number, |page| page.number),
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for SubConnMap<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.entries.iter().map(|(id, value)| (id, value))).finish()
    }
}

impl<T> Default for SubConnMap<T> {
    fn default() -> Self {
        Self { places: Places::default(), entries: Vec::new() }
    }
}

impl<T> SubConnMap<T> {
    /// Returns the value of a subconn.
    #[must_use]
    pub fn get(&self, id: SubConn) -> Option<&T> {
        self.places.get(id).and_then(|at| self.entries.get(at)).map(|(_, value)| value)
    }

    /// Returns the value of a subconn, to change it.
    pub fn get_mut(&mut self, id: SubConn) -> Option<&mut T> {
        self.places.get(id).and_then(|at| self.entries.get_mut(at)).map(|(_, value)| value)
    }

    /// Returns whether a subconn has a value.
    #[must_use]
    pub fn has(&self, id: SubConn) -> bool {
        self.places.get(id).is_some()
    }

    /// Sets the value of a subconn. Returns the previous value.
    pub fn insert(&mut self, id: SubConn, value: T) -> Option<T> {
        if let Some(known) = self.get_mut(id) {
            return Some(std::mem::replace(known, value));
        }
        self.get_or_insert_with(id, || value);
        None
    }

    /// Returns the value of a subconn, after inserting a new one if it has none.
    pub fn get_or_insert_with(&mut self, id: SubConn, new: impl FnOnce() -> T) -> &mut T {
        let at = self.places.get(id).unwrap_or(self.entries.len());
        if at == self.entries.len() {
            self.places.set(id, at);
            self.entries.push((id, new()));
        }
        &mut self.entries[at].1
    }

    /// Removes the value of a subconn and returns it.
    pub fn remove(&mut self, id: SubConn) -> Option<T> {
        let at = self.places.remove(id)?;
        let (_, value) = self.entries.swap_remove(at);
        if let Some((moved, _)) = self.entries.get(at) {
            self.places.set(*moved, at);
        }
        Some(value)
    }

    /// Returns all subconns with their values.
    pub fn iter(&self) -> impl Iterator<Item = (SubConn, &T)> {
        self.entries.iter().map(|(id, value)| (*id, value))
    }

    /// Returns all subconns that have a value.
    pub fn ids(&self) -> impl Iterator<Item = SubConn> {
        self.entries.iter().map(|(id, _)| *id)
    }

    /// Returns all values.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|(_, value)| value)
    }

    /// Returns all values, to change them.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().map(|(_, value)| value)
    }

    /// Returns the number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether there are no values.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// The weights of endpoints. Only those other than 1 take memory.
#[derive(Clone, Debug, Default)]
pub struct Weights(SubConnMap<u32>);

impl Weights {
    /// Applies a change of the list, as reported to [`Policy::endpoints`](crate::Policy::endpoints).
    pub fn update(&mut self, added: &[Endpoint], removed: &[SubConn]) {
        for id in removed {
            self.0.remove(*id);
        }
        for endpoint in added {
            match endpoint.weight {
                1 => self.0.remove(endpoint.id),
                weight => self.0.insert(endpoint.id, weight),
            };
        }
    }

    /// Returns whether all weights are 1.
    #[must_use]
    pub fn are_all_1(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the weight of a subconn; 1 if it is unknown.
    #[must_use]
    pub fn of(&self, id: SubConn) -> u32 {
        self.0.get(id).copied().unwrap_or(1)
    }
}

impl<T> FromIterator<(SubConn, T)> for SubConnMap<T> {
    fn from_iter<I: IntoIterator<Item = (SubConn, T)>>(entries: I) -> Self {
        let mut map = Self::default();
        entries.into_iter().for_each(|(id, value)| drop(map.insert(id, value)));
        map
    }
}

/// A map from methods, by [`PickInfo::method`](crate::PickInfo::method). One entry stands for all methods without a
/// number of their own ([`OTHER_METHOD`]), so the size is bounded whatever methods callers make up.
#[derive(Clone, Debug)]
pub struct MethodMap<T>(Vec<Option<T>>);

impl<T> Default for MethodMap<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> MethodMap<T> {
    /// Returns the value of a method.
    #[must_use]
    pub fn get(&self, method: u32) -> Option<&T> {
        self.0.get(place(method)).and_then(Option::as_ref)
    }

    /// Returns the value of a method, after inserting a new one if it has none.
    pub fn get_or_insert_with(&mut self, method: u32, new: impl FnOnce() -> T) -> &mut T {
        let at = place(method);
        if at >= self.0.len() {
            self.0.resize_with(at + 1, || None);
        }
        self.0[at].get_or_insert_with(new)
    }
}

/// Maps numbers outside of the contract to the entry for other methods.
const fn place(method: u32) -> usize {
    (if method < OTHER_METHOD { method } else { OTHER_METHOD }) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map(changes in prop::collection::vec((0u32..20, prop::option::of(0u8..9)), 0..100), far: u32) {
            let (mut map, mut model) = (SubConnMap::default(), std::collections::BTreeMap::new());
            for (id, change) in changes {
                // On one page or another, near or far.
                let id = if id % 3 == 0 { id.wrapping_add(far >> (id % 5 * 6)) } else { id };
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
            let near = model.keys().flat_map(|id| [id.wrapping_sub(1), *id, id.wrapping_add(1)]);
            for id in near.chain(0..700) {
                prop_assert_eq!((map.get(id), map.has(id)), (model.get(&id), model.contains_key(&id)));
            }
            for id in map.ids().collect::<Vec<_>>() {
                map.remove(id);
            }
            prop_assert!(map.places.0.is_empty());
        }
    }

    #[test]
    fn methods_have_a_bound_whatever_their_number() {
        let mut methods = MethodMap::default();
        assert_eq!(methods.get(0), None);
        for method in [3, OTHER_METHOD, u32::MAX, OTHER_METHOD + 1] {
            methods.get_or_insert_with(method, || method);
        }
        assert_eq!(methods.get(3), Some(&3));
        assert_eq!(methods.get(4), None);
        assert_eq!(methods.get(u32::MAX), Some(&OTHER_METHOD));
        assert_eq!(methods.0.len(), OTHER_METHOD as usize + 1);
    }
}
