//! What becomes of a panic on a thread or a task that must go on.
//!
//! Nothing that is known of panics there. But a resolver, or a policy in Rust, is a program's own code, and whatever it does,
//! the channel that called it has RPCs to serve.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;

static PANICS: AtomicU64 = AtomicU64::new(0);

/// How long to wait before what has panicked is begun anew.
pub(crate) const AGAIN: Duration = Duration::from_secs(5);

/// How often something has panicked that went on nevertheless, since the process began: a fault of the host, or of a resolver or
/// a native policy that it was given. The log says what it was. Worth an alert.
#[must_use]
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// Does it. None: it panicked, which is counted and logged.
pub(crate) fn guarded<T>(what: &str, work: impl FnOnce() -> T) -> Option<T> {
    // Whoever calls this makes anew what the work has left halfway.
    catch_unwind(AssertUnwindSafe(work)).inspect_err(|_| count(what)).ok()
}

/// The same of a future.
pub(crate) async fn guarded_task<F: Future>(what: &str, task: F) -> Option<F::Output> {
    AssertUnwindSafe(task).catch_unwind().await.inspect_err(|_| count(what)).ok()
}

fn count(what: &str) {
    PANICS.fetch_add(1, Ordering::Relaxed);
    tracing::error!("{what} panicked: it is carried on without");
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
