//! Decides whether the active version of a policy is good enough. Pure, so that it can be tested without channels.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Faults are forgotten after this time.
pub(super) const WINDOW: Duration = Duration::from_secs(60);
/// A new version is on probation for this long, or for [`PROBATION_PICKS`], whichever ends first.
pub(super) const PROBATION: Duration = Duration::from_secs(30);
pub(super) const PROBATION_PICKS: u64 = 10_000;
/// On probation, at most one in this number of picks may be a fault, if there is a version for a rollback.
const PROBATION_FAULTS: u64 = 1000;

/// Record of the active version.
#[derive(Debug, Default)]
pub(super) struct Probation {
    pub(super) generation: u64,
    /// When the version became active. `None`: the policy does not come from a directory, and has had no fault.
    since: Option<Instant>,
    /// Whether there is a version for a rollback.
    strict: bool,
    /// Whether the version passed its probation before.
    proven: bool,
    /// Number of picks of instances that have ended.
    pub(super) past_picks: u64,
    faults: u64,
    /// Times of the faults within [`WINDOW`].
    recent: VecDeque<Instant>,
    verdict: Option<String>,
    /// Whether a channel has taken the version.
    pub(super) is_taken: bool,
    /// Number of channels that are trying the version.
    trying: u32,
    refused_at: Option<Instant>,
}

impl Probation {
    /// Starts the probation of a version. `strict`: there is a version for a rollback. `proven`: the version passed its
    /// probation before. `is_taken`: channels use it already.
    pub(super) fn start(generation: u64, strict: bool, proven: bool, is_taken: bool) -> Self {
        Self { generation, since: Some(Instant::now()), strict, proven, is_taken, ..Self::default() }
    }

    /// Returns whether the probation continues, after this many picks.
    pub(super) fn is_going_on(&self, picks: u64) -> bool {
        let Some(since) = self.since.filter(|_| !self.proven) else { return false };
        // Time without picks does not end a probation.
        picks < PROBATION_PICKS && (since.elapsed() < PROBATION || picks == 0)
    }

    /// Returns why the version must not be used any more.
    pub(super) fn verdict(&self) -> Option<&str> {
        self.verdict.as_deref()
    }

    /// Records a fault after this many picks. `most`: number of faults within [`WINDOW`] that condemns the
    /// version. Returns whether the version was condemned by this fault.
    pub(super) fn fault(&mut self, text: &str, picks: u64, most: usize) -> bool {
        let is_going_on = self.is_going_on(picks);
        let now = Instant::now();
        self.faults += 1;
        self.recent.push_back(now);
        while self.recent.front().is_some_and(|at| now.saturating_duration_since(*at) > WINDOW) {
            self.recent.pop_front();
        }
        let faults = self.faults;
        if self.recent.len() >= most {
            let recent = self.recent.len();
            self.verdict = Some(format!("{recent} faults within a minute, the last: {text}"));
        } else if self.strict && is_going_on && faults * PROBATION_FAULTS > picks && most > 1 {
            self.verdict = Some(format!("{faults} of its first {picks} picks went wrong, the last: {text}"));
        }
        self.verdict.is_some()
    }

    /// Starts with the first fault, for a policy that does not come from a directory.
    pub(super) fn start_late(&mut self, generation: u64) {
        if self.since.is_none() {
            *self = Self { generation, since: Some(Instant::now()), ..Self::default() };
        }
    }

    /// Records that a channel tries the version.
    pub(super) fn try_started(&mut self) {
        self.trying += 1;
    }

    /// Records that a channel has finished trying the version.
    pub(super) fn try_ended(&mut self) {
        self.trying = self.trying.saturating_sub(1);
    }

    /// Records that a channel has refused the version.
    pub(super) fn refused(&mut self) {
        self.refused_at = Some(Instant::now());
    }

    /// Returns whether channels have refused the version, none has taken it, and none has tried it within this time.
    pub(super) fn is_refused_by_all(&self, quiet_for: Duration) -> bool {
        let is_quiet = self.refused_at.is_some_and(|at| at.elapsed() >= quiet_for);
        !self.is_taken && self.trying == 0 && is_quiet
    }
}
