//! How busy a channel is: what its idleness and its shutdown go by.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;
use tonic::Status;

/// Counts a channel's RPCs, and says whether new ones are let in.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    in_flight: AtomicUsize,
    /// An RPC began or ended since the last [`was_quiet`](Self::was_quiet).
    recent: AtomicBool,
    /// No new RPC is let in.
    shut: AtomicBool,
    /// RPCs under way are ended.
    closed: AtomicBool,
    /// The last RPC has ended.
    done: Notify,
}

/// An RPC under way: from its first pick to the end of its response.
#[derive(Debug)]
pub(crate) struct Active(Arc<Activity>);

impl Activity {
    /// An RPC begins; refused when the channel is shutting down.
    pub(crate) fn begin(self: &Arc<Self>) -> Result<Active, Status> {
        // Counted first: a shutdown that does not see the RPC is seen by it.
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        let active = Active(Arc::clone(self));
        if self.shut.load(Ordering::SeqCst) { Err(closed()) } else { Ok(active) }
    }

    /// Whether there was no RPC since this was last asked.
    pub(crate) fn was_quiet(&self) -> bool {
        // In this order: one that ends in between is recent.
        let idle = self.in_flight.load(Ordering::SeqCst) == 0;
        let recent = self.recent.swap(false, Ordering::SeqCst);
        idle && !recent
    }

    /// Lets no new RPC in, and waits for those under way.
    pub(crate) async fn drain(&self) {
        self.shut.store(true, Ordering::SeqCst);
        loop {
            let done = self.done.notified();
            tokio::pin!(done);
            done.as_mut().enable();
            if self.in_flight.load(Ordering::SeqCst) == 0 {
                return;
            }
            done.await;
        }
    }

    /// Why there will be no picker any more.
    pub(crate) fn why_closed(&self) -> Status {
        if self.shut.load(Ordering::SeqCst) {
            closed()
        } else {
            Status::unavailable("the channel's runtime has ended")
        }
    }

    /// Lets no new RPC in; those under way are being ended.
    pub(crate) fn close(&self) {
        self.shut.store(true, Ordering::SeqCst);
        self.closed.store(true, Ordering::SeqCst);
    }
}

impl Active {
    /// What an RPC ends with whose connection failed with `status`: that the channel was closed, if it was.
    pub(crate) fn blame(&self, status: Status) -> Status {
        if self.0.closed.load(Ordering::SeqCst) { closed() } else { status }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let activity = &self.0;
        // The load keeps the line shared: this runs for every RPC.
        if !activity.recent.load(Ordering::SeqCst) {
            activity.recent.store(true, Ordering::SeqCst);
        }
        if activity.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 && activity.shut.load(Ordering::SeqCst) {
            activity.done.notify_waiters();
        }
    }
}

/// What RPCs of a closed channel end with, as in grpc-go.
fn closed() -> Status {
    Status::cancelled("the channel is closed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_drain_lets_no_one_in_and_waits_for_the_last() {
        let activity = Arc::new(Activity::default());
        let first = activity.begin().expect("open");
        let second = activity.begin().expect("open");
        let drained = tokio::spawn({
            let activity = Arc::clone(&activity);
            async move { activity.drain().await }
        });
        tokio::task::yield_now().await;
        assert!(activity.begin().is_err());
        drop(first);
        tokio::task::yield_now().await;
        assert!(!drained.is_finished());
        drop(second);
        drained.await.expect("drained");
    }

    #[test]
    fn quiet_is_no_rpc_since_the_last_look() {
        let activity = Arc::new(Activity::default());
        assert!(activity.was_quiet());
        let active = activity.begin().expect("open");
        assert!(!activity.was_quiet());
        drop(active);
        assert!(!activity.was_quiet());
        assert!(activity.was_quiet());
    }
}
