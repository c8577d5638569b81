//! A rollout of a directory: a new version beside the active one.

use std::time::SystemTime;

use tokio::sync::oneshot;

use super::settings::Settings;
use crate::lifecycle::{Policy as _, PolicyVersion};
use crate::policy::{
    Reading, RolloutCommand, RolloutEvent, RolloutMachine, RolloutMode, RolloutPhase, Split, Verdict,
};

/// A version that is tried beside the active one.
#[derive(Clone)]
pub(super) struct Rollout {
    pub(super) split: Split,
    /// The settings that the new version was loaded with.
    pub(super) settings: Settings,
    pub(super) machine: RolloutMachine,
    pub(super) since: SystemTime,
}

/// A rollout, as operators see it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RolloutStatus {
    /// What the new version does.
    pub mode: RolloutMode,
    /// The new version.
    pub version: PolicyVersion,
    /// Whether verdicts or an operator decide.
    pub phase: RolloutPhase,
    /// The present step, from 0.
    pub step: usize,
    /// The shares of all steps (per cent).
    pub steps: Vec<f64>,
    /// Share of the RPCs that the new version picks for (per cent).
    pub share: f64,
    /// When the rollout started.
    pub since: SystemTime,
    /// Verdict of the last interval.
    pub verdict: Option<Verdict>,
    /// What both versions did in the present interval.
    pub reading: Reading,
    /// Decisions so far, the latest last.
    pub events: Vec<RolloutEvent>,
}

/// Reason why a rollout cannot be steered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RolloutError {
    /// There is no rollout of this policy.
    #[error("no rollout of the policy {0:?} is in progress")]
    None(String),
    /// The command makes no sense now.
    #[error("{0}")]
    Refused(&'static str),
    /// The directory is not followed any more.
    #[error("the policy directory is not followed any more")]
    Ended,
}

/// A command for the thread that follows the directory.
pub(super) struct Command {
    pub(super) policy: String,
    pub(super) command: RolloutCommand,
    pub(super) answer: oneshot::Sender<Result<(), RolloutError>>,
}

impl Rollout {
    pub(super) fn status(&self) -> RolloutStatus {
        let machine = &self.machine;
        RolloutStatus {
            mode: machine.settings().mode,
            version: self.split.candidate().version(),
            phase: machine.phase(),
            step: machine.step(),
            steps: machine.settings().steps.clone(),
            share: machine.share(),
            since: self.since,
            verdict: machine.verdict().cloned(),
            reading: self.split.read(),
            events: machine.events().iter().cloned().collect(),
        }
    }
}
