//! What was used of late, with a bound.

use std::collections::hash_map::Entry;
use std::hash::Hash;

use crate::Map;

/// A map of bounded size that forgets what was not used for longest, nearly: in two generations, those used since the last
/// turn and those used before it. At a turn the older ones are forgotten. The latest half of what there is room for is
/// always there; and a use costs no more than in any map.
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
    /// Of the young ones.
    size: usize,
    /// For one generation.
    most: usize,
    most_size: usize,
}

impl<K: Hash + Eq, V> Recent<K, V> {
    /// Room for so many, and for so much of what their sizes add up to.
    #[must_use]
    pub fn new(most: usize, most_size: usize) -> Self {
        let (young, old) = (Map::default(), Map::default());
        Self { young, old, size: 0, most: most.div_ceil(2), most_size: most_size.div_ceil(2) }
    }

    /// The value of a key, which is used by that.
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

    /// Whether there is a value, without using it.
    #[must_use]
    pub fn has(&self, key: &K) -> bool {
        self.young.contains_key(key) || self.old.contains_key(key)
    }

    /// Sets the value of a key, which takes so much room.
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

    /// Forgets what was not used since the last turn.
    pub fn turn(&mut self) {
        self.old = std::mem::take(&mut self.young);
        self.size = 0;
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.turn();
        self.old.clear();
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.young.iter().chain(&self.old).map(|(key, (value, _))| (key, value))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// There are none.
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
        // Large ones take the room of many.
        recent.insert(10_000, 0, 500);
        recent.insert(10_001, 0, 500);
        recent.insert(10_002, 0, 500);
        assert!(recent.len() <= 3, "{}", recent.len());
        recent.clear();
        assert!(recent.is_empty());
    }
}
