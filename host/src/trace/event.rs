//! What a trace contains: the dialogue between the host and one instance of a policy.
//!
//! The serialised form of these types is the format of traces (see [`FORMAT`](super::FORMAT)). A change of a type, of
//! the order of fields or of the order of cases is another format.

use serde::{Deserialize, Serialize};

/// An event of a trace. Calls of the policy are those of the contract (`wit/policy.wit`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Event {
    /// The instance, and what it was started with. The first event.
    Start(Box<Start>),
    /// The name of the next method. Methods are numbered from 0.
    Method(String),
    /// `lifecycle.init` returned.
    Init(Box<Init>),
    /// `handover.restore` was called with the states in [`Start::saved`], and accepted them.
    Restore,
    /// `endpoints.changed` was called.
    Changed {
        /// Endpoints that are new, or whose weight or attributes have changed.
        added: Vec<Endpoint>,
        /// Subconns of the endpoints that are gone.
        removed: Vec<u32>,
    },
    /// `connectivity.changed` was called.
    State {
        /// The subconn.
        subconn: u32,
        /// Its state, numbered as in the contract from 0.
        state: u8,
        /// Reason of TRANSIENT_FAILURE.
        message: String,
    },
    /// `endpoints.ready` was called with these subconns.
    Ready(Vec<u32>),
    /// `picker.pick` was called.
    Pick(Pick),
    /// `plans.make` was called.
    Plan {
        /// The argument `random`.
        random: [u8; 8],
        /// What the policy returned.
        made: Made,
    },
    /// The plan picked for an RPC: the policy was not called.
    Planned(Planned),
    /// An attempt of an RPC ended.
    End(End),
    /// `outcomes.done` was called with the next so many of the [`End`]s that are marked as reported.
    Done(u32),
    /// `alarms.fired` was called for this timer.
    Fired(u32),
    /// `handover.save` was called, and returned this.
    Saved {
        /// `saved.schema`.
        schema: u32,
        /// Length and XXH64 (seed 0) of `saved.data`.
        data: Digest,
    },
    /// The last call of the policy was a fault, for this reason.
    Fault(String),
    /// The last event of a whole trace.
    Finish(Finish),
}

/// An instance of a policy, and what it was started with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Start {
    /// Name of the policy.
    pub policy: String,
    /// Generation of the version.
    pub generation: u64,
    /// SHA-256 of the policy's file, in hexadecimal.
    pub digest: String,
    /// The channel's target.
    pub target: String,
    /// Number of this instance among those of the policy in the channel.
    pub shard: u32,
    /// Number of these instances.
    pub shards: u32,
    /// The argument `placement.seed`.
    pub seed: u64,
    /// The configuration (JSON), in plain.
    pub config: String,
    /// States of the instances before, each with its schema, in plain.
    pub saved: Vec<(u32, Vec<u8>)>,
    /// Time of day of the start (milliseconds since 1970).
    pub unix_ms: u64,
}

/// What `lifecycle.init` returned, and what the policy declared in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Init {
    /// The result.
    pub result: Result<(), String>,
    /// Metadata keys of which the values are in [`Pick::values`]: those that the policy declared, and then those that
    /// the recording was told to keep.
    pub keys: Vec<String>,
    /// The key whose hash is [`Pick::affinity`]. `None`: there is none, or the affinity is a number.
    pub affinity: Option<String>,
}

/// One server, as in the contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Number of the subconn.
    pub id: u32,
    /// Addresses.
    pub addresses: Vec<String>,
    /// Relative weight.
    pub weight: u32,
    /// Attributes.
    pub attributes: Vec<(String, String)>,
}

/// A call of `picker.pick`. The time of the event is `pick-info.now`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pick {
    /// `pick-info.call`.
    pub call: u64,
    /// `pick-info.method`.
    pub method: u32,
    /// `pick-info.affinity`.
    pub affinity: Option<u64>,
    /// `pick-info.random`.
    pub random: [u8; 8],
    /// `pick-info.attempt`.
    pub attempt: u32,
    /// `pick-info.wait-for-ready`.
    pub wait_for_ready: bool,
    /// `pick-info.requeued`.
    pub requeued: bool,
    /// Subconns that earlier attempts have used.
    pub tried: Vec<u32>,
    /// Values of metadata: each with the place of its key in [`Init::keys`].
    pub values: Vec<(u8, Value)>,
    /// What the policy returned.
    pub result: PickResult,
}

