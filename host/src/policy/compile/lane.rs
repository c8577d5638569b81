//! One compilation at a time, within a time limit, until it is not wanted any more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::PolicyError;

/// Number of compilations that exceed their limit, and may never end, after which this process compiles
/// nothing more.
const GIVEN_UP: usize = 4;
/// A larger component takes seconds to compile.
pub(super) const LARGE: usize = 1 << 20;

/// Where one compiles. A thread cannot be ended: one that takes too long is given up, and leaves the place to others.
pub(super) struct Lane {
    state: Mutex<LaneState>,
    freed: Condvar,
}

pub(super) struct LaneState {
    is_taken: bool,
    /// Compilations that took too long and still run.
    pub(super) given_up: usize,
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
        Self { state: Mutex::new(LaneState { is_taken: false, given_up: 0 }), freed: Condvar::new() }
    }

    /// Takes the place when it is free. `Gone`: too many have been given up.
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
        if state.given_up >= GIVEN_UP {
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

/// How often one looks whether what is being compiled is still wanted.
pub(super) const LOOK: Duration = Duration::from_millis(20);

/// What comes within a time, unless it is not wanted any more.
pub(super) fn wait<T>(from: &Receiver<T>, limit: Duration, stop: &AtomicBool) -> Result<T, Ended> {
    let deadline = Instant::now() + limit;
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(Ended::Stopped);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        match from.recv_timeout(left.min(LOOK)) {
            Ok(news) => return Ok(news),
            Err(RecvTimeoutError::Disconnected) => return Err(Ended::Gone),
            Err(RecvTimeoutError::Timeout) if left.is_zero() => return Err(Ended::Late),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Why nothing was heard.
pub(super) enum Ended {
    Stopped,
    Gone,
    Late,
}

/// Why there is no place to compile in.
pub(super) fn busy(ended: Ended) -> PolicyError {
    match ended {
        Ended::Stopped => stopped(),
        Ended::Late => PolicyError::NotNow("another policy is still being compiled".to_owned()),
        Ended::Gone => PolicyError::NotNow(format!(
            "{GIVEN_UP} compilations that were given up have not ended: if they never do, restart the process, or compile in \
             another one (CompileOptions::command)"
        )),
    }
}

pub(super) fn stopped() -> PolicyError {
    PolicyError::NotNow("another file comes first".to_owned())
}

pub(super) fn took_longer(limit: Duration) -> PolicyError {
    PolicyError::Compile(format!("it takes longer than {limit:?}"))
}
