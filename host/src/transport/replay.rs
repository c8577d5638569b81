//! A request body that can be replayed for a retry.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::Reason;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tonic::Status;

use crate::http2::Outgoing;

/// Bytes of a body that are kept for a replay, until the RPC is answered.
const KEPT: usize = 64 << 10;

/// A caller's body, for one sending of it. Its first part is kept while the peer may still report that it did not
/// process the request. The bytes are shared, not copied.
#[derive(Debug)]
pub(crate) struct ReplayBody {
    shared: Arc<Shared>,
    /// Number of this sending.
    sending: usize,
    /// Number of kept frames that this sending has returned.
    at: usize,
}

/// The sender's handle to a [`ReplayBody`], which can create another one. A drop ends the current sending: when nobody
/// waits for the response of an RPC, its request must not continue.
#[derive(Debug)]
pub(crate) struct Replay(Arc<Shared>);

/// Error of a body that ends early. Either the caller's body has failed (see [`Replay::take_error`]), or nobody waits
/// for this sending.
#[derive(Debug)]
pub(crate) struct Ended;

#[derive(Debug)]
struct Shared(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Number of the current sending. The connection of an earlier one may still poll for a while: it must get no
    /// frame, and must not leave its waker in the caller's body.
    sending: usize,
    /// The unsent rest of the caller's body. `None` while it is polled, which happens without the lock: it is the
    /// caller's code, which may call back here, or panic.
    rest: Option<tonic::body::Body>,
    kept: VecDeque<Kept>,
    size: usize,
    /// Number of kept frames that the current sending has returned.
    given: usize,
    /// Whether `kept` has all frames that the body has returned so far.
    complete: bool,
    ended: bool,
    /// The [`Replay`] was dropped: nobody waits for the response.
    is_dropped: bool,
    /// The caller's body has failed. Without this flag a replay could look complete.
    has_failed: bool,
    error: Option<Status>,
    /// Waker of the connection that waits for the next frame.
    waker: Option<Waker>,
}

#[derive(Clone, Debug)]
enum Kept {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl ReplayBody {
    /// Creates a body for its first sending, and the handle to send it again.
    pub(crate) fn new(body: tonic::body::Body) -> (Self, Replay) {
        let state = State {
            sending: 0,
            ended: body.is_end_stream(),
            rest: Some(body),
            kept: VecDeque::new(),
            size: 0,
            given: 0,
            complete: true,
            is_dropped: false,
            has_failed: false,
            error: None,
            waker: None,
        };
        let shared = Arc::new(Shared(Mutex::new(state)));
        (Self { shared: Arc::clone(&shared), sending: 0, at: 0 }, Replay(shared))
    }
}

impl Replay {
    /// Ends the current sending, and returns the body for another one from the beginning. `None`: the beginning is no
    /// longer kept.
    pub(crate) fn again(&self) -> Option<ReplayBody> {
        let mut state = self.0.lock();
        let before = state.next_sending();
        let sending = state.sending;
        let body = state.complete.then(|| ReplayBody { shared: Arc::clone(&self.0), sending, at: 0 });
        drop(state);
        before.into_iter().for_each(Waker::wake);
        body
    }

    /// Returns and clears the error of the caller's body. `None`: the body has not failed.
    pub(crate) fn take_error(&self) -> Option<Status> {
        self.0.lock().error.take()
    }

    /// Stops keeping frames, because the peer has answered. Kept frames that a replay has not sent yet are sent first:
    /// a peer may answer before it has read the request.
    pub(crate) fn commit(&self) {
        let mut state = self.0.lock();
        state.complete = false;
        if state.given == state.kept.len() {
            state.forget();
        }
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        // Even if the body has ended: its last frames may still wait for the peer.
        let before = state.next_sending();
        state.ended = true;
        state.is_dropped = true;
        // `None` if the body is being polled: `poll_frame` then drops it.
        let rest = state.rest.take();
        drop(state);
        before.into_iter().for_each(Waker::wake);
        // Runs the caller's code, so not under the lock.
        drop(rest);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Ends the current sending. Returns the waker of its connection.
    fn next_sending(&mut self) -> Option<Waker> {
        self.sending += 1;
        self.given = 0;
        self.waker.take()
    }

    fn wakes(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }

    fn keep(&mut self, frame: Kept) {
        if let Kept::Data(data) = &frame {
            self.size += data.len();
        }
        if self.complete && self.size <= KEPT {
            self.kept.push_back(frame);
        } else {
            self.forget();
        }
    }

    /// Records a frame of the caller's body. `is_current`: it was polled by the current sending, not by an earlier one.
    fn taken(&mut self, frame: Option<&Result<Frame<Bytes>, Status>>, is_over: bool, is_current: bool) {
        match frame {
            Some(Ok(frame)) => {
                let data = frame.data_ref().cloned().map(Kept::Data);
                let kept = data.or_else(|| frame.trailers_ref().cloned().map(Kept::Trailers));
                match kept {
                    // The next sending has started already, and needs the whole body.
                    Some(kept) if !is_current => self.kept.push_back(kept),
                    Some(kept) => self.keep(kept),
                    None => {}
                }
                self.ended |= is_over;
            }
            // A failed body is not polled again.
            Some(Err(error)) => {
                self.has_failed = true;
                self.error = Some(error.clone());
                if is_current {
                    self.forget();
                }
            }
            None => self.ended = true,
        }
    }

    fn forget(&mut self) {
        self.complete = false;
        self.kept = VecDeque::new();
    }
}

impl Outgoing for ReplayBody {
    const FAILED: Reason = Reason::CANCEL;

