//! The sequence of a channel's [`ReadySet`]s.

use super::ready_set::{Entry, ReadySet};
use crate::connectivity::ConnectivityState;

/// Collects changes, and makes the next snapshot of the previous one. A change of one subconn costs little more among
/// ten thousand than among ten: each number is looked at, but nothing behind it.
#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    /// In the resolver's order.
    order: Vec<u32>,
    /// A bit for each number.
    ready: Vec<u64>,
    last: ReadySet,
    /// Changed since.
    dirty: Vec<(u32, Option<Entry>)>,
    order_is_new: bool,
    ready_is_new: bool,
}

impl Snapshots {
    /// The numbers, in the resolver's order.
    pub(crate) fn order(&self) -> &[u32] {
        &self.order
    }

    /// These numbers come in place of so many from the `first` on. Each must have been [put](Self::put).
    pub(crate) fn replace(&mut self, first: usize, old: usize, new: Vec<u32>) {
        if self.order[first..first + old] != new[..] {
            self.order.splice(first..first + old, new);
            self.order_is_new = true;
        }
    }

    /// A subconn is as this says from now on.
    pub(crate) fn put(&mut self, entry: Entry) {
        let id = entry.subconn.id();
        self.set_ready(id, entry.state == ConnectivityState::Ready);
        self.dirty.push((id, Some(entry)));
    }

    /// A subconn is there no more.
    pub(crate) fn remove(&mut self, id: u32) {
        self.set_ready(id, false);
        self.dirty.push((id, None));
    }

    /// Returns the next snapshot; the same one again if nothing has changed.
    pub(crate) fn next(&mut self) -> ReadySet {
        let order = self.order_is_new.then(|| self.order.as_slice().into());
        let ready = (self.order_is_new || self.ready_is_new).then(|| {
            let is_ready =
                |id: &u32| self.ready.get(*id as usize / 64).is_some_and(|word| word >> (id % 64) & 1 == 1);
            let mut ready = Vec::with_capacity(self.order.len());
            ready.extend(self.order.iter().filter(|id| is_ready(id)));
            ready.into()
        });
        if order.is_some() || ready.is_some() || !self.dirty.is_empty() {
            self.last = self.last.next(self.dirty.drain(..), order, ready);
        }
        (self.order_is_new, self.ready_is_new) = (false, false);
        self.last.clone()
    }

    fn set_ready(&mut self, id: u32, to: bool) {
        let (at, bit) = (id as usize / 64, 1 << (id % 64));
        if at >= self.ready.len() {
            self.ready.resize(at + 1, 0);
        }
        let word = &mut self.ready[at];
        let before = std::mem::replace(word, if to { *word | bit } else { *word & !bit });
        self.ready_is_new |= before != *word;
    }
}
