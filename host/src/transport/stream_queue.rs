//! Where RPCs wait that find all streams taken which their endpoint allows: one behind the other.
//!
//! They do not look themselves: an RPC is polled by its caller, who may have other things to do first. What becomes free
//! is handed to them, so one that is not polled holds up a stream, and no other RPC.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::{Notify, oneshot};

/// Of one subconn, for places of this kind.
#[derive(Debug)]
pub(super) struct StreamQueue<T> {
    queue: Mutex<VecDeque<oneshot::Sender<T>>>,
    /// Its length.
    waiting: AtomicUsize,
    changed: Notify,
}

impl<T> Default for StreamQueue<T> {
    fn default() -> Self {
        Self { queue: Mutex::default(), waiting: AtomicUsize::new(0), changed: Notify::new() }
    }
}

impl<T> StreamQueue<T> {
    /// Joins the queue. [`changed`](Self::changed) ends, and who waits for that hands out what there is.
    pub(super) fn join(&self) -> oneshot::Receiver<T> {
        let (place, handed) = oneshot::channel();
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push_back(place);
        self.waiting.store(queue.len(), Ordering::SeqCst);
        drop(queue);
        self.changed.notify_one();
        handed
    }

    /// Whether anyone waits: who comes now has to wait behind them.
    pub(super) fn has_waiters(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Hands out places, in the order in which they were asked for, as long as `look` finds one.
    pub(super) fn grant(&self, mut look: impl FnMut() -> Option<T>) {
        if !self.has_waiters() {
            return;
        }
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(first) = queue.front() {
            // Given up.
            if !first.is_closed() {
                let Some(place) = look() else { break };
                if let Some(first) = queue.pop_front() {
                    // If it has been given up just now the place is free again, which is said anew.
                    drop(first.send(place));
                }
            } else {
                queue.pop_front();
            }
        }
        self.waiting.store(queue.len(), Ordering::SeqCst);
    }

    /// A stream has ended, or the peer allows another number of them. This runs for every RPC.
    pub(super) fn stream_freed(&self) {
        if self.has_waiters() {
            self.changed.notify_one();
        }
    }

    /// Ends when something may have become free since it was last called.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn they_come_in_their_order_each_for_one_place_and_who_gives_up_takes_none() {
        let queue = StreamQueue::default();
        let mut free = 0..;
        let mut waiting: Vec<_> = (0..5).map(|_| queue.join()).collect();
        queue.grant(|| None);
        assert!(queue.has_waiters());
        drop(waiting.remove(1));
        let mut places = 2;
        queue.grant(|| {
            places -= 1;
            (places >= 0).then(|| free.next()).flatten()
        });
        let mut now = |at: usize| waiting[at].try_recv().ok();
        assert_eq!([now(0), now(1), now(2), now(3)], [Some(0), Some(1), None, None]);
        queue.grant(|| free.next());
        let mut now = |at: usize| waiting[at].try_recv().ok();
        assert_eq!([now(2), now(3)], [Some(2), Some(3)]);
        assert!(!queue.has_waiters());
    }
}
