//! What is known of a policy over all channels and versions: its counters, its faults, and whether the
//! version in force has had its day.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::limits::Limits;
use super::meter::{Meter, Metric};
use crate::picker::{Stage, StartError};

/// Faults are forgotten after so long.
const WINDOW: Duration = Duration::from_secs(60);
/// A new version is on probation for so long, or for so many picks, whichever ends first.
const PROBATION: Duration = Duration::from_secs(30);
const PROBATION_PICKS: u64 = 10_000;
/// Of the picks on probation at most one in so many may be a fault, if there is a version to go back to.
const PROBATION_FAULTS: u64 = 1000;

/// What can go wrong with an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FaultKind {
    /// It trapped.
    Trap,
    /// It ran past a limit of time.
    Deadline,
    /// It asked for more memory than its limit, and trapped because it did not get it.
    Memory,
    /// It picked a subconn that does not exist.
    UnknownSubConn,
    /// It made a plan that is too long.
    LongPlan,
    /// It could not be replaced after another fault.
    Start,
}

impl FaultKind {
    /// In lower case, as metrics have it: `unknown_subconn`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Deadline => "deadline",
            Self::Memory => "memory",
            Self::UnknownSubConn => "unknown_subconn",
            Self::LongPlan => "long_plan",
            Self::Start => "start",
        }
    }
}

/// A policy's record. Shared by all that the policy does in this process.
pub(crate) struct Record {
    inner: Mutex<Inner>,
    /// Called when there may be something to be decided: a version is condemned, or has been tried. Must not
    /// block.
    on_news: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct Inner {
    meters: BTreeMap<String, Arc<Meter>>,
    at_work: Vec<Arc<Counters>>,
    /// Of channels that are gone, or have gone on to another version.
    past: Totals,
    faults: BTreeMap<FaultKind, u64>,
    last_fault: Option<String>,
    /// Files that were taken, and those that were not, by stage.
    loads: u64,
    rejections: BTreeMap<Stage, u64>,
    /// By the target of the channel.
    refusals: BTreeMap<String, Refusal>,
    trial: Probation,
}

/// How the version in force is doing.
#[derive(Default)]
struct Probation {
    generation: u64,
    since: Option<Instant>,
    /// There is a version to go back to.
    strict: bool,
    /// Picks of instances of this generation that are gone.
    past_picks: u64,
    faults: u64,
    recent: VecDeque<Instant>,
    verdict: Option<String>,
    /// A channel has taken it.
    taken: bool,
    /// Channels that are trying it.
    trying: u32,
    refused_at: Option<Instant>,
    /// It has been through its probation before.
    proven: bool,
}

/// What one channel's use of a version comes to. Written by whoever holds the instance, read by anyone.
#[derive(Debug, Default)]
pub(super) struct Counters {
    target: String,
    generation: u64,
    /// The same for all instances of a channel.
    channel: u64,
    picks: AtomicU64,
    /// Picks by plans, which nobody holds the instance for.
    planned: AtomicU64,
    fallback_picks: AtomicU64,
    /// Of a pick, in nanoseconds; an average of late.
    cost: AtomicU64,
    memory: AtomicU64,
    renewals: AtomicU64,
}

/// Numbers of a policy, over all channels since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Picks that were asked of it, or that it had planned.
    pub picks: u64,
    /// Those of them that it had planned.
    pub planned_picks: u64,
    /// Picks that the fallback made instead.
    pub fallback_picks: u64,
    /// Instances that were replaced because they had used most of their memory.
    pub renewals: u64,
}

/// A channel that did not take a version.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// The generation that it refused.
    pub generation: u64,
    /// Why.
    pub error: StartError,
}

/// A channel's use of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Use {
    /// The channel's target.
    pub target: String,
    /// Which generation it uses.
    pub generation: u64,
    /// Bytes of memory that its instances have.
    pub memory: u64,
    /// What a pick costs, in nanoseconds: an average of late, none before there was one.
    pub pick_nanos: Option<u64>,
}

