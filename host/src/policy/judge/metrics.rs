//! The metrics of one policy, over all channels and versions.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::fault_kind::FaultKind;
use super::instruments::{Instruments, Metric};
use super::probation::{Probation, WINDOW};
use tokio::time::Instant;

use super::usage::{ChannelUsage, PolicyTotals, SlotCounters};
use crate::lifecycle::{Stage, StartError};
use crate::policy::limits::Limits;
use crate::trace::Recordings;

/// The metrics of one policy, and the judgement of its active version. Shared by all versions and channels of the
/// policy.
pub(crate) struct PolicyMetrics {
    /// Requests to record the policy.
    pub(crate) recordings: Recordings,
    inner: Mutex<Inner>,
    /// Called when there may be something to decide: a version is condemned, or was tried. Must not
    /// block.
    on_change: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct Inner {
    /// The policy's own instruments, by the target of the channel.
    instruments: BTreeMap<String, Arc<Instruments>>,
    /// One for each instance in each channel.
    channels: Vec<Arc<SlotCounters>>,
    /// Totals of channels that have ended, or use another version now.
    past: PolicyTotals,
    faults: BTreeMap<FaultKind, u64>,
    last_fault: Option<String>,
    /// Number of activations.
    loads: u64,
    /// Number of rejections, by stage.
    rejections: BTreeMap<Stage, u64>,
    /// Refusals by the target of the channel.
    refusals: BTreeMap<String, Refusal>,
    probation: Probation,
    /// The generation in a rollout, and the times of its faults within a minute.
    rollout: Option<(u64, VecDeque<Instant>)>,
}

/// A channel that did not take a version.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// The generation that the channel refused.
    pub generation: u64,
    /// Reason of the refusal.
    pub error: StartError,
}

/// A reading of [`PolicyMetrics`].
#[derive(Clone, Debug, Default)]
pub(crate) struct MetricsSnapshot {
    pub(crate) totals: PolicyTotals,
    pub(crate) faults: BTreeMap<FaultKind, u64>,
    pub(crate) last_fault: Option<String>,
    pub(crate) channels: Vec<ChannelUsage>,
    pub(crate) refusals: BTreeMap<String, Refusal>,
    pub(crate) metrics: Vec<Metric>,
    pub(crate) loads: u64,
    pub(crate) rejections: BTreeMap<Stage, u64>,
    pub(crate) on_probation: bool,
}

impl Default for PolicyMetrics {
    fn default() -> Self {
        Self::new(|| ())
    }
}

impl PolicyMetrics {
    /// Creates the metrics of a policy. `on_change` is called when there may be something to decide; it must not
    /// block.
    pub(crate) fn new(on_change: impl Fn() + Send + Sync + 'static) -> Self {
        Self { recordings: Recordings::default(), inner: Mutex::default(), on_change: Box::new(on_change) }
    }

    /// Records that a version becomes active. `strict`: there is a version for a rollback. `proven`: the version was
    /// active before, and passed its probation.
    pub(crate) fn activated(&self, generation: u64, strict: bool, proven: bool) {
        let mut inner = self.lock();
        // A version that is active again may never have left its channels.
        let is_taken = inner.channels.iter().any(|counters| counters.generation == generation);
        inner.probation = Probation::start(generation, strict, proven, is_taken);
        inner.refusals.clear();
        inner.loads += 1;
    }

    /// Begins to count the faults of a version that is tried beside the active one.
    pub(crate) fn rollout_started(&self, generation: u64) {
        self.lock().rollout = Some((generation, VecDeque::new()));
    }

    /// Returns the faults of the version in a rollout within a minute, and why a channel refused it, if one did.
    pub(crate) fn rollout_faults(&self) -> (u64, Option<String>, Option<StartError>) {
        let inner = self.lock();
        let Some((generation, recent)) = &inner.rollout else { return (0, None, None) };
        let (generation, faults) = (*generation, recent.len() as u64);
        let refusal = inner.refusals.values().find(|refusal| refusal.generation == generation);
        let last = inner.last_fault.clone().filter(|_| faults > 0);
        (faults, last, refusal.map(|refusal| refusal.error.clone()))
    }

    /// Forgets the version in a rollout.
    pub(crate) fn rollout_ended(&self) {
        let mut inner = self.lock();
        if let Some((generation, _)) = inner.rollout.take() {
            inner.refusals.retain(|_, refusal| refusal.generation != generation);
        }
    }

    /// Records that a file was rejected at this stage.
    pub(crate) fn rejected(&self, stage: Stage) {
        *self.lock().rejections.entry(stage).or_default() += 1;
    }

