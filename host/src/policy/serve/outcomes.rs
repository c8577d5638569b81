//! Outcomes of RPCs, on the way to the policy that picked for them.

use std::time::Duration;

use tokio::time::Instant;

use crate::policy::instance::Outcome;

/// A queue of outcomes that are to be reported to the policy.
#[derive(Default)]
pub(crate) struct OutcomeQueue {
    waiting: Vec<(u64, Outcome)>,
    /// When the first waiting outcome was queued.
    since: Option<Instant>,
}

/// Number of waiting outcomes that are reported without delay. Fewer are reported after [`BATCH_DELAY`].
const BATCH: usize = 64;
/// Maximum number of outcomes in one report.
const LARGEST: usize = 256;
/// Maximum delay of an outcome, to be reported together with others.
const BATCH_DELAY: Duration = Duration::from_millis(5);
/// Maximum length of the queue, which grows while the instance is replaced. Further outcomes are dropped.
const MOST: usize = 16 * 1024;

impl OutcomeQueue {
    /// Returns whether further outcomes are dropped.
    pub(crate) const fn is_full(&self) -> bool {
        self.waiting.len() == MOST
    }

    /// Adds the outcome of an RPC that the instance with this serial number picked for. Returns whether the supervisor
    /// has something to do now.
    pub(crate) fn push(&mut self, serial: u64, outcome: Outcome) -> bool {
        if self.is_full() {
            return false;
        }
        self.waiting.push((serial, outcome));
        let first = self.since.is_none();
        self.since.get_or_insert_with(Instant::now);
        first || self.waiting.len() == BATCH
    }

    /// Takes the first outcomes if they are due. Outcomes for other instances are dropped.
    pub(crate) fn take_due(&mut self, serial: u64) -> Vec<Outcome> {
        if self.due_at().is_none_or(|at| at > Instant::now()) {
            return Vec::new();
        }
        let ours = |(of, outcome): (u64, Outcome)| (of == serial).then_some(outcome);
        let count = self.waiting.len().min(LARGEST);
        let batch = self.waiting.drain(..count).filter_map(ours).collect();
        if self.waiting.is_empty() {
            self.since = None;
        }
        batch
    }

    /// Returns when outcomes are due. `None`: the queue is empty.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        let since = self.since?;
        Some(if self.waiting.len() >= BATCH { since } else { since + BATCH_DELAY })
    }
}