/// A reading of a record.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    pub(crate) totals: Totals,
    pub(crate) faults: BTreeMap<FaultKind, u64>,
    pub(crate) last_fault: Option<String>,
    pub(crate) uses: Vec<Use>,
    pub(crate) refusals: BTreeMap<String, Refusal>,
    pub(crate) metrics: Vec<Metric>,
    pub(crate) loads: u64,
    pub(crate) rejections: BTreeMap<Stage, u64>,
    pub(crate) on_probation: bool,
}

impl Default for Record {
    fn default() -> Self {
        Self::new(|| ())
    }
}

impl Record {
    pub(crate) fn new(on_news: impl Fn() + Send + Sync + 'static) -> Self {
        Self { inner: Mutex::default(), on_news: Box::new(on_news) }
    }

    /// This version is in force from now on. `strict`: there is one to go back to; `proven`: it has been in
    /// force before, and has done well.
    pub(crate) fn begin(&self, generation: u64, strict: bool, proven: bool) {
        let mut inner = self.lock();
        let since = Some(Instant::now());
        // One that is back may never have left its channels.
        let taken = inner.at_work.iter().any(|counters| counters.generation == generation);
        inner.trial = Probation { generation, since, strict, proven, taken, ..Probation::default() };
        inner.refusals.clear();
        inner.loads += 1;
    }

    /// A file was refused at this stage.
    pub(crate) fn rejected(&self, stage: Stage) {
        *self.lock().rejections.entry(stage).or_default() += 1;
    }

    /// Why the version in force is not to be used any more, if so.
    pub(crate) fn verdict(&self, generation: u64) -> Option<String> {
        let inner = self.lock();
        inner.trial.verdict.clone().filter(|_| inner.trial.generation == generation)
    }

    /// The version in force has done well for long enough.
    pub(crate) fn has_proven_itself(&self) -> bool {
        let inner = self.lock();
        !inner.on_probation() && inner.trial.verdict.is_none()
    }

    /// Whether any channel uses the policy.
    pub(crate) fn is_used(&self) -> bool {
        let mut inner = self.lock();
        inner.fold();
        !inner.at_work.is_empty()
    }

    /// Whether a channel has taken the version in force.
    pub(crate) fn is_taken(&self) -> bool {
        self.lock().trial.taken
    }

    /// Why no channel has taken the version in force, though some have tried; none of them within this time.
    pub(crate) fn refused_by_all(&self, patience: Duration) -> Option<StartError> {
        let inner = self.lock();
        let trial = &inner.trial;
        let waited = trial.trying == 0 && trial.refused_at.is_some_and(|at| at.elapsed() >= patience);
        let of_trial = |refusal: &&Refusal| refusal.generation == inner.trial.generation;
        let refusal = inner.refusals.values().find(of_trial).filter(|_| waited && !inner.trial.taken);
        refusal.map(|refusal| refusal.error.clone())
    }

    pub(crate) fn read(&self) -> Reading {
        let mut inner = self.lock();
        inner.fold();
        let mut totals = inner.past;
        let mut uses = Vec::new();
        for counters in &inner.at_work {
            totals.add(counters);
            match uses.iter_mut().find(|(channel, _): &&mut (u64, Use)| *channel == counters.channel) {
                Some((_, of)) => of.add(&counters.usage()),
                None => uses.push((counters.channel, counters.usage())),
            }
        }
        let metrics = inner.meters.iter().flat_map(|(target, meter)| meter.read(target)).collect();
        Reading {
            totals,
            faults: inner.faults.clone(),
            last_fault: inner.last_fault.clone(),
            uses: uses.into_iter().map(|(_, of)| of).collect(),
            refusals: inner.refusals.clone(),
            metrics,
            loads: inner.loads,
            rejections: inner.rejections.clone(),
            on_probation: inner.on_probation(),
        }
    }

    pub(super) fn meter(&self, target: &str) -> Arc<Meter> {
        Arc::clone(self.lock().meters.entry(target.to_owned()).or_default())
    }

    /// A channel begins to use a version.
    pub(super) fn counters(&self, channel: u64, target: &str, generation: u64) -> Arc<Counters> {
        let counters = Counters { target: target.to_owned(), generation, channel, ..Counters::default() };
        let counters = Arc::new(counters);
        let mut inner = self.lock();
        inner.fold();
        inner.refusals.remove(target);
        inner.trial.taken |= inner.trial.generation == generation;
        inner.at_work.push(Arc::clone(&counters));
        counters
    }

