//! What belongs to numbers of subconns, in memory for those that there are.

/// A sorted list of values by number. Its size depends on how many values there are, and not on how great the numbers
/// have become. A look-up takes one step while the numbers have no gaps, otherwise a binary search.
#[derive(Clone, Debug)]
pub(super) struct Sparse<T> {
    list: Vec<(u32, T)>,
    /// The first number of the list; 0 if it is empty.
    first: u32,
}

impl<T> Default for Sparse<T> {
    fn default() -> Self {
        Self { list: Vec::new(), first: 0 }
    }
}

impl<T> Sparse<T> {
    /// Returns the value of a number.
    #[inline]
    pub(super) fn get(&self, number: u32) -> Option<&T> {
        // The numbers differ, so the place of a number is at most its distance from the first one; without gaps it is that.
        match self.list.get(number.wrapping_sub(self.first) as usize) {
            Some((there, value)) if *there == number => Some(value),
            _ => self.search(number),
        }
    }

    #[cold]
    fn search(&self, number: u32) -> Option<&T> {
        self.find(number).ok().map(|at| &self.list[at].1)
    }

    /// Returns the value of a number, after inserting a new one if it has none.
    pub(super) fn get_or_insert_with(&mut self, number: u32, new: impl FnOnce() -> T) -> &mut T {
        let at = self.find(number).unwrap_or_else(|at| {
            self.list.insert(at, (number, new()));
            self.first = self.list[0].0;
            at
        });
        &mut self.list[at].1
    }

    /// Removes the value of a number.
    pub(super) fn remove(&mut self, number: u32) {
        if let Ok(at) = self.find(number) {
            self.list.remove(at);
            self.first = self.list.first().map_or(0, |(first, _)| *first);
        }
    }

    /// Returns the values in ascending order of their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.list.iter().map(|(number, value)| (*number, value))
    }

    /// Returns the index of a number, or where it belongs.
    fn find(&self, number: u32) -> Result<usize, usize> {
        match self.list.last() {
            None => Err(0),
            Some((last, _)) if number > *last => Err(self.list.len()),
            Some(_) => self.list.binary_search_by_key(&number, |(number, _)| *number),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map(changes in prop::collection::vec((0u32..40, any::<bool>()), 0..200), far in any::<u32>()) {
            let (mut sparse, mut model) = (Sparse::default(), BTreeMap::new());
            for (value, (number, is_there)) in changes.into_iter().enumerate() {
                // Some near each other, some far away.
                let number = if number % 4 == 0 { number.wrapping_add(far) } else { number };
                if is_there {
                    *sparse.get_or_insert_with(number, || 0) = value;
                    model.insert(number, value);
                } else {
                    sparse.remove(number);
                    model.remove(&number);
                }
                prop_assert!(sparse.iter().eq(model.iter().map(|(number, value)| (*number, value))));
                for number in (0..40).flat_map(|number| [number, far.wrapping_add(number)]) {
                    prop_assert_eq!(sparse.get(number), model.get(&number));
                }
            }
        }
    }

    #[test]
    fn the_greatest_numbers_are_numbers() {
        let mut sparse = Sparse::default();
        for number in [u32::MAX, 0, u32::MAX - 1] {
            *sparse.get_or_insert_with(number, || 0) = number;
        }
        assert_eq!(
            [0, 1, u32::MAX - 1, u32::MAX].map(|number| sparse.get(number).copied()),
            [Some(0), None, Some(u32::MAX - 1), Some(u32::MAX)]
        );
    }
}
