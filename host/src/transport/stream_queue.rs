//! FIFO queue of RPCs that wait for a free HTTP/2 stream (SETTINGS_MAX_CONCURRENT_STREAMS).
//!
//! RPCs do not look for a stream themselves, because an RPC is polled by its caller, who may have other things to do
//! first. Free streams are granted to RPCs, so an RPC that is not polled holds up a stream, but no other RPC.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, oneshot};

/// A queue for permits of type `T`, of one subconn.
#[derive(Debug)]
pub(super) struct StreamQueue<T> {
    queue: Mutex<VecDeque<oneshot::Sender<T>>>,
    signal: Arc<StreamSignal>,
}

/// Connects a queue with the connections whose streams it waits for.
#[derive(Debug, Default)]
pub(super) struct StreamSignal {
    /// Length of the queue.
    waiting: AtomicUsize,
    changed: Notify,
}

impl<T> Default for StreamQueue<T> {
    fn default() -> Self {
        Self { queue: Mutex::default(), signal: Arc::default() }
    }
}

impl<T> StreamQueue<T> {
    /// Returns the signal for connections.
    pub(super) fn signal(&self) -> &Arc<StreamSignal> {
        &self.signal
    }

    /// Joins the queue. Wakes [`changed`](Self::changed), whose caller grants what is free.
    pub(super) fn join(&self) -> oneshot::Receiver<T> {
        let (sender, permit) = oneshot::channel();
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push_back(sender);
        self.signal.waiting.store(queue.len(), Ordering::SeqCst);
        drop(queue);
        self.signal.changed.notify_one();
        permit
    }

    /// Returns whether an RPC waits. Later ones must wait behind it.
    pub(super) fn has_waiters(&self) -> bool {
        self.signal.has_waiters()
    }

    /// Grants permits, in the order in which RPCs joined, as long as `find` returns one.
    pub(super) fn grant(&self, mut find: impl FnMut() -> Option<T>) {
        if !self.has_waiters() {
            return;
        }
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(first) = queue.front() {
            // The RPC was given up.
            if first.is_closed() {
                queue.pop_front();
                continue;
            }
            let Some(permit) = find() else { break };
            if let Some(first) = queue.pop_front() {
                // If the RPC was given up just now, the permit is dropped, which frees its stream again.
                drop(first.send(permit));
            }
        }
        self.signal.waiting.store(queue.len(), Ordering::SeqCst);
    }

    /// Waits until something may have become free since the last call.
    pub(super) async fn changed(&self) {
        self.signal.changed.notified().await;
    }
}

impl StreamSignal {
    fn has_waiters(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Notifies the queue that a stream has ended, or that the peer's limit has changed. Called for every RPC.
    pub(super) fn stream_freed(&self) {
        if self.has_waiters() {
            self.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn permits_are_granted_in_order_and_none_to_an_rpc_that_gave_up() {
        let queue = StreamQueue::default();
        let mut free = 0..;
        let mut waiting: Vec<_> = (0..5).map(|_| queue.join()).collect();
        queue.grant(|| None);
        assert!(queue.has_waiters());
        drop(waiting.remove(1));
        let mut permits = 2;
        queue.grant(|| {
            permits -= 1;
            (permits >= 0).then(|| free.next()).flatten()
        });
        let mut now = |at: usize| waiting[at].try_recv().ok();
        assert_eq!([now(0), now(1), now(2), now(3)], [Some(0), Some(1), None, None]);
        queue.grant(|| free.next());
        let mut now = |at: usize| waiting[at].try_recv().ok();
        assert_eq!([now(2), now(3)], [Some(2), Some(3)]);
        assert!(!queue.has_waiters());
    }
}
