//! The events to come, in the order of their times.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::servers::Nanos;

/// The events to come.
pub(super) struct Events<W> {
    heap: BinaryHeap<Due<W>>,
    number: u64,
}

struct Due<W> {
    at: Nanos,
    /// Events at the same time are in the order in which they were made.
    number: u64,
    what: W,
}

impl<W> Events<W> {
    pub(super) fn new() -> Self {
        Self { heap: BinaryHeap::new(), number: 0 }
    }

    pub(super) fn add(&mut self, at: Nanos, what: W) {
        self.number += 1;
        self.heap.push(Due { at, number: self.number, what });
    }

    /// Returns the number of events that have been made.
    pub(super) const fn made(&self) -> u64 {
        self.number
    }

    pub(super) fn pop(&mut self) -> Option<(Nanos, W)> {
        self.heap.pop().map(|due| (due.at, due.what))
    }

    /// Changes events, and the times of those for which `change` returns one.
    pub(super) fn change(&mut self, mut change: impl FnMut(&mut W) -> Option<Nanos>) {
        let mut all = std::mem::take(&mut self.heap).into_vec();
        for due in &mut all {
            if let Some(at) = change(&mut due.what) {
                due.at = at;
            }
        }
        self.heap = all.into();
    }
}

impl<W> PartialEq for Due<W> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<W> Eq for Due<W> {}

impl<W> PartialOrd for Due<W> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The earliest event is the greatest.
impl<W> Ord for Due<W> {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}
