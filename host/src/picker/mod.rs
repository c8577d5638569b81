//! The narrow waist: how an RPC gets its subconn.
//!
//! A [`Policy`] makes one [`PickerBuilder`] for each channel; the balancer gives the builder each new
//! [`ReadySet`] and publishes the [`Picker`] that comes back in the channel's cell; RPCs pick with
//! whichever picker is current. Replacing a policy is one pointer store, and it wakes the RPCs
//! that the old picker had queued.

mod round_robin;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use http::{HeaderName, HeaderValue};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::resolver::ResolveNow;
use crate::subconn::{Done, DoneInfo, ReadySet, SubConn};

pub(crate) use self::round_robin::Cursor;
pub use self::round_robin::RoundRobin;

/// A load-balancing policy, as many channels can use it.
pub trait Policy: Send + Sync + fmt::Debug {
    /// Which policy this is.
    fn version(&self) -> PolicyVersion;

    /// Starts the policy for one channel. Called off the runtime's worker threads, within the runtime:
    /// it may block. An error leaves the channel with the policy that it has.
    ///
    /// `ready` is the channel's latest snapshot, and may be empty; a policy that cannot live with it had
    /// better say so here, while the one before it still serves.
    fn start(&self, placement: &Placement, ready: &ReadySet) -> Result<Box<dyn PickerBuilder>, StartError>;
}

/// Which policy, and which edition of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PolicyVersion {
    /// The policy's name.
    pub name: String,
    /// One more at each change of the policy's code; 0 for a policy that is built in.
    pub generation: u64,
    /// SHA-256 of the code, in hexadecimal; empty for a policy that is built in.
    pub digest: String,
}

impl PolicyVersion {
    /// A version of these three.
    #[must_use]
    pub fn new(name: impl Into<String>, generation: u64, digest: impl Into<String>) -> Self {
        Self { name: name.into(), generation, digest: digest.into() }
    }
}

/// Prints as `color #3 a1b2c3d4e5f6`.
impl fmt::Display for PolicyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match self.digest.get(..12) {
            Some(digest) => write!(f, " #{} {digest}", self.generation),
            None => f.write_str(" (built in)"),
        }
    }
}

/// For whom a policy is started.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Placement {
    /// The channel's target.
    pub target: String,
    /// The policy's configuration: JSON.
    pub config: String,
    /// What the channel's policy before this one has to hand over.
    pub handover: Option<Handover>,
    /// Asks the channel's resolver for a new answer.
    pub resolve_now: ResolveNow,
    /// Has the RPCs that the policy holds picked for again.
    pub pick_again: PickAgain,
    /// Of the random numbers that the policy sees.
    pub(crate) seeds: Arc<AtomicU64>,
}

impl Placement {
    /// A placement in the channel to `target`, with a configuration in JSON.
    #[must_use]
    pub fn new(target: impl Into<String>, config: impl Into<String>) -> Self {
        let (target, config) = (target.into(), config.into());
        let seeds = Arc::new(AtomicU64::new(fastrand::u64(..)));
        Self {
            target,
            config,
            handover: None,
            resolve_now: ResolveNow::default(),
            pick_again: PickAgain::default(),
            seeds,
        }
    }

    /// The same, with random numbers that are the same each time: for tests and simulations.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seeds: Arc::new(AtomicU64::new(seed)), ..self }
    }

    /// A seed for one instance.
    pub(crate) fn next_seed(&self) -> u64 {
        let seed = self.seeds.fetch_add(1, Ordering::Relaxed);
        fastrand::Rng::with_seed(seed).u64(..)
    }
}

/// For a policy whose answer may be another one now, though nothing has changed but itself: the RPCs that it
/// holds are picked for again.
#[derive(Clone, Debug, Default)]
pub struct PickAgain(Arc<Notify>);

impl PickAgain {
    /// Asks for it. Several requests in a row count as one.
    pub fn request(&self) {
        self.0.notify_one();
    }

    /// Waits until it is asked for. Cancel-safe.
    pub(crate) async fn requested(&self) {
        self.0.notified().await;
    }
}

