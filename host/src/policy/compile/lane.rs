//! Lanes: one compilation at a time, within a time limit, as long as it is wanted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::PolicyError;

/// Number of abandoned compilations, which may never end, at which this process starts no more.
const MAX_ABANDONED: usize = 4;
/// Size (bytes) above which a component takes seconds to compile.
pub(super) const LARGE: usize = 1 << 20;

/// A lane for one compilation at a time. A thread cannot be killed: one that takes too long is abandoned, and leaves
/// the lane to others.
pub(super) struct Lane {
    state: Mutex<LaneState>,
    freed: Condvar,
}

pub(super) struct LaneState {
    is_taken: bool,
    /// Number of compilations that took too long and still run.
    pub(super) abandoned: usize,
}

/// Frees the lane when it is dropped.
pub(super) struct LaneGuard(pub(super) &'static Lane);

impl Drop for LaneGuard {
    fn drop(&mut self) {
        self.0.free();
    }
}

impl Lane {
    pub(super) const fn new() -> Self {
        Self { state: Mutex::new(LaneState { is_taken: false, abandoned: 0 }), freed: Condvar::new() }
    }

    /// Takes the lane when it is free. Fails with `Gone` if too many compilations are abandoned.
    pub(super) fn take(&self, limit: Duration, stop: &AtomicBool) -> Result<(), Ended> {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        while state.is_taken {
            if stop.load(Ordering::Relaxed) {
                return Err(Ended::Stopped);
            }
            if Instant::now() >= deadline {
                return Err(Ended::Late);
            }
            state = self.freed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.abandoned >= MAX_ABANDONED {
            return Err(Ended::Gone);
        }
        state.is_taken = true;
        Ok(())
    }

    pub(super) fn free(&self) {
        self.lock().is_taken = false;
        self.freed.notify_one();
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Interval at which a waiting thread checks whether the compilation is still wanted.
pub(super) const LOOK: Duration = Duration::from_millis(20);

/// Reason why a wait ended without a result.
pub(super) enum Ended {
    Stopped,
    Gone,
    Late,
}

/// Returns the error for a lane that could not be taken.
pub(super) fn busy(ended: Ended) -> PolicyError {
    match ended {
        Ended::Stopped => stopped(),
        Ended::Late => PolicyError::NotNow("another policy is still being compiled".to_owned()),
        Ended::Gone => PolicyError::NotNow(format!(
            "{MAX_ABANDONED} abandoned compilations are still running: if they never end, restart the process, or compile \
             in another process (CompileOptions::command)"
        )),
    }
}

pub(super) fn stopped() -> PolicyError {
    PolicyError::NotNow("another file comes first".to_owned())
}

pub(super) fn took_longer(limit: Duration) -> PolicyError {
    PolicyError::Compile(format!("it takes longer than {limit:?}"))
}