    /// Returns why this version must not be used any more, if it is the active one.
    pub(crate) fn verdict(&self, generation: u64) -> Option<String> {
        let inner = self.lock();
        inner.probation.verdict().filter(|_| inner.probation.generation == generation).map(str::to_owned)
    }

    /// Returns whether the active version has passed its probation.
    pub(crate) fn is_proven(&self) -> bool {
        let inner = self.lock();
        !inner.on_probation() && inner.probation.verdict().is_none()
    }

    /// Returns whether any channel uses the policy.
    pub(crate) fn is_used(&self) -> bool {
        let mut inner = self.lock();
        inner.fold();
        !inner.channels.is_empty()
    }

    /// Returns whether a channel has taken the active version.
    pub(crate) fn is_taken(&self) -> bool {
        self.lock().probation.is_taken
    }

    /// Returns why no channel has taken the active version although some have tried. `None`: a channel has taken it, or
    /// has tried it within this time.
    pub(crate) fn refused_by_all(&self, quiet_for: Duration) -> Option<StartError> {
        let inner = self.lock();
        let of_active = |refusal: &&Refusal| refusal.generation == inner.probation.generation;
        let refusal = inner.refusals.values().find(of_active)?;
        inner.probation.is_refused_by_all(quiet_for).then(|| refusal.error.clone())
    }

    pub(crate) fn snapshot(&self) -> MetricsSnapshot {
        let mut inner = self.lock();
        inner.fold();
        let mut totals = inner.past;
        let mut channels = Vec::new();
        for counters in &inner.channels {
            totals.add(counters);
            let of_channel = |(channel, _): &&mut (u64, ChannelUsage)| *channel == counters.channel;
            match channels.iter_mut().find(of_channel) {
                Some((_, usage)) => usage.add(&counters.usage()),
                None => channels.push((counters.channel, counters.usage())),
            }
        }
        let metrics = inner.instruments.iter().flat_map(|(target, own)| own.read(target)).collect();
        MetricsSnapshot {
            totals,
            faults: inner.faults.clone(),
            last_fault: inner.last_fault.clone(),
            channels: channels.into_iter().map(|(_, usage)| usage).collect(),
            refusals: inner.refusals.clone(),
            metrics,
            loads: inner.loads,
            rejections: inner.rejections.clone(),
            on_probation: inner.on_probation(),
        }
    }

    /// Returns the policy's own instruments for channels to `target`.
    pub(crate) fn instruments(&self, target: &str) -> Arc<Instruments> {
        Arc::clone(self.lock().instruments.entry(target.to_owned()).or_default())
    }

    /// Records that a channel takes a version. Returns the counters of one of the channel's instances.
    pub(crate) fn slot_started(&self, channel: u64, target: &str, generation: u64) -> Arc<SlotCounters> {
        let counters = Arc::new(SlotCounters::new(channel, target, generation));
        let mut inner = self.lock();
        inner.fold();
        inner.refusals.remove(target);
        inner.probation.is_taken |= inner.probation.generation == generation;
        inner.channels.push(Arc::clone(&counters));
        counters
    }

    /// Records that a channel tries a version, until the guard is dropped.
    pub(crate) fn try_version(self: &Arc<Self>, generation: u64) -> TryGuard {
        let mut inner = self.lock();
        if inner.probation.generation == generation {
            inner.probation.try_started();
        }
        TryGuard { metrics: Arc::clone(self), generation }
    }

    /// Records that a channel has refused a version.
    pub(crate) fn refused(&self, target: &str, generation: u64, error: StartError) {
        let mut inner = self.lock();
        *inner.rejections.entry(error.stage()).or_default() += 1;
        if inner.probation.generation == generation {
            inner.probation.refused();
        }
        inner.refusals.insert(target.to_owned(), Refusal { generation, error });
    }