/// The state of a policy at work, for the one that takes over.
#[derive(Clone)]
pub struct Handover(Arc<dyn Fn() -> Vec<Saved> + Send + Sync>);

/// A policy's state, in a format of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Saved {
    /// The number of the format.
    pub schema: u32,
    /// The state.
    pub data: Vec<u8>,
}

impl Handover {
    /// `save` may block. It is called when the successor starts, which may never be.
    pub fn new(save: impl Fn() -> Vec<Saved> + Send + Sync + 'static) -> Self {
        Self(Arc::new(save))
    }

    /// The state at this moment; empty if there is none to be had.
    #[must_use]
    pub fn save(&self) -> Vec<Saved> {
        (self.0)()
    }
}

impl fmt::Debug for Handover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handover")
    }
}

impl Saved {
    /// A state in this format.
    #[must_use]
    pub fn new(schema: u32, data: impl Into<Vec<u8>>) -> Self {
        Self { schema, data: data.into() }
    }
}

/// Why a policy does not start for a channel: the stage that it failed at, and one sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct StartError {
    stage: Stage,
    sentence: String,
}

impl StartError {
    /// An error of a policy's `init` with this sentence.
    #[must_use]
    pub fn new(sentence: impl Into<String>) -> Self {
        Self::at(Stage::Init, sentence)
    }

    /// An error of this stage.
    #[must_use]
    pub fn at(stage: Stage, sentence: impl Into<String>) -> Self {
        Self { stage, sentence: sentence.into() }
    }

    /// The stage that failed.
    #[must_use]
    pub const fn stage(&self) -> Stage {
        self.stage
    }
}

/// The stages on a policy's way from a file to the RPCs, in order. At each it can be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Stage {
    /// The file is read, once it has come to rest.
    File,
    /// The settings beside it, and the digest that they ask for.
    Settings,
    /// It is not too large.
    Size,
    /// There is not too much of anything in it.
    Scan,
    /// It is WebAssembly.
    Parse,
    /// It imports and exports what the contract has.
    World,
    /// It imports only what the operator grants.
    Grants,
    /// It is compiled.
    Compile,
    /// A channel makes an instance.
    Instantiate,
    /// The policy takes its configuration.
    Init,
    /// Trial picks.
    PreFlight,
}

/// Prints as `pre-flight`.
impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "file",
            Self::Settings => "settings",
            Self::Size => "size",
            Self::Scan => "scan",
            Self::Parse => "parse",
            Self::World => "world",
            Self::Grants => "grants",
            Self::Compile => "compile",
            Self::Instantiate => "instantiate",
            Self::Init => "init",
            Self::PreFlight => "pre-flight",
        })
    }
}

/// A policy at work in one channel.
pub trait PickerBuilder: Send + fmt::Debug {
    /// Makes the picker for this snapshot. Called by the balancer, in order, whenever an endpoint or
    /// the state of a subconn has changed. The picker is asked for RPCs if at least one subconn is ready, or
    /// the policy [is lazy](Self::is_lazy).
    fn build(&mut self, ready: &ReadySet) -> Arc<dyn Picker>;

    /// Whether the policy decides when to connect. Then the channel connects nothing by itself, and has
    /// the policy pick whatever the states of the subconns are.
    fn is_lazy(&self) -> bool {
        false
    }

    /// The state of the policy, for the one that will take over from it.
    fn handover(&self) -> Option<Handover> {
        None
    }
}

/// What a policy has done wrong, and what became of the RPCs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Faults {
    /// Traps, missed deadlines and wrong answers.
    pub count: u64,
    /// Picks that the fallback made instead.
    pub fallback_picks: u64,
    /// What the last fault was.
    pub last: Option<String>,
}

