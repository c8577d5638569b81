//! The policy that a channel is about to change to: one at a time, on a thread of [`workers`](crate::workers).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::picker::{PickerBuilder, Placement, Policy, PolicyVersion, StartError};
use crate::subconn::ReadySet;
use crate::workers::{self, Task};

/// A version, and the configuration to start it with.
#[derive(Clone)]
pub(super) struct Candidate {
    pub(super) policy: Arc<dyn Policy>,
    pub(super) config: String,
}

impl Candidate {
    pub(super) fn is(&self, version: &PolicyVersion, config: &str) -> bool {
        self.policy.version() == *version && self.config == config
    }
}

/// What is being started, and what is to be started after it.
#[derive(Default)]
pub(super) struct Starts {
    current: Option<Starting>,
    next: Option<Candidate>,
    /// To be started again at this time: the machine was in the way.
    again: Option<(Instant, Candidate)>,
}

struct Starting {
    candidate: Candidate,
    task: Task<Result<Box<dyn PickerBuilder>, StartError>>,
    /// It is not wanted any more. A policy in WebAssembly is cut then, one in Rust cannot be stopped: what comes next waits
    /// for its end, so that a policy that takes its time takes no more than one thread.
    overtaken: bool,
    cut: Arc<AtomicBool>,
}

/// With the channel.
impl Drop for Starting {
    fn drop(&mut self) {
        self.cut.store(true, Ordering::Relaxed);
    }
}

/// What there is to be done.
pub(super) enum Step {
    /// This has been started, or not.
    Started(Candidate, Result<Box<dyn PickerBuilder>, StartError>),
    /// It was overtaken: nothing is to be made of it.
    Overtaken,
    /// This is to be started.
    Start(Candidate),
}

/// When a policy is started again that the machine was in the way of.
const AGAIN: Duration = Duration::from_secs(2);

impl Starts {
    pub(super) fn is_busy(&self) -> bool {
        self.current.is_some()
    }

    /// Whether this is what is being started, and is wanted.
    pub(super) fn is_at(&self, candidate: &Candidate) -> bool {
        let is = |current: &Starting| current.candidate.is(&candidate.policy.version(), &candidate.config);
        self.current.as_ref().is_some_and(|current| !current.overtaken && is(current))
    }

    /// Begins to start a policy. Not while it is busy.
    pub(super) fn begin(&mut self, candidate: Candidate, placement: Placement, ready: ReadySet) {
        self.again = None;
        let (policy, cut) = (Arc::clone(&candidate.policy), Arc::clone(&placement.cut));
        let task = workers::start(move || policy.start(&placement, &ready));
        self.current = Some(Starting { candidate, task, overtaken: false, cut });
    }

    /// What is being started, if anything is, is not wanted any more; then this is to be started.
    pub(super) fn overtake(&mut self, next: Option<Candidate>) {
        if let Some(current) = &mut self.current {
            current.overtaken = true;
            current.cut.store(true, Ordering::Relaxed);
        }
        self.again = None;
        self.next = next;
    }

    /// It could not be started for want of something, and is to be tried once more.
    pub(super) fn try_again(&mut self, candidate: Candidate) {
        self.again = Some((Instant::now() + AGAIN, candidate));
    }

    /// What is to be started now that the last one has ended.
    pub(super) fn take_next(&mut self) -> Option<Candidate> {
        self.next.take()
    }

    /// The next thing to be done; for ever nothing while there is none. Cancel-safe.
    pub(super) async fn step(&mut self) -> Step {
        if let Some(current) = &mut self.current {
            let result = (&mut current.task).await;
            let (candidate, overtaken) = (current.candidate.clone(), current.overtaken);
            // It has started: what looks at this from now on is at work.
            current.cut = Arc::default();
            self.current = None;
            if overtaken {
                return Step::Overtaken;
            }
            let failed = |error| Err(StartError::new(format!("policy could not be started: {error}")));
            return Step::Started(candidate, result.unwrap_or_else(failed));
        }
        match &self.again {
            None => std::future::pending().await,
            Some((at, _)) => sleep_until(*at).await,
        }
        // It is there: nothing else can have taken it.
        match self.again.take() {
            Some((_, candidate)) => Step::Start(candidate),
            None => std::future::pending().await,
        }
    }
}
