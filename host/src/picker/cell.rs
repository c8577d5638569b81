//! The cell that holds a channel's current picker.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::{Always, Pick, PickInfo, PickResult, Picker};

/// Holds the current picker of a channel.
#[derive(Debug)]
pub(crate) struct PickerCell(ArcSwap<Generation>);

/// A picker and the signal that a newer one is there.
///
/// One value and not two, so that no RPC can wait on the signal of a picker it did not ask.
#[derive(Debug)]
pub(crate) struct Generation {
    picker: Arc<dyn Picker>,
    replaced: CancellationToken,
}

/// A cell whose first picker queues every RPC.
impl Default for PickerCell {
    fn default() -> Self {
        Self(ArcSwap::new(Generation::new(Arc::new(Always::Queue))))
    }
}

impl PickerCell {
    /// Makes `picker` the current one and wakes the RPCs that wait for it.
    pub(crate) fn publish(&self, picker: Arc<dyn Picker>) {
        // The swap comes first, so that an RPC woken by the cancellation loads the new generation.
        self.0.swap(Generation::new(picker)).replaced.cancel();
    }

    /// Picks for one RPC, waiting out the pickers that hold it. Cancelled by dropping.
    ///
    /// `after`: the generation that the RPC has asked already; it is not asked twice. `last_error` is
    /// left with the last status that a wait-for-ready RPC was spared.
    pub(crate) async fn pick(
        &self,
        info: &mut PickInfo<'_>,
        mut after: Option<Arc<Generation>>,
        last_error: &mut Option<Status>,
    ) -> Result<(Pick, Arc<Generation>), Status> {
        loop {
            let generation = self.0.load_full();
            if let Some(asked) = &after
                && Arc::ptr_eq(asked, &generation)
            {
                generation.replaced.cancelled().await;
                info.requeued = true;
                continue;
            }
            match generation.picker.pick(info) {
                PickResult::Pick(pick) => return Ok((pick, generation)),
                PickResult::Queue => {
                    info.requeued = true;
                    after = Some(generation);
                }
                PickResult::Fail(status) if info.wait_for_ready => {
                    *last_error = Some(status);
                    info.requeued = true;
                    after = Some(generation);
                }
                PickResult::Fail(status) | PickResult::Drop(status) => return Err(restrict(status)),
                PickResult::Busy => tokio::task::yield_now().await,
            }
        }
    }
}

impl Generation {
    fn new(picker: Arc<dyn Picker>) -> Arc<Self> {
        Arc::new(Self { picker, replaced: CancellationToken::new() })
    }
}

/// The codes that gRFC A54 keeps for applications become INTERNAL: a caller must be able to tell what its
/// server said from what the balancer did.
fn restrict(status: Status) -> Status {
    match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::DataLoss
        | Code::Ok => Status::internal(format!("the picker ended the RPC with the illegal status {status}")),
        _ => status,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn no_metadata() -> &'static http::HeaderMap {
        static EMPTY: std::sync::LazyLock<http::HeaderMap> = std::sync::LazyLock::new(http::HeaderMap::new);
        &EMPTY
    }

    async fn pick(cell: &PickerCell, wait_for_ready: bool) -> Result<(), Status> {
        let mut info = PickInfo { wait_for_ready, ..PickInfo::new("/s/m", no_metadata()) };
        cell.pick(&mut info, None, &mut None).await.map(|_| ())
    }

    #[tokio::test]
    async fn a_thousand_queued_rpcs_all_wake() {
        let cell = Arc::new(PickerCell::default());
        let woken: Vec<_> = (0..1000)
            .map(|_| {
                let cell = Arc::clone(&cell);
                tokio::spawn(async move { pick(&cell, false).await })
            })
            .collect();
        tokio::task::yield_now().await;
        cell.publish(Arc::new(Always::Fail(Status::unavailable("gone"))));
        for task in woken {
            assert_eq!(task.await.expect("no panic").expect_err("failed").message(), "gone");
        }
    }

    #[tokio::test]
    async fn wait_for_ready_outlasts_a_failure_but_not_a_drop() {
        #[derive(Debug)]
        struct Drops;
        impl Picker for Drops {
            fn pick(&self, _info: &PickInfo<'_>) -> PickResult {
                PickResult::Drop(Status::permission_denied("dropped"))
            }
        }
        let cell = Arc::new(PickerCell::default());
        cell.publish(Arc::new(Always::Fail(Status::unavailable("down"))));
        assert_eq!(pick(&cell, false).await.expect_err("fail-fast").message(), "down");
        let waiting = tokio::spawn({
            let cell = Arc::clone(&cell);
            async move { pick(&cell, true).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        cell.publish(Arc::new(Drops));
        assert_eq!(waiting.await.expect("no panic").expect_err("dropped").message(), "dropped");
    }

    /// Each RPC asks each generation at most once, and a generation that it asked before only when
    /// that one is no longer the current one.
    #[tokio::test]
    async fn a_generation_is_asked_once() {
        #[derive(Debug)]
        struct Counts(Arc<AtomicUsize>);
        impl Picker for Counts {
            fn pick(&self, _info: &PickInfo<'_>) -> PickResult {
                self.0.fetch_add(1, Ordering::Relaxed);
                PickResult::Queue
            }
        }
        let asked = Arc::new(AtomicUsize::new(0));
        let cell = Arc::new(PickerCell::default());
        cell.publish(Arc::new(Counts(Arc::clone(&asked))));
        let waiting = tokio::spawn({
            let cell = Arc::clone(&cell);
            async move { pick(&cell, false).await }
        });
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        cell.publish(Arc::new(Counts(Arc::clone(&asked))));
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        waiting.abort();
    }

    #[tokio::test]
    async fn codes_that_are_the_applications_become_internal() {
        let cell = PickerCell::default();
        cell.publish(Arc::new(Always::Drop(Status::not_found("no such thing"))));
        let status = pick(&cell, true).await.expect_err("dropped");
        assert_eq!(status.code(), Code::Internal);
        assert!(status.message().contains("no such thing"));
    }

    /// A busy picker is asked again, and the RPC does not wait for a new one.
    #[tokio::test]
    async fn a_busy_picker_is_asked_again() {
        #[derive(Debug)]
        struct BusyTwice(AtomicUsize);
        impl Picker for BusyTwice {
            fn pick(&self, _info: &PickInfo<'_>) -> PickResult {
                match self.0.fetch_add(1, Ordering::Relaxed) {
                    0 | 1 => PickResult::Busy,
                    _ => PickResult::Fail(Status::unavailable("third")),
                }
            }
        }
        let cell = PickerCell::default();
        cell.publish(Arc::new(BusyTwice(AtomicUsize::new(0))));
        assert_eq!(pick(&cell, false).await.expect_err("an answer").message(), "third");
    }
}
