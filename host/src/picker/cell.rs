//! The cell that holds a channel's current picker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::{DelayType, Delays, Fixed, Pick, PickInfo, PickResult, Picker};
use crate::policy_version::PolicyVersion;
use crate::waiting::Waits;

/// Holds the current picker of a channel, and picks with it.
#[derive(Debug)]
pub struct PickerCell {
    current: ArcSwap<Publication>,
    published: AtomicU64,
}

/// A picker and the signal that a newer one is there.
///
/// One value and not two, so that no RPC can wait on the signal of a picker it did not ask.
#[derive(Debug)]
struct Publication {
    /// Incremented at each publication.
    number: u64,
    picker: Arc<dyn Picker>,
    /// The policy that built the picker. `None`: it is not known, or there is none.
    policy: Option<Arc<PolicyVersion>>,
    replaced: CancellationToken,
}

/// State of an RPC that is being picked.
#[derive(Debug, Default)]
pub(crate) struct PickState {
    /// The publication that was asked last; none is asked twice.
    last: Option<u64>,
    /// Status with which a wait-for-ready RPC would have failed otherwise.
    pub(crate) error: Option<Status>,
    /// The publication that `error` comes from.
    failed_by: Option<u64>,
    /// The RPC was picked for but not sent: the subconn has changed, so there is or will be another picker.
    pub(crate) not_sent: bool,
    /// Someone observes the RPC: [`policy`](Self::policy) is to be filled.
    pub(crate) is_observed: bool,
    /// The policy that has picked.
    pub(crate) policy: Option<Arc<PolicyVersion>>,
}

impl PickState {
    pub(crate) fn new(is_observed: bool) -> Self {
        Self { is_observed, ..Self::default() }
    }
}

/// A picker has ended the RPC.
#[derive(Debug)]
pub(crate) struct PickFailure {
    pub(crate) status: Status,
    /// The RPC must not be picked for again, whatever its retry policy says (gRFC A6).
    pub(crate) is_drop: bool,
}

/// A cell whose first picker queues every RPC.
impl Default for PickerCell {
    fn default() -> Self {
        let first = Publication {
            number: 0,
            picker: Arc::new(Fixed::Queue),
            policy: None,
            replaced: CancellationToken::new(),
        };
        Self { current: ArcSwap::from_pointee(first), published: AtomicU64::new(0) }
    }
}

impl PickerCell {
    /// Makes `picker` the current one and wakes the RPCs that wait for it.
    pub fn publish(&self, picker: Arc<dyn Picker>) {
        self.publish_of(picker, None);
    }

    /// Like [`publish`](Self::publish), for the picker of a policy.
    pub(crate) fn publish_of(&self, picker: Arc<dyn Picker>, policy: Option<Arc<PolicyVersion>>) {
        let number = self.published.fetch_add(1, Ordering::Relaxed) + 1;
        let publication = Publication { number, picker, policy, replaced: CancellationToken::new() };
        // The swap comes first, so that an RPC woken by the cancellation loads the new publication.
        self.current.swap(Arc::new(publication)).replaced.cancel();
    }

    /// Picks for one RPC, and waits while pickers queue it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the wait; nothing was picked.
    ///
    /// # Errors
    ///
    /// If a picker fails or drops the RPC.
    pub async fn pick(&self, info: &mut PickInfo<'_>) -> Result<Pick, Status> {
        let mut state = PickState::default();
        match self.ask(info, &mut state) {
            Some(PickResult::Pick(pick)) => Ok(pick),
            answer => {
                let picked = self.wait(answer, info, &mut state, false, &(), &mut Waits::default()).await;
                picked.map_err(|failure| failure.status)
            }
        }
    }

    /// Like [`pick`](Self::pick), for an RPC that may have been picked for before.
    pub(crate) async fn pick_with(
        &self,
        info: &mut PickInfo<'_>,
        state: &mut PickState,
        delays: &impl Delays,
        waits: &mut Waits<'_>,
    ) -> Result<Pick, PickFailure> {
        if !std::mem::take(&mut state.not_sent) {
            state.last = None;
        }
        let last = state.last;
        match self.ask(info, state) {
            Some(PickResult::Pick(pick)) => {
                delays.end();
                Ok(pick)
            }
            answer => {
                let is_mismatch = matches!(answer, Some(PickResult::Queue)) && last == state.last;
                self.wait(answer, info, state, is_mismatch, delays, waits).await
            }
        }
    }

