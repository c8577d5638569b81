//! RPCs in flight of a channel, which decide when the channel is idle and when its shutdown is complete.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Counts a channel's RPCs, and decides whether new ones are accepted.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    in_flight: AtomicUsize,
    /// An RPC has ended since the last [`was_quiet`](Self::was_quiet).
    recent: AtomicBool,
    /// New RPCs are rejected.
    shut: AtomicBool,
    /// Cancelled when RPCs in flight are being ended.
    closed: CancellationToken,
    /// Notified when the last RPC has ended during a shutdown.
    done: Notify,
}

/// An RPC in flight: from its first pick to the end of its response.
#[derive(Debug)]
pub(crate) struct Active(Arc<Activity>);

impl Activity {
    /// Registers a new RPC. Fails if the channel is shutting down.
    pub(crate) fn begin(self: &Arc<Self>) -> Result<Active, Status> {
        // Counted before the check: either the shutdown sees the RPC, or the RPC sees the shutdown.
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        let active = Active(Arc::clone(self));
        if self.shut.load(Ordering::SeqCst) { Err(closed()) } else { Ok(active) }
    }

    /// Returns the number of RPCs in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Returns whether there was no RPC since the previous call.
    pub(crate) fn was_quiet(&self) -> bool {
        // In this order, so that an RPC that ends between the two loads counts as recent.
        let idle = self.in_flight.load(Ordering::SeqCst) == 0;
        let recent = self.recent.swap(false, Ordering::SeqCst);
        idle && !recent
    }

    /// Rejects new RPCs, and waits until those in flight have ended.
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

    /// Returns the status of RPCs once the channel will never have a picker again.
    pub(crate) fn why_closed(&self) -> Status {
        if self.shut.load(Ordering::SeqCst) {
            closed()
        } else {
            Status::unavailable("the channel's runtime has ended")
        }
    }

    /// Rejects new RPCs, and records that those in flight are being ended.
    pub(crate) fn close(&self) {
        self.shut.store(true, Ordering::SeqCst);
        self.closed.cancel();
    }

    /// Returns whether RPCs in flight are being ended: no further attempt may start.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Waits until RPCs in flight are being ended. Cancel-safe.
    pub(crate) async fn closing(&self) {
        self.closed.cancelled().await;
    }

    /// Returns the status of an attempt whose connection failed with `status`: that the channel is closed, if it is.
    pub(crate) fn blame(&self, status: Status) -> Status {
        if self.is_closed() { closed() } else { status }
    }
}

impl Active {
    /// Returns the status of an RPC whose connection failed with `status`: that the channel is closed, if it is.
    pub(crate) fn blame(&self, status: Status) -> Status {
        self.0.blame(status)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let activity = &self.0;
        // This runs for every RPC. The load avoids a write, which would take the cache line from other cores.
        if !activity.recent.load(Ordering::SeqCst) {
            activity.recent.store(true, Ordering::SeqCst);
        }
        if activity.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 && activity.shut.load(Ordering::SeqCst) {
            activity.done.notify_waiters();
        }
    }
}

/// Returns the status of RPCs of a closed channel, as in grpc-go.
fn closed() -> Status {
    Status::cancelled("the channel is closed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_drain_rejects_new_rpcs_and_waits_for_the_last() {
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
    fn quiet_means_no_rpc_since_the_previous_call() {
        let activity = Arc::new(Activity::default());
        assert!(activity.was_quiet());
        let active = activity.begin().expect("open");
        assert!(!activity.was_quiet());
        drop(active);
        assert!(!activity.was_quiet());
        assert!(activity.was_quiet());
    }
}