/// Chooses a subconn for each RPC, from the snapshot that it was built with.
pub trait Picker: Send + Sync + fmt::Debug {
    /// Picks for one RPC. Called on the request path, by many threads at once; must not block: a
    /// picker with nothing to offer answers [`PickResult::Queue`]. Asked at most once for each attempt
    /// of an RPC, but for [`PickResult::Busy`].
    fn pick(&self, info: &PickInfo<'_>) -> PickResult;

    /// What the picker's policy has done wrong so far, in this channel.
    fn faults(&self) -> Faults {
        Faults::default()
    }
}

/// What a picker may know of an RPC.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PickInfo<'a> {
    /// `/package.Service/Method`.
    pub method: &'a str,
    /// The request's metadata.
    pub metadata: &'a http::HeaderMap,
    /// When the RPC must have ended.
    pub deadline: Option<Instant>,
    /// Hold the RPC rather than fail it.
    pub wait_for_ready: bool,
    /// The subconns that earlier attempts used, as numbers.
    pub tried: &'a [u32],
    /// The RPC was held by an earlier picker.
    pub requeued: bool,
}

impl<'a> PickInfo<'a> {
    /// The first attempt of an RPC without a deadline.
    #[must_use]
    pub fn new(method: &'a str, metadata: &'a http::HeaderMap) -> Self {
        Self { method, metadata, deadline: None, wait_for_ready: false, tried: &[], requeued: false }
    }
}

/// A picker's answer.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "gRPC's four answers, and one of hotpick's own")]
pub enum PickResult {
    /// Send the RPC on this subconn. If the subconn turns out not to be ready the next picker is asked.
    Pick(Pick),
    /// Hold the RPC until there is a new picker.
    Queue,
    /// Fail the RPC with this status; one that is wait-for-ready is held instead.
    Fail(Status),
    /// End the RPC with this status, even if it is wait-for-ready.
    Drop(Status),
    /// The picker is serving another thread: let other tasks run and ask it again. Not an answer of a
    /// policy; it is there so that no thread waits for one that lost its CPU.
    Busy,
}

/// A chosen subconn.
#[non_exhaustive]
pub struct Pick {
    /// Where the RPC goes.
    pub subconn: SubConn,
    /// What to add to the request's metadata.
    pub metadata: Vec<(HeaderName, HeaderValue)>,
    /// Told how this attempt of the RPC ended: exactly once, whatever happens.
    pub done: Option<Done>,
}

impl Pick {
    /// A pick of `subconn`.
    #[must_use]
    pub const fn to(subconn: SubConn) -> Self {
        Self { subconn, metadata: Vec::new(), done: None }
    }

    /// The same pick, whose end is told to `done`.
    #[must_use]
    pub fn on_done(mut self, done: impl FnOnce(&DoneInfo<'_>) + Send + 'static) -> Self {
        self.done = Some(Box::new(done));
        self
    }
}

impl fmt::Debug for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pick").field(&self.subconn).finish()
    }
}

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

/// The pickers of a channel that has no ready subconn.
#[derive(Debug)]
pub(crate) enum Always {
    /// Something is still under way.
    Queue,
    /// Nothing is.
    Fail(Status),
    /// Nothing ever will be.
    Drop(Status),
}

impl Picker for Always {
    fn pick(&self, _info: &PickInfo<'_>) -> PickResult {
        match self {
            Self::Queue => PickResult::Queue,
            Self::Fail(status) => PickResult::Fail(status.clone()),
            Self::Drop(status) => PickResult::Drop(status.clone()),
        }
    }
}

/// A policy that fails every RPC with UNAVAILABLE, for this reason.
#[derive(Clone, Debug)]
pub(crate) struct Refuses(String);

impl Refuses {
    pub(crate) const fn new(reason: String) -> Self {
        Self(reason)
    }
}

impl Policy for Refuses {
    fn version(&self) -> PolicyVersion {
        PolicyVersion::new("refuses", 0, "")
    }

    fn start(&self, _: &Placement, _: &ReadySet) -> Result<Box<dyn PickerBuilder>, StartError> {
        Ok(Box::new(self.clone()))
    }
}

impl PickerBuilder for Refuses {
    fn build(&mut self, _ready: &ReadySet) -> Arc<dyn Picker> {
        Arc::new(Always::Fail(Status::unavailable(self.0.clone())))
    }
}

/// The picker of an idle channel: an RPC is held, and wakes it.
#[derive(Debug)]
pub(crate) struct Wakes(pub(crate) Arc<Notify>);

impl Picker for Wakes {
    fn pick(&self, _info: &PickInfo<'_>) -> PickResult {
        self.0.notify_one();
        PickResult::Queue
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