    /// Counts a fault of an instance. Returns whether the version must not be used any more.
    pub(crate) fn fault(&self, generation: u64, kind: FaultKind, text: &str, limits: &Limits) -> bool {
        let mut inner = self.lock();
        *inner.faults.entry(kind).or_default() += 1;
        inner.last_fault = Some(text.to_owned());
        if let Some((tried, faults)) = &mut inner.rollout
            && *tried == generation
        {
            let now = Instant::now();
            faults.retain(|at| now.saturating_duration_since(*at) <= WINDOW);
            faults.push_back(now);
            drop(inner);
            (self.on_change)();
            return false;
        }
        inner.probation.start_late(generation);
        if inner.probation.generation != generation {
            // The version has been replaced already.
            return false;
        }
        if inner.probation.verdict().is_some() {
            return true;
        }
        let picks = inner.active_picks();
        let condemned = inner.probation.fault(text, picks, limits.faults);
        drop(inner);
        if condemned {
            (self.on_change)();
        }
        condemned
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a channel as trying a version. See [`PolicyMetrics::try_version`].
pub(crate) struct TryGuard {
    metrics: Arc<PolicyMetrics>,
    generation: u64,
}

impl Drop for TryGuard {
    fn drop(&mut self) {
        let mut inner = self.metrics.lock();
        if inner.probation.generation == self.generation {
            inner.probation.try_ended();
        }
        drop(inner);
        (self.metrics.on_change)();
    }
}

impl Inner {
    /// Adds up the totals of channels that have ended, and drops the channels.
    fn fold(&mut self) {
        let Self { instruments, channels, past, probation, .. } = self;
        // Drops targets whose channels have ended, and for which nothing was measured.
        instruments.retain(|_, own| Arc::strong_count(own) > 1 || !own.is_empty());
        channels.retain(|counters| {
            let is_gone = Arc::strong_count(counters) == 1;
            if is_gone {
                past.add(counters);
                if counters.generation == probation.generation {
                    probation.past_picks += counters.all_picks();
                }
            }
            !is_gone
        });
    }

    /// Returns the number of picks of the active version.
    fn active_picks(&self) -> u64 {
        let of_active = |counters: &&Arc<SlotCounters>| counters.generation == self.probation.generation;
        let now = self.channels.iter().filter(of_active);
        self.probation.past_picks + now.map(|counters| counters.all_picks()).sum::<u64>()
    }

    fn on_probation(&self) -> bool {
        self.probation.is_going_on(self.active_picks())
    }
}

impl fmt::Debug for PolicyMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PolicyMetrics").field(&self.lock().past).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::probation::{PROBATION, PROBATION_PICKS, WINDOW};
    use super::*;

    const FIRST: u64 = 1;

    fn metrics(strict: bool) -> (PolicyMetrics, Arc<SlotCounters>) {
        let metrics = PolicyMetrics::default();
        metrics.activated(FIRST, strict, false);
        let counters = metrics.slot_started(0, "t", FIRST);
        (metrics, counters)
    }

    fn fault(metrics: &PolicyMetrics) -> bool {
        metrics.fault(FIRST, FaultKind::Trap, "trapped", &Limits::default())
    }

    fn picks(counters: &SlotCounters, count: u64) {
        for _ in 0..count {
            counters.pick();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn three_faults_within_a_minute_are_too_many_and_old_ones_are_forgotten() {
        let (metrics, counters) = metrics(false);
        picks(&counters, PROBATION_PICKS);
        for _ in 0..10 {
            assert!(!fault(&metrics));
            tokio::time::advance(WINDOW / 2 + Duration::from_secs(1)).await;
        }
        assert!(!fault(&metrics));
        assert!(fault(&metrics));
        let verdict = metrics.verdict(FIRST).expect("condemned");
        assert_eq!(verdict, "3 faults within a minute, the last: trapped");
        assert_eq!(metrics.snapshot().faults[&FaultKind::Trap], 12);
        assert!(metrics.verdict(FIRST + 1).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn on_probation_one_fault_in_a_thousand_picks_is_too_many() {
        let (metrics, counters) = metrics(true);
        picks(&counters, 999);
        assert!(fault(&metrics));

        let (metrics, counters) = self::metrics(true);
        picks(&counters, 1000);
        assert!(!fault(&metrics));
        assert!(metrics.snapshot().on_probation);
        picks(&counters, PROBATION_PICKS);
        assert!(!metrics.snapshot().on_probation && metrics.is_proven());
    }

    #[tokio::test(start_paused = true)]
    async fn with_nothing_to_go_back_to_one_fault_is_not_the_end() {
        let (metrics, counters) = metrics(false);
        picks(&counters, 1);
        assert!(!fault(&metrics));
    }

    #[tokio::test(start_paused = true)]
    async fn probation_ends_by_time_only_if_there_were_picks() {
        let (metrics, counters) = metrics(true);
        tokio::time::advance(PROBATION * 2).await;
        assert!(metrics.snapshot().on_probation);
        picks(&counters, 1);
        assert!(!metrics.snapshot().on_probation);
        // Channels that have ended still count.
        drop(counters);
        assert_eq!((metrics.snapshot().totals.picks, metrics.snapshot().channels.len()), (1, 0));
        assert!(!metrics.snapshot().on_probation);
    }
}
