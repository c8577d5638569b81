//! Where RPCs wait that find all streams taken which their endpoint allows: one behind the other.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::{Mutex, Notify};

/// Of one subconn.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// How many wait.
    waiting: AtomicU32,
    /// Held by the first of them, which alone looks; fair, so they come in their order.
    first: Mutex<()>,
    changed: Notify,
}

impl Room {
    /// Waits until `look` finds something. `look` runs when all who came before have found something, and then again
    /// after each change.
    pub(super) async fn wait<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        let _waiting = Waiting::begin(&self.waiting);
        let _first = self.first.lock().await;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Before the look, so that what happens after it is not missed.
            changed.as_mut().enable();
            if let Some(found) = look() {
                return found;
            }
            changed.await;
        }
    }

    /// Whether anyone waits: who comes now has to wait behind them.
    pub(super) fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// A stream has ended, whose end has been counted (`SeqCst`): this runs for every RPC.
    pub(super) fn freed(&self) {
        if self.is_awaited() {
            self.changed.notify_one();
        }
    }

    /// The connections are others, or allow another number of streams.
    pub(super) fn changed(&self) {
        self.changed.notify_one();
    }
}

/// One that waits.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicU32) -> Self {
        // In one order with the count of streams: either it is seen by who ends one, or it sees that end.
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn they_come_in_their_order_each_for_one_place_and_who_gives_up_takes_none() {
        let room = Arc::new(Room::default());
        let free = Arc::new(AtomicU32::new(0));
        let (tell, mut told) = mpsc::unbounded_channel();
        let mut tasks = Vec::new();
        for number in 0..4 {
            let (queue, free, tell) = (Arc::clone(&room), Arc::clone(&free), tell.clone());
            tasks.push(tokio::spawn(async move {
                let take = |free: u32| free.checked_sub(1);
                queue.wait(|| free.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).ok()).await;
                tell.send(number).expect("the test listens");
            }));
            // It has come to its place.
            while room.waiting.load(Ordering::SeqCst) <= number {
                tokio::task::yield_now().await;
            }
        }
        // The first of all, which has been waiting for news.
        tasks.remove(0).abort();
        while room.waiting.load(Ordering::SeqCst) == 4 {
            tokio::task::yield_now().await;
        }
        for expected in 1..4 {
            free.fetch_add(1, Ordering::SeqCst);
            room.freed();
            assert_eq!(told.recv().await, Some(expected));
        }
        assert!(!room.is_awaited());
    }
}
