//! Who is told of RPCs.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use super::record::{AttemptRecord, Call, CallRecord};
use crate::picker::DelayType;

/// Is told of each RPC of a channel.
///
/// All methods are called on the RPC's path, by many threads at once. They must not block: a slow observer slows down
/// RPCs. Given to [`ChannelBuilder::observer`](crate::channel::ChannelBuilder::observer).
///
/// ```
/// use hotpick::call::{CallObserver, CallRecord};
///
/// /// Prints each RPC that fails.
/// struct Failures;
///
/// impl CallObserver for Failures {
///     fn call_ended(&self, record: &CallRecord<'_>) {
///         if record.code != tonic::Code::Ok {
///             let (method, attempts) = (record.call.method(), record.attempts.len());
///             eprintln!("{method} failed with {:?} after {attempts} attempts", record.code);
///         }
///     }
/// }
/// # let _ = |builder: hotpick::channel::ChannelBuilder| builder.observer(Failures);
/// ```
pub trait CallObserver: Send + Sync {
    /// An RPC starts, with this metadata. The watcher is told what happens to the RPC as it happens; `None`: only the
    /// methods of this trait are called.
    fn call_started(&self, call: &Call, metadata: &HeaderMap) -> Option<Box<dyn CallWatcher>> {
        let _ = (call, metadata);
        None
    }

    /// An attempt starts.
    fn attempt_started(&self, call: &Call, attempt: &AttemptRecord) {
        let _ = (call, attempt);
    }

    /// An attempt has ended. The last attempts of an RPC end before the RPC does.
    fn attempt_ended(&self, call: &Call, attempt: &AttemptRecord) {
        let _ = (call, attempt);
    }

    /// The RPC has ended. Called exactly once, however it ends.
    fn call_ended(&self, record: &CallRecord<'_>) {
        let _ = record;
    }
}

impl<T: CallObserver + ?Sized> CallObserver for Arc<T> {
    fn call_started(&self, call: &Call, metadata: &HeaderMap) -> Option<Box<dyn CallWatcher>> {
        (**self).call_started(call, metadata)
    }

    fn attempt_started(&self, call: &Call, attempt: &AttemptRecord) {
        (**self).attempt_started(call, attempt);
    }

    fn attempt_ended(&self, call: &Call, attempt: &AttemptRecord) {
        (**self).attempt_ended(call, attempt);
    }

    fn call_ended(&self, record: &CallRecord<'_>) {
        (**self).call_ended(record);
    }
}

/// Is told what happens to one RPC. Dropped after [`CallEvent::Ended`].
pub trait CallWatcher: Send {
    /// Something has happened. Must not block.
    fn on(&mut self, event: CallEvent<'_>);
}

/// What happens to an RPC. Attempts are numbered from 0; hedges are in flight at once.
#[derive(Debug)]
#[non_exhaustive]
pub enum CallEvent<'a> {
    /// The RPC has waited this long for the target to be resolved.
    Resolved(Duration),
    /// An attempt starts.
    AttemptStarted {
        /// Its number.
        attempt: usize,
        /// The attempt.
        record: &'a AttemptRecord,
    },
    /// An attempt waits, or goes on waiting for another reason.
    Delayed {
        /// Its number.
        attempt: usize,
        /// What for.
        delay: DelayType,
        /// The reason, for people.
        reason: &'a str,
    },
    /// An attempt that has waited goes on.
    DelayEnded {
        /// Its number.
        attempt: usize,
    },
    /// A subconn was picked, and the request is about to be sent.
    Sending {
        /// Its number.
        attempt: usize,
        /// The attempt.
        record: &'a AttemptRecord,
        /// The request's metadata, to which the watcher may add.
        metadata: &'a mut HeaderMap,
    },
    /// A message of the request was handed to the connection.
    MessageSent {
        /// Number of the attempt.
        attempt: usize,
        /// Number of the message, from 0.
        sequence: u64,
        /// Size (bytes), compressed.
        size: u64,
    },
    /// The header of a message of the response was received.
    MessageReceived {
        /// Number of the attempt.
        attempt: usize,
        /// Number of the message, from 0.
        sequence: u64,
        /// Size (bytes), compressed.
        size: u64,
    },
    /// An attempt has ended.
    AttemptEnded {
        /// Its number.
        attempt: usize,
        /// The attempt.
        record: &'a AttemptRecord,
    },
    /// The RPC has ended.
    Ended(&'a CallRecord<'a>),
}