    /// Ready when nobody waits for this sending.
    fn poll_given_up(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.shared.lock();
        if self.sending != state.sending {
            return Poll::Ready(());
        }
        state.wakes(cx);
        Poll::Pending
    }
}

impl Body for ReplayBody {
    type Data = Bytes;
    type Error = Ended;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Ended>>> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        if self.sending != state.sending {
            return Poll::Ready(Some(Err(Ended)));
        }
        if let Some(frame) = state.kept.get(self.at).cloned() {
            self.at += 1;
            state.given = self.at;
            return Poll::Ready(Some(Ok(match frame {
                Kept::Data(data) => Frame::data(data),
                Kept::Trailers(trailers) => Frame::trailers(trailers),
            })));
        }
        if !state.complete {
            state.forget();
            self.at = 0;
            state.given = 0;
        }
        if state.has_failed {
            return Poll::Ready(Some(Err(Ended)));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        // Before the poll, so that a sending that ends meanwhile is woken.
        state.wakes(cx);
        let Some(mut rest) = state.rest.take() else {
            // The previous sending is polling it, and wakes this one afterwards.
            return Poll::Pending;
        };
        drop(state);
        let polled = Pin::new(&mut rest).poll_frame(cx);
        let mut state = shared.lock();
        if state.is_dropped {
            drop(state);
            drop(rest);
            return Poll::Ready(Some(Err(Ended)));
        }
        let is_over = rest.is_end_stream();
        state.rest = Some(rest);
        let is_current = self.sending == state.sending;
        if let Poll::Ready(frame) = &polled {
            state.taken(frame.as_ref(), is_over, is_current);
        }
        if !is_current {
            // The frame was kept for the current sending, which also polls the following ones.
            let next = state.waker.take();
            drop(state);
            next.into_iter().for_each(Waker::wake);
            return Poll::Ready(Some(Err(Ended)));
        }
        let frame = ready!(polled);
        if state.complete && matches!(frame, Some(Ok(_))) {
            self.at += 1;
            state.given = self.at;
        }
        Poll::Ready(frame.map(|frame| frame.map_err(|_| Ended)))
    }

    fn is_end_stream(&self) -> bool {
        let state = self.shared.lock();
        state.ended && self.at >= state.kept.len()
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.shared.lock();
        // The hint of the rest does not include kept frames.
        match &state.rest {
            Some(rest) if state.kept.is_empty() => rest.size_hint(),
            _ => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use http_body_util::{BodyExt as _, StreamBody};
    use proptest::prelude::*;

    use super::*;

    fn body(frames: &[Vec<u8>]) -> tonic::body::Body {
        let frames: Vec<_> =
            frames.iter().map(|frame| Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(frame)))).collect();
        tonic::body::Body::new(StreamBody::new(futures_util::stream::iter(frames)))
    }

    fn take(body: &mut ReplayBody, frames: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..frames {
            match body.frame().now_or_never().expect("never pending") {
                Some(frame) => bytes.extend(frame.expect("no error").into_data().expect("data")),
                None => break,
            }
        }
        bytes
    }

    proptest! {
        /// Whatever part was sent the first time, the replay is whole or is refused.
        #[test]
        fn the_second_sending_is_whole(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20_000), 0..8),
            sent in 0usize..10,
        ) {
            let (mut first, replay) = ReplayBody::new(body(&frames));
            let taken = take(&mut first, sent);
            drop(first);
            match replay.again() {
                Some(mut second) => {
                    prop_assert_eq!(take(&mut second, 10), frames.concat());
                    prop_assert!(second.is_end_stream());
                }
                None => prop_assert!(taken.len() > KEPT),
            }
        }
    }

    /// A peer may answer before it has read the replay.
    #[test]
    fn a_replay_that_is_committed_early_is_still_sent() {
        let (mut first, replay) = ReplayBody::new(body(&[vec![1], vec![2], vec![3]]));
        assert_eq!(take(&mut first, 2), [1, 2]);
        let mut second = replay.again().expect("it is kept");
        assert_eq!(take(&mut second, 1), [1]);
        replay.commit();
        assert_eq!(take(&mut second, 5), [2, 3]);
    }

    /// A failed connection may poll its body once more. It must not take a frame of the next sending.
    #[tokio::test]
    async fn an_earlier_sending_takes_nothing_from_a_later_one() {
        let (send, receive) = tokio::sync::mpsc::unbounded_channel();
        let frames = tokio_stream::wrappers::UnboundedReceiverStream::new(receive);
        let (mut first, replay) = ReplayBody::new(tonic::body::Body::new(StreamBody::new(frames)));
        let mut second = replay.again().expect("nothing has been sent");
        let waiting = tokio::spawn(async move { second.frame().await });
        tokio::task::yield_now().await;
        assert!(first.frame().await.expect("an end").is_err());
        send.send(Ok::<_, Status>(Frame::data(Bytes::from_static(b"x")))).expect("open");
        let frame = waiting.await.expect("no panic").expect("a frame").expect("no error");
        assert_eq!(frame.into_data().expect("data"), "x");
    }

    #[test]
    fn frames_are_not_kept_after_a_commit() {
        let (mut first, replay) = ReplayBody::new(body(&[vec![1], vec![2], vec![3]]));
        assert_eq!(take(&mut first, 1), [1]);
        let shared = Arc::clone(&replay.0);
        replay.commit();
        assert_eq!(take(&mut first, 5), [2, 3]);
        assert!(shared.lock().kept.is_empty());
    }
}
