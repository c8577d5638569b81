//! Limits of waiting: how many RPCs of a channel may wait, and for how long.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};
use tonic::Status;

/// Counts the RPCs of a channel that wait, and limits them.
#[derive(Debug)]
pub(crate) struct WaitLimits {
    /// RPCs that may wait at once.
    pub(crate) most: usize,
    /// Time that one RPC may wait, from the start of its first wait.
    pub(crate) longest: Option<Duration>,
    waiting: AtomicUsize,
}

/// The waits of one RPC.
#[derive(Debug, Default)]
pub(crate) struct Waits<'a> {
    /// `None`: waits are not limited.
    limits: Option<&'a WaitLimits>,
    until: Option<Instant>,
}

/// An RPC that waits. Counted until dropped.
struct Waiting<'a>(&'a WaitLimits);

impl WaitLimits {
    pub(crate) const fn new(most: usize, longest: Option<Duration>) -> Self {
        Self { most, longest, waiting: AtomicUsize::new(0) }
    }

    fn enter(&self) -> Result<Waiting<'_>, Status> {
        // Counted before the check, so that concurrent calls cannot exceed the limit.
        let waiting = Waiting(self);
        if self.waiting.fetch_add(1, Ordering::Relaxed) < self.most {
            return Ok(waiting);
        }
        let most = self.most;
        Err(Status::unavailable(format!("{most} RPCs of the channel wait already (max_waiting)")))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<'a> Waits<'a> {
    pub(crate) const fn within(limits: Option<&'a WaitLimits>) -> Self {
        Self { limits, until: None }
    }

    /// Waits for this future, within the limits.
    ///
    /// # Errors
    ///
    /// UNAVAILABLE if too many RPCs wait already, or if this one has waited for too long.
    pub(crate) async fn wait<T>(&mut self, future: impl Future<Output = T>) -> Result<T, Status> {
        let Some(limits) = self.limits else { return Ok(future.await) };
        let _waiting = limits.enter()?;
        // Without a runtime there is no timer. The channel enters its own for RPCs without one, but only for a poll.
        let Some(longest) = limits.longest.filter(|_| Handle::try_current().is_ok()) else {
            return Ok(future.await);
        };
        let until = *self.until.get_or_insert_with(|| {
            let now = Instant::now();
            now.checked_add(longest).unwrap_or(now + Duration::from_secs(86_400 * 365))
        });
        timeout_at(until, future).await.map_err(|_| {
            Status::unavailable(format!("the RPC has waited for {longest:?} without being sent (max_wait)"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_are_limited_in_number_and_in_time() {
        let limits = WaitLimits::new(1, Some(Duration::from_secs(3)));
        let begun = Instant::now();
        let mut first = Waits::within(Some(&limits));
        assert!(first.wait(tokio::time::sleep(Duration::from_secs(2))).await.is_ok());
        // The time of all waits together counts.
        let second = first.wait(std::future::pending::<()>());
        tokio::pin!(second);
        assert!(futures_util::poll!(&mut second).is_pending());
        let other = Waits::within(Some(&limits)).wait(std::future::ready(())).await;
        assert!(other.expect_err("one waits").message().contains("max_waiting"));
        let late = second.await.expect_err("late");
        assert!(late.message().contains("max_wait"), "{late}");
        assert_eq!(begun.elapsed(), Duration::from_secs(3));
        assert!(Waits::within(Some(&limits)).wait(std::future::ready(())).await.is_ok());
        assert!(Waits::default().wait(std::future::ready(())).await.is_ok());
    }
}
