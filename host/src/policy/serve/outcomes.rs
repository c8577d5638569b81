//! How RPCs ended, on the way to the policy that picked for them.

use std::time::Duration;

use tokio::time::Instant;

use crate::policy::instance::Outcome;

/// OutcomeQueue that wait to be told.
#[derive(Default)]
pub(crate) struct OutcomeQueue {
    waiting: Vec<(u64, Outcome)>,
    /// Of the first of them.
    since: Option<Instant>,
}

/// So many are told as soon as there are; fewer after [`PATIENCE`].
const BATCH: usize = 64;
/// So many are told at once at most.
const LARGEST: usize = 256;
const PATIENCE: Duration = Duration::from_millis(5);
/// A policy that cannot be told so many, as it is being replaced, will do without.
const MOST: usize = 16 * 1024;

impl OutcomeQueue {
    /// Takes in how an RPC ended that the instance of this serial number picked for. Gives whether there is
    /// something to do for the keeper now.
    pub(crate) fn push(&mut self, serial: u64, outcome: Outcome) -> bool {
        if self.waiting.len() == MOST {
            return false;
        }
        self.waiting.push((serial, outcome));
        let first = self.since.is_none();
        self.since.get_or_insert_with(Instant::now);
        first || self.waiting.len() == BATCH
    }

    /// The first of them, if it is time; those of other instances are dropped.
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

    /// When they are to be told.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        let since = self.since?;
        Some(if self.waiting.len() >= BATCH { since } else { since + PATIENCE })
    }
}
