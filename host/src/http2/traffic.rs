//! What a connection does, as whoever owns it sees it from outside.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Cheap to clone. The [wire](super::wire) records.
#[derive(Clone, Debug)]
pub(crate) struct Traffic(Arc<TrafficState>);

#[derive(Debug)]
struct TrafficState {
    begin: Instant,
    /// Time of the last read, and on a server's side also of the last write (milliseconds after the beginning).
    last: AtomicU64,
    /// Streams of requests whose answers are not written yet, as far as their end.
    unanswered: Mutex<Vec<u32>>,
    /// Bytes written since the end of the last answer.
    after_answer: AtomicUsize,
    lingers: AtomicBool,
    /// h2 has ended the connection: no stream is left.
    is_over: AtomicBool,
}

impl Default for Traffic {
    fn default() -> Self {
        Self(Arc::new(TrafficState {
            begin: Instant::now(),
            last: AtomicU64::new(0),
            unanswered: Mutex::default(),
            after_answer: AtomicUsize::new(0),
            lingers: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        }))
    }
}

impl Traffic {
    /// Records a read or a write.
    pub(super) fn record(&self) {
        let now = u64::try_from(self.0.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.last.store(now, Ordering::Relaxed);
    }

    /// Returns the time since the last activity.
    pub(crate) fn quiet_for(&self) -> Duration {
        self.0.begin.elapsed().saturating_sub(Duration::from_millis(self.0.last.load(Ordering::Relaxed)))
    }

    /// Records a request, which is unanswered until the end of its stream is written or the client has reset it.
    pub(crate) fn asked(&self, stream: u32) {
        self.unanswered().push(stream);
    }

    /// Records that a request needs no answer any more.
    pub(crate) fn answered(&self, stream: u32) {
        let mut unanswered = self.unanswered();
        if let Some(at) = unanswered.iter().position(|one| *one == stream) {
            unanswered.swap_remove(at);
        }
    }

    /// Returns whether the answers to all requests have been written.
    pub(crate) fn is_answered(&self) -> bool {
        // A request whose reset was read before the request itself is not counted off.
        self.0.is_over.load(Ordering::Relaxed) || self.unanswered().is_empty()
    }

    /// Records that h2 has ended the connection.
    pub(super) fn over(&self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }

    /// Records a write of `bytes` bytes. `after`: how many of them came after the end of an answer; `None`: no answer ended.
    pub(super) fn wrote(&self, bytes: usize, after: Option<usize>) {
        match after {
            Some(after) => self.0.after_answer.store(after, Ordering::Relaxed),
            None => _ = self.0.after_answer.fetch_add(bytes, Ordering::Relaxed),
        }
    }

    /// Returns the number of bytes that were written after the end of the last answer.
    pub(crate) fn after_answer(&self) -> usize {
        self.0.after_answer.load(Ordering::Relaxed)
    }

    fn unanswered(&self) -> MutexGuard<'_, Vec<u32>> {
        self.0.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, the end of the connection is not over until the peer has closed its side, too. To close a socket
    /// whose peer still sends throws away what the peer has not received yet.
    pub(crate) fn linger(&self) {
        self.0.lingers.store(true, Ordering::Relaxed);
    }

    pub(super) fn lingers(&self) -> bool {
        self.0.lingers.load(Ordering::Relaxed)
    }
}
