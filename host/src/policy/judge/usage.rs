//! What slots count, and the sums of it for the status.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counters of one slot. Written by the thread that holds its instance, read by any.
#[derive(Debug, Default)]
pub(crate) struct SlotCounters {
    target: String,
    pub(super) generation: u64,
    /// Number of the channel, the same for all of its slots.
    pub(super) channel: u64,
    picks: AtomicU64,
    /// Picks taken from plans, for which no thread holds the instance.
    planned: AtomicU64,
    fallback_picks: AtomicU64,
    /// Nanoseconds per pick: exponential moving average.
    cost: AtomicU64,
    memory: AtomicU64,
    renewals: AtomicU64,
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

    /// Counts picks taken from a plan.
    pub(crate) fn planned(&self, count: usize) {
        self.planned.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(super) fn all_picks(&self) -> u64 {
        self.picks.load(Ordering::Relaxed) + self.planned.load(Ordering::Relaxed)
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

impl PolicyTotals {
    pub(super) fn add(&mut self, counters: &SlotCounters) {
        self.picks += counters.all_picks();
        self.planned_picks += counters.planned.load(Ordering::Relaxed);
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
