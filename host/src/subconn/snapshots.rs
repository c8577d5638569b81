//! The sequence of a channel's [`ReadySet`]s.

use super::ready_set::{Entry, ReadySet};
use super::sparse::Sparse;
use crate::connectivity::ConnectivityState;

/// Collects changes, and creates the next snapshot from the previous one.
///
/// A change of one subconn is cheap even among ten thousand: all numbers are read, but only changed entries are copied.
#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    /// Numbers in the resolver's order.
    order: Vec<u32>,
    /// Bit set of the ready numbers, without empty words.
    ready: Sparse<u64>,
    last: ReadySet,
    /// Entries that have changed since `last`. `None`: removed.
    dirty: Vec<(u32, Option<Entry>)>,
    order_is_new: bool,
    ready_is_new: bool,
}

impl Snapshots {
    /// Returns the numbers, in the resolver's order.
    pub(crate) fn order(&self) -> &[u32] {
        &self.order
    }

    /// Replaces `old` numbers, from index `first` on. Each new number must have been [put](Self::put).
    pub(crate) fn replace(&mut self, first: usize, old: usize, new: Vec<u32>) {
        if self.order[first..first + old] != new[..] {
            self.order.splice(first..first + old, new);
            self.order_is_new = true;
        }
    }

    /// Adds or replaces the entry of a subconn.
    pub(crate) fn put(&mut self, entry: Entry) {
        let id = entry.subconn.id();
        self.set_ready(id, entry.state == ConnectivityState::Ready);
        self.dirty.push((id, Some(entry)));
    }

    /// Removes the entry of a subconn.
    pub(crate) fn remove(&mut self, id: u32) {
        self.set_ready(id, false);
        self.dirty.push((id, None));
    }

    /// Returns the next snapshot, or the same one if nothing has changed.
    pub(crate) fn next(&mut self) -> ReadySet {
        let order = self.order_is_new.then(|| self.order.as_slice().into());
        let ready = (self.order_is_new || self.ready_is_new).then(|| {
            // Numbers that follow each other are in the same word.
            let mut last = (u32::MAX, 0);
            let is_ready = |id: &&u32| {
                let at = *id / 64;
                if last.0 != at {
                    last = (at, self.ready.get(at).copied().unwrap_or(0));
                }
                last.1 >> (*id % 64) & 1 == 1
            };
            let mut ready = Vec::with_capacity(self.order.len());
            ready.extend(self.order.iter().filter(is_ready));
            ready.into()
        });
        if order.is_some() || ready.is_some() || !self.dirty.is_empty() {
            self.last = self.last.next(self.dirty.drain(..), order, ready);
        }
        (self.order_is_new, self.ready_is_new) = (false, false);
        self.last.clone()
    }

    fn set_ready(&mut self, id: u32, to: bool) {
        let bit = 1 << (id % 64);
        let word = self.ready.get_or_insert_with(id / 64, || 0);
        let before = std::mem::replace(word, if to { *word | bit } else { *word & !bit });
        self.ready_is_new |= before != *word;
        if *word == 0 {
            self.ready.remove(id / 64);
        }
    }
}
