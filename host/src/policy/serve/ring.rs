//! Picks that wait to be taken, each under its ticket.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Picks under consecutive tickets. One thread at a time writes, any reads.
///
/// An entry contains its ticket, because a reader can be late: an entry that has been written again since, or that has not been
/// written yet, has another ticket. Only 32 bits of it: a reader that is late by 2^32 picks would get the newer pick.
#[derive(Debug, Default)]
pub(super) struct Ring {
    /// [`Open`], or 0 without a sequence.
    open: AtomicU64,
    entries: OnceLock<Box<Entries>>,
}

type Entries = [AtomicU64; LENGTH];

/// Number of entries: 2 KiB for each instance that makes sequences.
const LENGTH: usize = 256;
/// Number of picks that may wait in the ring. The other entries are those of the tickets taken last, whose threads may not have
/// read them yet.
pub(super) const MOST: usize = LENGTH - 16;
/// Number of picks left in the ring at which a thread sees to more, for a long sequence.
const LOW: u64 = 64;

/// Where the picks end, and how many left are few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Open(u64);

impl Open {
    /// A sequence is in force, but the ring has no more of its picks.
    const CLOSED: Self = Self(1);
    /// Nor has the plan.
    const USED_UP: Self = Self(2);

    const fn new(end: u64, low: u64) -> Self {
        Self(end << 8 | low)
    }

    /// Returns which number of picks is low for a sequence of this length: about a quarter.
    pub(super) fn low(length: usize) -> u64 {
        (length.div_ceil(4) as u64).next_power_of_two().min(LOW)
    }

    /// Returns whether no ticket is to be taken.
    #[inline]
    pub(super) const fn is_closed(self) -> bool {
        self.0 == Self::CLOSED.0
    }

    /// Returns whether the thread with this ticket has to see to more picks: at few left, and again at each half of that, in
    /// case that the first one could not.
    #[inline]
    pub(super) const fn runs_low(self, ticket: u64) -> bool {
        let left = (self.0 >> 8).wrapping_sub(ticket);
        left <= self.0 & 0xff && left.is_power_of_two()
    }
}

impl Ring {
    /// Returns where the picks end. `None`: no sequence is in force, or it is used up.
    #[inline]
    pub(super) fn open(&self) -> Option<Open> {
        let open = self.open.load(Ordering::Acquire);
        (open != 0 && open != Open::USED_UP.0).then_some(Open(open))
    }

    /// Returns whether there is a sequence.
    pub(super) fn is_in_use(&self) -> bool {
        self.open.load(Ordering::Acquire) != 0
    }

    /// Returns the pick of this ticket. `None`: it has none.
    #[inline]
    pub(super) fn get(&self, ticket: u64) -> Option<u32> {
        let entry = self.entries.get()?[place(ticket)].load(Ordering::Acquire);
        #[expect(clippy::cast_possible_truncation, reason = "two halves")]
        (entry >> 32 == ticket & u64::from(u32::MAX)).then_some(entry as u32)
    }

    /// Ends the taking of tickets after one that has no pick, unless there are more picks now.
    #[cold]
    pub(super) fn close(&self, open: Open) {
        let closed = Open::CLOSED.0;
        let _ = self.open.compare_exchange(open.0, closed, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Records that the sequence has no more picks for a ring that is closed.
    pub(super) fn use_up(&self) {
        let (closed, used_up) = (Open::CLOSED.0, Open::USED_UP.0);
        let _ = self.open.compare_exchange(closed, used_up, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Ends the taking of tickets, and the sequence.
    pub(super) fn shut(&self) {
        self.open.store(0, Ordering::Relaxed);
    }

    /// Writes picks of a sequence of this length under the tickets from `from` on.
    ///
    /// # Panics
    ///
    /// If there are more than [`MOST`].
    pub(super) fn write(&self, from: u64, picks: &[u32], length: usize) {
        assert!(picks.len() <= MOST, "no pick may be written over another one");
        let entries = self.entries.get_or_init(|| Box::new([const { AtomicU64::new(u64::MAX) }; LENGTH]));
        for (ticket, pick) in (from..).zip(picks) {
            entries[place(ticket)].store(ticket << 32 | u64::from(*pick), Ordering::Release);
        }
        let end = from + picks.len() as u64;
        self.open.store(Open::new(end, Open::low(length)).0, Ordering::Release);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "less than the length")]
const fn place(ticket: u64) -> usize {
    (ticket % LENGTH as u64) as usize
}
