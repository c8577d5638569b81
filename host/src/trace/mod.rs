//! Traces: recordings of what went into an instance of a policy, and what came out.
//!
//! A host records, in a running program, every call of a policy with its arguments, its answers and its result, and how the
//! RPCs ended that the policy picked for. From a trace the calls can be repeated exactly, elsewhere and later, with the
//! same policy; or another policy can be given the same RPCs.
//!
//! Values of metadata are hashed with a key that is thrown away, unless the settings say otherwise, or the value is
//! also in the policy's configuration or in an attribute of an endpoint. `pick-info.affinity` is in the trace as
//! the policy got it, which is the XXH64 of a value.

mod event;
mod files;
mod format;
mod options;
mod recorder;
mod recordings;
mod rpc;

pub(crate) use self::event::ValueParts;
pub use self::event::{
    Digest, End, Endpoint, Event, Finish, Init, Made, Pick, PickResult, Planned, Start, Value,
};
pub use self::files::RecordSettings;
pub(crate) use self::format::Scratch;
pub use self::format::{FORMAT, Recorded, Trace, TraceError};
pub(crate) use self::options::request;
pub use self::options::{RecordOptions, TraceStream};
pub(crate) use self::recorder::{LastValues, Recorder};
pub(crate) use self::recordings::Recordings;
pub(crate) use self::rpc::{Numbers, PickParts, PlannedParts};
