//! The body of a request, which is read as it arrives, whether or not a server takes it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tonic::Status;

use super::rpc::readable;
use crate::http2::{Gathered, Received, status_of};

/// The body of a request. The RPC's own task reads it too: h2 keeps 200 bytes for each received frame that is not read, and
/// ends the connection if there are too many. Neither opens the client's window: that is done when the data is taken.
pub(super) struct Upload(Arc<Mutex<State>>);

/// Reads a body for which no server has room. Whoever waits for the body need not come back for it: h2 always wakes the
/// RPC's own task, which reads, and then wakes whoever waits.
pub(super) struct Gatherer(Arc<Mutex<State>>);

struct State {
    received: Received,
    gathered: Gathered<h2::Error>,
    /// The RPC's task, which gathers; until it ends.
    owner: Option<Waker>,
    /// Who waits for the next frame.
    reader: Option<Waker>,
    /// The end has been read.
    has_ended: bool,
}

impl Upload {
    pub(super) fn new(received: Received) -> (Self, Gatherer) {
        let gathered = Gathered::default();
        let state =
            Arc::new(Mutex::new(State { received, gathered, owner: None, reader: None, has_ended: false }));
        (Self(Arc::clone(&state)), Gatherer(state))
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on, whoever waits is woken by h2.
impl Drop for Gatherer {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.owner = None;
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }
}

impl Gatherer {
    /// Reads what has arrived. Returns whether more may follow.
    pub(super) fn gather(&self, cx: &Context<'_>) -> bool {
        let mut state = lock(&self.0);
        if state.has_ended || state.gathered.is_whole() {
            return false;
        }
        if state.owner.as_ref().is_none_or(|owner| !owner.will_wake(cx.waker())) {
            state.owner = Some(cx.waker().clone());
        }
        let State { received, gathered, .. } = &mut *state;
        let has_read = read_ahead(received, gathered, cx.waker());
        if has_read && let Some(reader) = state.reader.take() {
            reader.wake();
        }
        true
    }
}

/// Reads what has arrived, and has this task woken for more. Returns whether there was something.
fn read_ahead(received: &mut Received, gathered: &mut Gathered<h2::Error>, task: &Waker) -> bool {
    let mut cx = Context::from_waker(task);
    let mut has_read = false;
    while !gathered.is_whole()
        && let Poll::Ready(frame) = received.poll_held(&mut cx)
    {
        gathered.push(frame);
        has_read = true;
    }
    has_read
}

impl State {
    fn poll_next(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        if let Some(frame) = self.gathered.next() {
            if let Some(Ok(frame)) = &frame
                && let Some(data) = frame.data_ref()
            {
                self.received.release(data.len());
            } else {
                self.has_ended = true;
            }
            return Poll::Ready(frame);
        }
        let task = self.owner.as_ref().unwrap_or(cx.waker());
        let polled = Pin::new(&mut self.received).poll_frame(&mut Context::from_waker(task));
        match &polled {
            Poll::Pending => self.reader = Some(cx.waker().clone()),
            // The reader may not come back for long.
            Poll::Ready(Some(Ok(frame))) if frame.is_data() => {
                read_ahead(&mut self.received, &mut self.gathered, task);
            }
            Poll::Ready(_) => self.has_ended = true,
        }
        polled
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = lock(&self.0).poll_next(cx);
        frame.map(|frame| frame.map(|frame| frame.map(readable).map_err(|error| status_of(&error))))
    }

    fn is_end_stream(&self) -> bool {
        let state = lock(&self.0);
        state.has_ended || state.gathered.is_empty() && state.received.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() { SizeHint::with_exact(0) } else { SizeHint::default() }
    }
}
