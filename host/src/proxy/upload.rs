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

/// Reads a body for which no server has room.
pub(super) struct Gatherer(Arc<Mutex<State>>);

struct State {
    received: Received,
    gathered: Gathered<h2::Error>,
    /// The RPC's task, which gathers.
    owner: Option<Waker>,
    /// Whether someone waits for the next frame.
    is_awaited: bool,
    /// The end has been read.
    has_ended: bool,
}

impl Upload {
    pub(super) fn new(received: Received) -> (Self, Gatherer) {
        let gathered = Gathered::default();
        let state = Arc::new(Mutex::new(State {
            received,
            gathered,
            owner: None,
            is_awaited: false,
            has_ended: false,
        }));
        (Self(Arc::clone(&state)), Gatherer(state))
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Nobody waits any more: what arrives from now on is gathered.
impl Drop for Upload {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        if std::mem::replace(&mut state.is_awaited, false)
            && let Some(owner) = &state.owner
        {
            owner.wake_by_ref();
        }
    }
}

impl Gatherer {
    /// Reads what has arrived, unless someone waits for it. Returns whether more may follow.
    pub(super) fn gather(&self, cx: &Context<'_>) -> bool {
        let mut state = lock(&self.0);
        if state.has_ended || state.gathered.is_whole() {
            return false;
        }
        if state.owner.as_ref().is_none_or(|owner| !owner.will_wake(cx.waker())) {
            state.owner = Some(cx.waker().clone());
        }
        // Who waits for data is woken by h2.
        if !state.is_awaited {
            state.read_ahead();
        }
        true
    }
}

impl State {
    /// Reads what has arrived, and has the RPC's task woken for more.
    fn read_ahead(&mut self) {
        let Some(owner) = &self.owner else { return };
        let mut cx = Context::from_waker(owner);
        while !self.gathered.is_whole()
            && let Poll::Ready(frame) = self.received.poll_held(&mut cx)
        {
            self.gathered.push(frame);
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        self.is_awaited = false;
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
        let polled = Pin::new(&mut self.received).poll_frame(cx);
        match &polled {
            Poll::Pending => self.is_awaited = true,
            // The reader may not come back for long.
            Poll::Ready(Some(Ok(frame))) if frame.is_data() => self.read_ahead(),
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
