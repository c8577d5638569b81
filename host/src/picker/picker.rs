//! The trait of pickers, and the types of its arguments and results.

use std::fmt;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use tokio::time::Instant;
use tonic::Status;

use super::DelayType;
use crate::policy_version::PolicyVersion;
use crate::subconn::{Done, DoneInfo, SubConn};

/// Chooses a subconn for each RPC, from the snapshot that it was built with. Immutable, and shared by all
/// RPCs of a channel.
pub trait Picker: Send + Sync + fmt::Debug {
    /// Picks for one RPC. Called on the request path, by many threads at once. It must not block: a
    /// picker without a suitable subconn answers [`PickResult::Queue`]. Called at most once for each attempt
    /// of an RPC.
    fn pick(&self, info: &PickInfo<'_>) -> PickResult;

    /// Picks for one RPC unless that means waiting for another thread. The channel calls this method; on
    /// `None` it lets other tasks run and calls again.
    fn try_pick(&self, info: &PickInfo<'_>) -> Option<PickResult> {
        Some(self.pick(info))
    }

    /// Returns what an RPC waits for that this picker queues. Called only while someone observes the RPC.
    fn queues_for(&self) -> DelayType {
        DelayType::Policy
    }

    /// Returns the faults of this picker's policy in this channel since it took effect.
    fn faults(&self) -> Faults {
        Faults::default()
    }
}

/// Calls [`Picker::try_pick`] until it picks, for pickers that [`Picker::pick`] lets wait.
pub(crate) fn until_picked(picker: &impl Picker, info: &PickInfo<'_>) -> PickResult {
    loop {
        match picker.try_pick(info) {
            Some(answer) => return answer,
            None => std::thread::yield_now(),
        }
    }
}

/// Faults of a policy in one channel, and what became of the RPCs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Faults {
    /// Number of traps, missed deadlines and invalid answers.
    pub count: u64,
    /// Number of picks that the fallback made instead.
    pub fallback_picks: u64,
    /// Description of the last fault.
    pub last: Option<String>,
}

/// The RPC that is being picked for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PickInfo<'a> {
    /// The method: `/package.Service/Method`.
    pub method: &'a str,
    /// The request's metadata.
    pub metadata: &'a http::HeaderMap,
    /// The time of this pick.
    pub now: Instant,
    /// When the RPC began: the same in all of its attempts.
    pub begun: Instant,
    /// Deadline of the RPC. `None`: the RPC has no deadline.
    pub deadline: Option<Instant>,
    /// Whether to queue the RPC instead of failing it.
    pub wait_for_ready: bool,
    /// Number of earlier attempts of this RPC. Those in `tried` count even if this number is lower.
    pub attempt: u32,
    /// Numbers of the subconns that earlier attempts used. There may be fewer than attempts: an attempt can fail without a
    /// subconn.
    pub tried: &'a [u32],
    /// Whether an earlier pick of this attempt was queued, or named a subconn on which the RPC could not be sent.
    pub requeued: bool,
    /// What a trace says of the pick, if it is one of the past.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub past: Option<&'a PastPick<'a>>,
}

/// What a trace says of a pick.
#[cfg(feature = "testing")]
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "for the command alone")]
pub struct PastPick<'a> {
    /// The metadata key of the affinity, and its hash: the value itself may not be there.
    pub affinity: Option<(&'a str, u64)>,
    pub random: Option<u64>,
}

impl<'a> PickInfo<'a> {
    /// Describes the first attempt of an RPC without a deadline, now.
    #[must_use]
    pub fn new(method: &'a str, metadata: &'a http::HeaderMap) -> Self {
        let now = Instant::now();
        Self {
            method,
            metadata,
            now,
            begun: now,
            deadline: None,
            wait_for_ready: false,
            attempt: 0,
            tried: &[],
            requeued: false,
            #[cfg(feature = "testing")]
            past: None,
        }
    }
}

impl PickInfo<'_> {
    /// Returns the number of earlier attempts of this RPC.
    pub(crate) fn earlier_attempts(&self) -> u32 {
        self.attempt.max(u32::try_from(self.tried.len()).unwrap_or(u32::MAX))
    }
}

/// The result of a pick: one of gRPC's four.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "gRPC's four answers")]
pub enum PickResult {
    /// Send the RPC on this subconn. If it turns out not to be ready, the next picker is asked.
    Pick(Pick),
    /// Queue the RPC until there is a new picker.
    Queue,
    /// Fail the RPC with this status; a wait-for-ready RPC is queued instead.
    Fail(Status),
    /// End the RPC with this status, even if it is wait-for-ready.
    Drop(Status),
}

/// A chosen subconn.
#[non_exhaustive]
pub struct Pick {
    /// The subconn that the RPC is sent on.
    pub subconn: SubConn,
    /// Metadata to add to the request.
    pub metadata: Vec<(HeaderName, HeaderValue)>,
    /// Called exactly once, when this attempt of the RPC has ended.
    pub done: Option<Done>,
    /// Who picked.
    pub by: PickedBy,
    /// What there is to say of it. Boxed, because most picks have none.
    pub(crate) notes: Option<Box<PickNotes>>,
}

/// What there is to say of a pick.
#[derive(Debug, Default)]
pub(crate) struct PickNotes {
    /// What the policy says of this pick (`call.explain` of the WIT), for those who observe RPCs.
    pub(crate) explanation: Option<Box<str>>,
    /// The version that picked, if it is not the active one of its policy.
    pub(crate) policy: Option<Arc<PolicyVersion>>,
}

/// Who picked a subconn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PickedBy {
    /// A policy in Rust.
    #[default]
    Native,
    /// A Wasm policy, called for this RPC.
    Called,
    /// A Wasm policy, by a plan that it made before.
    Planned,
    /// The host, in place of a Wasm policy that failed.
    Fallback,
}

impl PickedBy {
    /// Returns the name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Called => "called",
            Self::Planned => "planned",
            Self::Fallback => "fallback",
        }
    }
}

impl Pick {
    /// Picks `subconn`.
    #[must_use]
    pub const fn to(subconn: SubConn) -> Self {
        Self { subconn, metadata: Vec::new(), done: None, by: PickedBy::Native, notes: None }
    }

    /// Says something of the pick, for those who observe RPCs.
    #[must_use]
    pub fn with_explanation(mut self, text: impl Into<Box<str>>) -> Self {
        self.notes_mut().explanation = Some(text.into());
        self
    }

    pub(crate) fn notes_mut(&mut self) -> &mut PickNotes {
        self.notes.get_or_insert_default()
    }

    /// Sets the function that is called when the attempt has ended.
    #[must_use]
    pub fn on_done(mut self, done: impl FnOnce(&DoneInfo<'_>) + Send + 'static) -> Self {
        self.done = Some(Done::new(done));
        self
    }
}

impl fmt::Debug for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pick").field(&self.subconn).finish()
    }
}
