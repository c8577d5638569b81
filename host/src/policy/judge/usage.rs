//! What slots count, and the sums of it for the status.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_utils::CachePadded;

/// Counters of one slot. Written by the thread that holds its instance, read by any.
#[derive(Debug, Default)]
pub(crate) struct SlotCounters {
    target: String,
    pub(super) generation: u64,
    /// Number of the channel, the same for all of its slots.
    pub(super) channel: u64,
    picks: AtomicU64,
    /// Counts the picks taken from plans, for which no thread holds the instance.
    tickets: Arc<Tickets>,
    fallback_picks: AtomicU64,
    /// Nanoseconds per pick: exponential moving average.
    cost: AtomicU64,
    memory: AtomicU64,
    renewals: AtomicU64,
}

/// Numbers the picks that are taken from a slot's plans, which counts them as well: one counter for both, because all threads
/// write to it at each pick.
#[derive(Debug, Default)]
pub(crate) struct Tickets {
    next: CachePadded<AtomicU64>,
    /// Picks from tables have numbers of their own: a thread may take one late, when a sequence has come into force.
    of_tables: CachePadded<AtomicU64>,
    unused: Mutex<Unused>,
}

#[derive(Debug, Default)]
struct Unused {
    /// Number of tickets before the next one that have no pick.
    count: u64,
    /// Number of picks as read last. A thread that takes a ticket in vain says so a moment later, and the number must not fall.
    read: u64,
}

/// Totals of a policy, over all channels since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PolicyTotals {
    /// Picks that the policy made, in calls or plans.
    pub picks: u64,
    /// Picks among them that it had planned.
    pub planned_picks: u64,
    /// Picks that the fallback made instead.
    pub fallback_picks: u64,
    /// Instances that were replaced because they had used most of their memory.
    pub renewals: u64,
}

/// A channel's use of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChannelUsage {
    /// The channel's target.
    pub target: String,
    /// The generation that it uses.
    pub generation: u64,
    /// Bytes of memory that its instances use.
    pub memory: u64,
    /// Nanoseconds per pick: exponential moving average. `None` before the first measurement.
    pub pick_nanos: Option<u64>,
}

impl SlotCounters {
    pub(super) fn new(channel: u64, target: &str, generation: u64) -> Self {
        Self { target: target.to_owned(), generation, channel, ..Self::default() }
    }

    /// Counts a pick; called by the thread that holds the instance, so that no two count at the same time. Returns
    /// the number of picks before.
    pub(crate) fn pick(&self) -> u64 {
        let before = self.picks.load(Ordering::Relaxed);
        self.picks.store(before + 1, Ordering::Relaxed);
        before
    }

    /// Returns what numbers the picks of plans.
    pub(crate) const fn tickets(&self) -> &Arc<Tickets> {
        &self.tickets
    }

    pub(super) fn all_picks(&self) -> u64 {
        self.picks.load(Ordering::Relaxed) + self.tickets.used()
    }

    pub(crate) fn fallback(&self) {
        self.fallback_picks.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn fallback_picks(&self) -> u64 {
        self.fallback_picks.load(Ordering::Relaxed)
    }

    /// Records how long a pick took. Each counts for a sixteenth.
    pub(crate) fn took(&self, time: Duration) {
        let sample = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
        let cost = match self.cost.load(Ordering::Relaxed) {
            0 => sample,
            before => (before.saturating_mul(15).saturating_add(sample)) / 16,
        };
        self.cost.store(cost.max(1), Ordering::Relaxed);
    }

    pub(crate) fn memory(&self, bytes: usize) {
        self.memory.store(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn renewed(&self) {
        self.renewals.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn usage(&self) -> ChannelUsage {
        ChannelUsage {
            target: self.target.clone(),
            generation: self.generation,
            memory: self.memory.load(Ordering::Relaxed),
            pick_nanos: Some(self.cost.load(Ordering::Relaxed)).filter(|cost| *cost > 0),
        }
    }
}

impl Tickets {
    /// Takes the next ticket.
    #[inline]
    pub(crate) fn take(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns the next ticket, which is not taken.
    pub(crate) fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Takes the next number of a pick from a table.
    #[inline]
    pub(crate) fn take_of_tables(&self) -> u64 {
        self.of_tables.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns the next number of a pick from a table, which is not taken.
    pub(crate) fn next_of_tables(&self) -> u64 {
        self.of_tables.load(Ordering::Relaxed)
    }

    /// Skips the tickets before this one that have not been taken.
    pub(crate) fn skip_to(&self, ticket: u64) {
        let mut unused = self.unused();
        let before = self.next.fetch_max(ticket, Ordering::Relaxed);
        unused.count += ticket.saturating_sub(before);
    }

    /// Records that a ticket has no pick.
    pub(crate) fn taken_in_vain(&self) {
        self.unused().count += 1;
    }

    /// Returns the number of picks, which never falls.
    pub(crate) fn used(&self) -> u64 {
        let mut unused = self.unused();
        let used = (self.next() + self.next_of_tables()).saturating_sub(unused.count);
        unused.read = unused.read.max(used);
        unused.read
    }

    fn unused(&self) -> MutexGuard<'_, Unused> {
        self.unused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PolicyTotals {
    pub(super) fn add(&mut self, counters: &SlotCounters) {
        self.picks += counters.all_picks();
        self.planned_picks += counters.tickets.used();
        self.fallback_picks += counters.fallback_picks.load(Ordering::Relaxed);
        self.renewals += counters.renewals.load(Ordering::Relaxed);
    }
}

impl ChannelUsage {
    /// Adds another instance of the same channel.
    pub(super) fn add(&mut self, other: &Self) {
        self.memory += other.memory;
        self.pick_nanos = self.pick_nanos.max(other.pick_nanos);
    }
}
