//! The record of an RPC: where each of its attempts went, what it waited for, and how it ended.
//!
//! The channel makes one [`CallRecord`] of each RPC, with an [`AttemptRecord`] for each attempt, and gives them to the
//! [`CallObserver`]s of its builder. Metrics, traces and access logs only read them. Without an observer nothing is
//! recorded.

mod code;
mod messages;
mod methods;
mod observer;
mod record;
mod recorder;
mod recording;

pub use self::code::code_name;
pub use self::methods::{MethodNames, Methods};
pub use self::observer::{CallEvent, CallObserver, CallWatcher};
pub use self::record::{
    AttemptKind, AttemptRecord, Call, CallRecord, DelayRecord, Messages, Peer, PickRecord,
};
pub(crate) use self::recorder::{AttemptRecorder, CallRecorder, MessageMeter};
pub(crate) use self::recording::Observers;
pub use crate::load_report::LoadReport;
pub use crate::picker::{DelayType, PickedBy};
