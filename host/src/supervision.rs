//! Catching panics on threads and tasks that must continue.
//!
//! No code of the host is known to panic there. But a resolver or a Rust policy is the user's own code, and the channel
//! that calls it must continue to serve RPCs whatever that code does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;

static PANICS: AtomicU64 = AtomicU64::new(0);

/// Delay before a task that has panicked is restarted.
pub(crate) const AGAIN: Duration = Duration::from_secs(5);

/// Returns the number of panics that were caught since the process started. Each is a bug in the host, or in a resolver
/// or native policy that it was given. The log says in which. Worth an alert.
#[must_use]
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// Runs `work`. Returns `None` if it panicked; the panic is counted and logged. `what` names the work in the log.
pub(crate) fn guarded<T>(what: &str, work: impl FnOnce() -> T) -> Option<T> {
    // Unwind safe, because every caller re-creates what the work has left half done.
    catch_unwind(AssertUnwindSafe(work)).inspect_err(|_| count(what)).ok()
}

/// Like [`guarded`], for a future.
pub(crate) async fn guarded_task<F: Future>(what: &str, task: F) -> Option<F::Output> {
    AssertUnwindSafe(task).catch_unwind().await.inspect_err(|_| count(what)).ok()
}

fn count(what: &str) {
    PANICS.fetch_add(1, Ordering::Relaxed);
    tracing::error!("{what} panicked: the panic was caught, and the host continues");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn panics_are_counted_and_end_nothing_else() {
        let before = panics();
        assert_eq!(guarded("a test", || -> u8 { panic!("as it should") }), None);
        assert_eq!(guarded_task("a test", async { panic!("as it should") }).await.map(|(): ()| ()), None);
        assert_eq!((guarded("a test", || 7), guarded_task("a test", async { 8 }).await), (Some(7), Some(8)));
        assert!(panics() >= before + 2);
    }
}