/// A value of metadata.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Value {
    /// The value itself.
    Plain(Vec<u8>),
    /// A hash of the value, with a key that only the recording host had.
    Hashed(u64),
}

/// The result of a pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PickResult {
    /// A subconn.
    Pick(u32),
    /// The RPC is queued.
    Queue,
    /// The RPC fails with this gRPC status code.
    Fail(u8),
    /// The RPC is dropped with this gRPC status code.
    Drop(u8),
    /// None: the call was a fault.
    Fault,
}

/// What `plans.make` returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Made {
    /// No plan.
    None,
    /// A sequence of picks.
    Sequence(Digest),
    /// A table by affinity.
    ByAffinity(Digest),
    /// The call was a fault.
    Fault,
}

/// Length and XXH64 (seed 0) of data that is not in the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Number of elements.
    pub length: u64,
    /// Hash of the elements, 32-bit integers in little-endian order.
    pub hash: u64,
}

/// A pick by a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Number of the pick.
    pub call: u64,
    /// Number of the method.
    pub method: u32,
    /// The affinity, if the plan goes by it.
    pub affinity: Option<u64>,
    /// The subconn.
    pub subconn: u32,
    /// See [`Pick::values`].
    pub values: Vec<(u8, Value)>,
}

/// The end of an attempt of an RPC that a pick was made for. The time of the event is that of the event before; the
/// attempt ended [`latency`](Self::latency) after its pick.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// Number of the pick.
    pub call: u64,
    /// The subconn.
    pub subconn: u32,
    /// Number of the method.
    pub method: u32,
    /// gRPC status code.
    pub code: u8,
    /// Whether the RPC was not served.
    pub not_sent: bool,
    /// Whether the client gave up.
    pub client_ended: bool,
    /// Whether the end is reported to the policy: see [`Event::Done`].
    pub reported: bool,
    /// Time from the pick, or from when the RPC got a stream (ns).
    pub latency: u64,
    /// The server's load report: application and CPU utilization, memory utilization, requests and errors per second.
    pub load: Option<[f64; 5]>,
}

/// Why a trace ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Finish {
    /// The time is over, or whoever requested the recording ended it.
    Ended,
    /// The trace has reached its size.
    Full,
    /// The instance was replaced, or its channel ended.
    Replaced,
    /// The instance ended by a fault.
    Fault,
    /// Events came faster than they could be written: the ones that followed are lost.
    TooFast,
}

impl std::fmt::Display for PickResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let code = |code: u8| tonic::Code::from_i32(code.into());
        match self {
            Self::Pick(id) => write!(f, "subconn {id}"),
            Self::Queue => f.write_str("to queue"),
            Self::Fail(number) => write!(f, "to fail with {:?}", code(*number)),
            Self::Drop(number) => write!(f, "to drop with {:?}", code(*number)),
            Self::Fault => f.write_str("a fault"),
        }
    }
}

/// [`Value`], as it is recorded.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ValueParts<'a> {
    Plain(&'a [u8]),
    Hashed(u64),
}

impl From<ValueParts<'_>> for Value {
    fn from(parts: ValueParts<'_>) -> Self {
        match parts {
            ValueParts::Plain(bytes) => Self::Plain(bytes.to_vec()),
            ValueParts::Hashed(hash) => Self::Hashed(hash),
        }
    }
}

impl Value {
    /// Returns the bytes that stand for the value: itself, or its hash as text.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Plain(bytes) => bytes.clone(),
            Self::Hashed(hash) => format!("{hash:016x}").into_bytes(),
        }
    }

    /// Returns whether the value is hashed.
    #[must_use]
    pub const fn is_hashed(&self) -> bool {
        matches!(self, Self::Hashed(_))
    }
}