    /// A channel tries a version, until the guard is dropped.
    pub(super) fn trying(self: &Arc<Self>, generation: u64) -> Trying {
        let mut inner = self.lock();
        if inner.trial.generation == generation {
            inner.trial.trying += 1;
        }
        Trying { record: Arc::clone(self), generation }
    }

    pub(super) fn refused(&self, target: &str, generation: u64, error: StartError) {
        let mut inner = self.lock();
        *inner.rejections.entry(error.stage()).or_default() += 1;
        if inner.trial.generation == generation {
            inner.trial.refused_at = Some(Instant::now());
        }
        inner.refusals.insert(target.to_owned(), Refusal { generation, error });
    }

    /// A fault of an instance. Gives whether the version is not to be used any more.
    pub(super) fn fault(&self, generation: u64, kind: FaultKind, text: &str, limits: &Limits) -> bool {
        let mut inner = self.lock();
        *inner.faults.entry(kind).or_default() += 1;
        inner.last_fault = Some(text.to_owned());
        if inner.trial.since.is_none() {
            // Not out of a directory: it is in force since it was first used.
            inner.trial = Probation { generation, since: Some(Instant::now()), ..Probation::default() };
        }
        if inner.trial.generation != generation {
            // It has been replaced already.
            return false;
        }
        let (picks, on_probation) = (inner.trial_picks(), inner.on_probation());
        let trial = &mut inner.trial;
        if trial.verdict.is_some() {
            return true;
        }
        let now = Instant::now();
        trial.faults += 1;
        trial.recent.push_back(now);
        while trial.recent.front().is_some_and(|at| now.saturating_duration_since(*at) > WINDOW) {
            trial.recent.pop_front();
        }
        let faults = trial.faults;
        if trial.recent.len() >= limits.faults {
            let recent = trial.recent.len();
            trial.verdict = Some(format!("{recent} faults within a minute, the last: {text}"));
        } else if trial.strict && on_probation && faults * PROBATION_FAULTS > picks && limits.faults > 1 {
            trial.verdict = Some(format!("{faults} of its first {picks} picks went wrong, the last: {text}"));
        }
        let condemned = trial.verdict.is_some();
        drop(inner);
        if condemned {
            (self.on_news)();
        }
        condemned
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Record::trying`].
pub(super) struct Trying {
    record: Arc<Record>,
    generation: u64,
}

impl Drop for Trying {
    fn drop(&mut self) {
        let mut inner = self.record.lock();
        let trial = &mut inner.trial;
        if trial.generation == self.generation {
            trial.trying = trial.trying.saturating_sub(1);
        }
        drop(inner);
        (self.record.on_news)();
    }
}

impl Inner {
    /// Keeps the numbers of channels that are gone, and nothing else of them.
    fn fold(&mut self) {
        let Self { meters, at_work, past, trial, .. } = self;
        // Of targets whose channels have gone, and that nothing was measured of.
        meters.retain(|_, meter| Arc::strong_count(meter) > 1 || !meter.is_empty());
        at_work.retain(|counters| {
            let gone = Arc::strong_count(counters) == 1;
            if gone {
                past.add(counters);
                if counters.generation == trial.generation {
                    trial.past_picks += counters.all_picks();
                }
            }
            !gone
        });
    }

    fn trial_picks(&self) -> u64 {
        let of_trial = |counters: &&Arc<Counters>| counters.generation == self.trial.generation;
        let now = self.at_work.iter().filter(of_trial);
        self.trial.past_picks + now.map(|counters| counters.all_picks()).sum::<u64>()
    }

    fn on_probation(&self) -> bool {
        let Some(since) = self.trial.since.filter(|_| !self.trial.proven) else { return false };
        let picks = self.trial_picks();
        // Time alone proves nothing.
        picks < PROBATION_PICKS && (since.elapsed() < PROBATION || picks == 0)
    }
}

impl Totals {
    fn add(&mut self, counters: &Counters) {
        self.picks += counters.all_picks();
        self.planned_picks += counters.planned.load(Ordering::Relaxed);
        self.fallback_picks += counters.fallback_picks.load(Ordering::Relaxed);
        self.renewals += counters.renewals.load(Ordering::Relaxed);
    }
}

impl Use {
    /// Of another instance for the same target.
    fn add(&mut self, other: &Self) {
        self.memory += other.memory;
        self.pick_nanos = self.pick_nanos.max(other.pick_nanos);
    }
}

impl Counters {
    /// One pick more; by whoever holds the instance, so that nobody counts at the same time. Gives how many
    /// there were before.
    pub(super) fn pick(&self) -> u64 {
        let before = self.picks.load(Ordering::Relaxed);
        self.picks.store(before + 1, Ordering::Relaxed);
        before
    }

    /// So many picks are made by a plan.
    pub(super) fn planned(&self, count: usize) {
        self.planned.fetch_add(count as u64, Ordering::Relaxed);
    }

    fn all_picks(&self) -> u64 {
        self.picks.load(Ordering::Relaxed) + self.planned.load(Ordering::Relaxed)
    }

    pub(super) fn fallback(&self) {
        self.fallback_picks.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn fallback_picks(&self) -> u64 {
        self.fallback_picks.load(Ordering::Relaxed)
    }

    /// A pick took so long. Each counts for a sixteenth.
    pub(super) fn took(&self, time: Duration) {
        let sample = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
        let cost = match self.cost.load(Ordering::Relaxed) {
            0 => sample,
            before => (before.saturating_mul(15).saturating_add(sample)) / 16,
        };
        self.cost.store(cost.max(1), Ordering::Relaxed);
    }

    pub(super) fn memory(&self, bytes: usize) {
        self.memory.store(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn renewed(&self) {
        self.renewals.fetch_add(1, Ordering::Relaxed);
    }

    fn usage(&self) -> Use {
        Use {
            target: self.target.clone(),
            generation: self.generation,
            memory: self.memory.load(Ordering::Relaxed),
            pick_nanos: Some(self.cost.load(Ordering::Relaxed)).filter(|cost| *cost > 0),
        }
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Record").field(&self.lock().past).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: u64 = 1;

    fn record(strict: bool) -> (Record, Arc<Counters>) {
        let record = Record::default();
        record.begin(FIRST, strict, false);
        let counters = record.counters(0, "t", FIRST);
        (record, counters)
    }

    fn fault(record: &Record) -> bool {
        record.fault(FIRST, FaultKind::Trap, "trapped", &Limits::default())
    }

    fn picks(counters: &Counters, count: u64) {
        for _ in 0..count {
            counters.pick();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn three_faults_within_a_minute_are_too_many_and_old_ones_are_forgotten() {
        let (record, counters) = record(false);
        picks(&counters, PROBATION_PICKS);
        for _ in 0..10 {
            assert!(!fault(&record));
            tokio::time::advance(WINDOW / 2 + Duration::from_secs(1)).await;
        }
        assert!(!fault(&record));
        assert!(fault(&record));
        let verdict = record.verdict(FIRST).expect("condemned");
        assert_eq!(verdict, "3 faults within a minute, the last: trapped");
        assert_eq!(record.read().faults[&FaultKind::Trap], 12);
        assert!(record.verdict(FIRST + 1).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn on_probation_one_fault_in_a_thousand_picks_is_too_many() {
        let (record, counters) = record(true);
        picks(&counters, 999);
        assert!(fault(&record));

        let (record, counters) = self::record(true);
        picks(&counters, 1000);
        assert!(!fault(&record));
        assert!(record.read().on_probation);
        picks(&counters, PROBATION_PICKS);
        assert!(!record.read().on_probation && record.has_proven_itself());
    }

    #[tokio::test(start_paused = true)]
    async fn with_nothing_to_go_back_to_one_fault_is_not_the_end() {
        let (record, counters) = record(false);
        picks(&counters, 1);
        assert!(!fault(&record));
    }

    #[tokio::test(start_paused = true)]
    async fn probation_ends_by_time_only_if_there_were_picks() {
        let (record, counters) = record(true);
        tokio::time::advance(PROBATION * 2).await;
        assert!(record.read().on_probation);
        picks(&counters, 1);
        assert!(!record.read().on_probation);
        // What has gone is counted still.
        drop(counters);
        assert_eq!((record.read().totals.picks, record.read().uses.len()), (1, 0));
        assert!(!record.read().on_probation);
    }
}
