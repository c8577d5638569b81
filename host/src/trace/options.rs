//! Recording on request.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::format::Bytes;
use super::recorder::{Extent, TraceSink};
use super::recordings::{Recordings, Request};
use crate::setters::setters;

/// What is recorded on request: one instance, from its start.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordOptions {
    /// Target of the channel whose instance is recorded. `None`: any channel that uses the policy.
    pub target: Option<String>,
    /// Length of the recording, at most [`LONGEST`](Self::LONGEST). Default: 30 s.
    pub time: Duration,
    /// Size of the trace (bytes), at most [`LARGEST`](Self::LARGEST). Default: 64 MiB. A trace that reaches it ends.
    pub bytes: u64,
    /// Metadata keys of which the values are recorded although the policy does not declare them.
    pub metadata: Vec<String>,
    /// Metadata keys of which the values are recorded as they are. Others are hashed.
    pub plain: Vec<String>,
}

setters!(RecordOptions {
    with_target: target: Option<String>,
    with_time: time: Duration,
    with_bytes: bytes: u64,
    with_metadata: metadata: Vec<String>,
    with_plain: plain: Vec<String>,
});

impl RecordOptions {
    /// Longest recording.
    pub const LONGEST: Duration = Duration::from_secs(3600);
    /// Size (bytes) of the largest trace.
    pub const LARGEST: u64 = 128 << 20;
}

impl Default for RecordOptions {
    fn default() -> Self {
        Self {
            target: None,
            time: Duration::from_secs(30),
            bytes: 64 << 20,
            metadata: Vec::new(),
            plain: Vec::new(),
        }
    }
}

/// A trace that is being recorded, as a stream of its bytes. The recording ends when this is dropped.
#[derive(Debug)]
pub struct TraceStream(Receiver<Vec<u8>>);

struct StreamSink(Mutex<Option<Sender<Vec<u8>>>>);

/// Number of blocks that wait to be read. More are lost, and with them the rest of the trace.
const WAITING: usize = 64;

/// Requests a recording. `None`: too many requests wait.
pub(crate) fn request(recordings: &Recordings, options: &RecordOptions) -> Option<TraceStream> {
    let (sender, receiver) = channel(WAITING);
    let extent = Extent {
        bytes: options.bytes.min(RecordOptions::LARGEST),
        time: options.time.min(RecordOptions::LONGEST),
        metadata: options.metadata.clone(),
        plain: options.plain.clone(),
    };
    let sink = Box::new(StreamSink(Mutex::new(Some(sender))));
    let request = Request { target: options.target.clone(), extent, sink };
    recordings.request(request).then_some(TraceStream(receiver))
}

impl TraceSink for StreamSink {
    fn write(&self, bytes: Bytes) -> bool {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sender.as_ref().is_some_and(|sender| sender.try_send(bytes.into_vec()).is_ok())
    }

    fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn is_idle(&self) -> bool {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sender.as_ref().is_some_and(|sender| sender.capacity() == sender.max_capacity())
    }

    fn is_wanted(&self) -> bool {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sender.as_ref().is_some_and(|sender| !sender.is_closed())
    }
}

impl Stream for TraceStream {
    type Item = Vec<u8>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        self.0.poll_recv(context)
    }
}
