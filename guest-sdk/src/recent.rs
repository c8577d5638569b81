//! A bounded map of recently used values.

use std::collections::hash_map::Entry;
use std::hash::Hash;

use crate::Map;

/// A map of bounded size that evicts the values that were least recently used, approximately. Values are in two
/// generations: those used since the last turn, and those used before it. A turn evicts the older generation. The most
/// recently used half of the capacity is always kept. An access costs no more than in an ordinary map.
///
/// ```
/// use hotpick_guest::recent::Recent;
///
/// let mut recent = Recent::new(4, usize::MAX);
/// for number in 0..100 {
///     recent.insert(number, "text", 1);
/// }
/// assert!(recent.get_mut(99).is_some() && recent.get_mut(95).is_none() && recent.len() <= 4);
/// ```
#[derive(Clone, Debug)]
pub struct Recent<K, V> {
    young: Map<K, (V, usize)>,
    old: Map<K, (V, usize)>,
    /// Size of the values in `young`.
    size: usize,
    /// Limits of one generation.
    most: usize,
    most_size: usize,
}

impl<K: Hash + Eq, V> Recent<K, V> {
    /// Creates a map for at most `most` values whose sizes add up to at most `most_size`.
    #[must_use]
    pub fn new(most: usize, most_size: usize) -> Self {
        let (young, old) = (Map::default(), Map::default());
        Self { young, old, size: 0, most: most.div_ceil(2), most_size: most_size.div_ceil(2) }
    }

    /// Returns the value of a key, and counts this as a use.
    pub fn get_mut(&mut self, key: K) -> Option<&mut V>
    where
        K: Copy,
    {
        if self.young.len() >= self.most && !self.young.contains_key(&key) {
            let (value, size) = self.old.remove(&key)?;
            self.insert(key, value, size);
        }
        match self.young.entry(key) {
            Entry::Occupied(entry) => Some(&mut entry.into_mut().0),
            Entry::Vacant(entry) => {
                let (value, size) = self.old.remove(&key)?;
                self.size = self.size.saturating_add(size);
                Some(&mut entry.insert((value, size)).0)
            }
        }
    }

    /// Returns whether a key has a value, without counting this as a use.
    #[must_use]
    pub fn has(&self, key: &K) -> bool {
        self.young.contains_key(key) || self.old.contains_key(key)
    }

    /// Sets the value of a key, and its size.
    pub fn insert(&mut self, key: K, value: V, size: usize) {
        if self.young.len() >= self.most || self.size >= self.most_size {
            self.turn();
        }
        self.size = self.size.saturating_add(size);
        self.old.remove(&key);
        if let Some((_, before)) = self.young.insert(key, (value, size)) {
            self.size = self.size.saturating_sub(before);
        }
    }

    /// Evicts all values that were not used since the last turn.
    pub fn turn(&mut self) {
        self.old = std::mem::take(&mut self.young);
        self.size = 0;
    }

    /// Removes all values.
    pub fn clear(&mut self) {
        self.turn();
        self.old.clear();
    }

    /// Returns all keys and values.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.young.iter().chain(&self.old).map(|(key, (value, _))| (key, value))
    }

    /// Returns the number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Returns whether there are no values.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_is_forgotten() {
        let mut recent = Recent::new(100, 1_000);
        for number in 0..10_000u32 {
            recent.insert(number, number, 10);
            assert!(recent.len() <= 100);
            assert_eq!(recent.get_mut(0), Some(&mut 0));
            assert!(recent.has(&number.saturating_sub(40)));
        }
        // A large value counts as much as many small ones.
        recent.insert(10_000, 0, 500);
        recent.insert(10_001, 0, 500);
        recent.insert(10_002, 0, 500);
        assert!(recent.len() <= 3, "{}", recent.len());
        recent.clear();
        assert!(recent.is_empty());
    }
}
