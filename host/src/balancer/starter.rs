//! A pure state machine of the starts of policies: one at a time, the latest request next.
//!
//! ```text
//!           request                 started, or failed
//!   IDLE -------------> STARTING -----------------------> IDLE
//!    ^                   |  ^  | transient error
//!    |   request, cancel |  |  +-----> RETRYING
//!    |                   v  | ended     |    | retry is due: to STARTING
//!    +------------- OVERTAKEN           +----+ request: to STARTING, cancel: to IDLE
//!      ended, nothing next
//! ```
//!
//! A start that is overtaken is cut, and the next one waits for its end: a native policy cannot be stopped, and a
//! policy that takes its time must not use more than one thread.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::lifecycle::{Policy, PolicyVersion};

/// A policy, and the configuration to start it with.
#[derive(Clone)]
pub(super) struct StartRequest {
    pub(super) policy: Arc<dyn Policy>,
    pub(super) config: String,
}

impl StartRequest {
    /// Returns whether this is the policy of that version, with that configuration.
    pub(super) fn is(&self, version: &PolicyVersion, config: &str) -> bool {
        self.policy.version() == *version && self.config == config
    }
}

impl fmt::Debug for StartRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.policy.version(), self.config)
    }
}

/// State of the start in progress.
#[derive(Debug, Default)]
pub(super) enum Starter {
    #[default]
    Idle,
    Starting(StartRequest),
    /// The start in progress is no longer wanted. `next` is started after it.
    Overtaken {
        next: Option<StartRequest>,
    },
    /// The machine prevented the start.
    Retrying {
        request: StartRequest,
        at: Instant,
    },
}

/// An action on starts.
#[derive(Debug)]
pub(super) enum StartEffect {
    Start(StartRequest),
    /// End the start in progress as soon as possible.
    Cut,
}

/// Delay before a start is retried after a transient error.
const RETRY: Duration = Duration::from_secs(2);

impl Starter {
    /// Requests the start of a policy.
    pub(super) fn request(&mut self, request: StartRequest) -> Option<StartEffect> {
        match self {
            // The same policy and configuration again: another start would make no difference.
            Self::Starting(current) if current.is(&request.policy.version(), &request.config) => None,
            Self::Starting(_) => {
                *self = Self::Overtaken { next: Some(request) };
                Some(StartEffect::Cut)
            }
            Self::Overtaken { next } => {
                *next = Some(request);
                None
            }
            Self::Idle | Self::Retrying { .. } => Some(self.start(request)),
        }
    }

    /// Cancels the start: none is wanted.
    pub(super) fn cancel(&mut self) -> Option<StartEffect> {
        match self {
            Self::Starting(_) => {
                *self = Self::Overtaken { next: None };
                Some(StartEffect::Cut)
            }
            Self::Overtaken { next } => {
                *next = None;
                None
            }
            Self::Idle | Self::Retrying { .. } => {
                *self = Self::Idle;
                None
            }
        }
    }

    /// Handles the end of the start. Returns the policy if its start was wanted, and what to do next.
    pub(super) fn ended(&mut self) -> (Option<StartRequest>, Option<StartEffect>) {
        match std::mem::take(self) {
            Self::Starting(request) => (Some(request), None),
            Self::Overtaken { next: Some(next) } => (None, Some(self.start(next))),
            Self::Overtaken { next: None } => (None, None),
            other @ (Self::Idle | Self::Retrying { .. }) => {
                *self = other;
                (None, None)
            }
        }
    }

    /// Retries a policy later whose start failed because of the machine.
    pub(super) fn retry(&mut self, request: StartRequest, now: Instant) {
        if matches!(self, Self::Idle) {
            *self = Self::Retrying { request, at: now + RETRY };
        }
    }

    /// Returns whether the start in progress is wanted.
    pub(super) fn is_wanted(&self) -> bool {
        matches!(self, Self::Starting(_))
    }

    /// Returns when a retry is due.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        match self {
            Self::Retrying { at, .. } => Some(*at),
            _ => None,
        }
    }

    /// Starts the policy whose retry is due.
    pub(super) fn retry_due(&mut self) -> Option<StartEffect> {
        match std::mem::take(self) {
            Self::Retrying { request, .. } => Some(self.start(request)),
            other => {
                *self = other;
                None
            }
        }
    }

    fn start(&mut self, request: StartRequest) -> StartEffect {
        *self = Self::Starting(request.clone());
        StartEffect::Start(request)
    }
}