    /// Waits while the answer is to wait. Apart from [`pick_with`](Self::pick_with), because most RPCs do not wait.
    /// `is_mismatch`: the current picker was asked before, and its subconn was not ready.
    async fn wait(
        &self,
        mut answer: Option<PickResult>,
        info: &mut PickInfo<'_>,
        state: &mut PickState,
        mut is_mismatch: bool,
        delays: &impl Delays,
        waits: &mut Waits<'_>,
    ) -> Result<Pick, PickFailure> {
        loop {
            let wait = match answer {
                Some(PickResult::Pick(pick)) => {
                    delays.end();
                    return Ok(pick);
                }
                Some(PickResult::Fail(status)) => {
                    return Err(PickFailure { status: restrict(status), is_drop: false });
                }
                Some(PickResult::Drop(status)) => {
                    return Err(PickFailure { status: restrict(status), is_drop: true });
                }
                Some(PickResult::Queue) => self.replaced(state.last),
                None => None,
            };
            match wait {
                Some(replaced) => {
                    if state.is_observed {
                        self.tell(state, std::mem::take(&mut is_mismatch), delays);
                    }
                    let waited = waits.wait(replaced.cancelled()).await;
                    waited.map_err(|status| PickFailure { status, is_drop: true })?;
                    info.requeued = true;
                }
                None => tokio::task::yield_now().await,
            }
            info.now = Instant::now();
            answer = self.ask(info, state);
        }
    }

    /// Says what the RPC waits for.
    #[cold]
    fn tell(&self, state: &PickState, is_mismatch: bool, delays: &impl Delays) {
        let publication = self.current.load();
        match &state.error {
            _ if is_mismatch => delays.begin(
                DelayType::SubchannelStateMismatch,
                &"the picked subconn is not ready, and there is no new picker yet",
            ),
            Some(error) if state.failed_by == Some(publication.number) => {
                delays.begin(DelayType::PickerFailingWithWaitForReady, &error.message());
            }
            _ => {
                let delay = publication.picker.queues_for();
                match &publication.policy {
                    Some(policy) => delays.begin(delay, &format_args!("queued by policy {policy}")),
                    None => delays.begin(delay, &"no endpoint is ready"),
                }
            }
        }
    }

    /// Asks the current picker, unless it was asked before. `None`: it is busy.
    fn ask(&self, info: &PickInfo<'_>, state: &mut PickState) -> Option<PickResult> {
        // `load`, not `load_full`: a reference count would be written by all threads, in one cache line.
        let publication = self.current.load();
        if state.last == Some(publication.number) {
            return Some(PickResult::Queue);
        }
        let mut answer = publication.picker.try_pick(info);
        match &answer {
            None => {}
            Some(PickResult::Fail(status)) if info.wait_for_ready => {
                state.last = Some(publication.number);
                state.failed_by = state.last;
                state.error = Some(status.clone());
                answer = Some(PickResult::Queue);
            }
            Some(_) => {
                state.last = Some(publication.number);
                if state.is_observed && matches!(answer, Some(PickResult::Pick(_))) {
                    state.policy.clone_from(&publication.policy);
                }
            }
        }
        answer
    }

    /// Returns the signal that this publication has been replaced; `None` if it has been already.
    fn replaced(&self, number: Option<u64>) -> Option<CancellationToken> {
        let publication = self.current.load();
        (Some(publication.number) == number).then(|| publication.replaced.clone())
    }
}

/// Converts the codes that gRFC A54 reserves for applications to INTERNAL, so that a caller can distinguish a status of
/// its server from one of the balancer.
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
        cell.pick(&mut info).await.map(|_| ())
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
        cell.publish(Arc::new(Fixed::Fail(Status::unavailable("gone"))));
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
        cell.publish(Arc::new(Fixed::Fail(Status::unavailable("down"))));
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

    /// Each RPC asks each publication at most once, however often new ones are published.
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
        cell.publish(Arc::new(Fixed::Drop(Status::not_found("no such thing"))));
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
                PickResult::Fail(Status::unavailable("third"))
            }

            fn try_pick(&self, info: &PickInfo<'_>) -> Option<PickResult> {
                (self.0.fetch_add(1, Ordering::Relaxed) >= 2).then(|| self.pick(info))
            }
        }
        let cell = PickerCell::default();
        cell.publish(Arc::new(BusyTwice(AtomicUsize::new(0))));
        assert_eq!(pick(&cell, false).await.expect_err("an answer").message(), "third");
    }
}
