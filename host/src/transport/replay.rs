//! A request body that can be sent a second time.

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

/// The first so many bytes of a body are kept until the RPC is answered.
const KEPT: usize = 64 << 10;

/// A caller's body, of which the first part is kept for as long as the peer may say that it has not
/// looked at the request. Sharing the bytes costs no copy.
#[derive(Debug)]
pub(crate) struct ReplayBody {
    shared: Arc<Shared>,
    /// Which sending this is.
    sending: usize,
    /// How many of the kept frames this sending has given out.
    at: usize,
}

/// What remains with the sender of a [`ReplayBody`], to make another of. When it is dropped, the sending
/// is over: the request of an RPC whose response no one reads any more is not to go on.
#[derive(Debug)]
pub(crate) struct Replay(Arc<Shared>);

/// A body ends early: the caller's own has failed, and [`Replay::take_error`] says how, or no one waits for this sending.
#[derive(Debug)]
pub(crate) struct Ended;

#[derive(Debug)]
struct Shared(Mutex<State>);

#[derive(Debug)]
struct State {
    /// The current sending. The connection of an earlier one may go on polling for a while: it must get
    /// nothing, and not leave its waker with the caller's body.
    sending: usize,
    /// None while it is being polled: it is the caller's code, which may come back here, or panic.
    rest: Option<tonic::body::Body>,
    kept: VecDeque<Kept>,
    size: usize,
    /// How many of the kept frames the current sending has given out.
    given: usize,
    /// Everything that was given out is in `kept`.
    complete: bool,
    ended: bool,
    /// No one waits for the response any more.
    is_dropped: bool,
    /// The caller's body has failed; what followed would look whole.
    has_failed: bool,
    error: Option<Status>,
    /// Of the connection that waits for the next frame.
    waker: Option<Waker>,
}

#[derive(Clone, Debug)]
enum Kept {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl ReplayBody {
    /// A body, and the means to send it once more.
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
    /// The body from its beginning; `None` if more of it is gone than was kept. Ends the sending before.
    pub(crate) fn again(&self) -> Option<ReplayBody> {
        let mut state = self.0.lock();
        let before = state.next_sending();
        let sending = state.sending;
        let body = state.complete.then(|| ReplayBody { shared: Arc::clone(&self.0), sending, at: 0 });
        drop(state);
        before.into_iter().for_each(Waker::wake);
        body
    }

    /// What the caller's body failed with, if that is what it did.
    pub(crate) fn take_error(&self) -> Option<Status> {
        self.0.lock().error.take()
    }

    /// The peer has answered: nothing more need be kept. (What a second sending has yet to give out is
    /// given out first: a peer may answer before it has read the request.)
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
        // Also of a body that has ended: the last of it may still wait for the peer.
        let before = state.next_sending();
        state.ended = true;
        state.is_dropped = true;
        // One that is being polled ends with that.
        let rest = state.rest.take();
        drop(state);
        before.into_iter().for_each(Waker::wake);
        // The caller's code, and not under the lock.
        drop(rest);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Ends the sending before, and gives the waker of its connection.
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

    /// The caller's body has given this: to the current sending, or to one that is over.
    fn taken(&mut self, frame: Option<&Result<Frame<Bytes>, Status>>, is_over: bool, is_current: bool) {
        match frame {
            Some(Ok(frame)) => {
                let data = frame.data_ref().cloned().map(Kept::Data);
                let kept = data.or_else(|| frame.trailers_ref().cloned().map(Kept::Trailers));
                match kept {
                    // The next sending is on its way already, and counts on all of it.
                    Some(kept) if !is_current => self.kept.push_back(kept),
                    Some(kept) => self.keep(kept),
                    None => {}
                }
                self.ended |= is_over;
            }
            // What failed once is not tried again.
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

    /// When no one waits for this sending any more.
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
        // Before it is polled: who ends the sending meanwhile must wake this one.
        state.wakes(cx);
        let Some(mut rest) = state.rest.take() else {
            // The sending before is at it, and wakes this one when it is done.
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
            // What was taken meanwhile is the next one's, and so is what comes.
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
        // The rest knows nothing of what is kept.
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
        /// However much was sent the first time, the second time it is all there, or it is refused.
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

    /// A peer may answer before it has read what is being sent again.
    #[test]
    fn what_is_committed_early_is_still_given_out() {
        let (mut first, replay) = ReplayBody::new(body(&[vec![1], vec![2], vec![3]]));
        assert_eq!(take(&mut first, 2), [1, 2]);
        let mut second = replay.again().expect("it is kept");
        assert_eq!(take(&mut second, 1), [1]);
        replay.commit();
        assert_eq!(take(&mut second, 5), [2, 3]);
    }

    /// A connection that has failed may poll its body once more: what it would take is the next one's.
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
    fn what_is_committed_is_not_kept() {
        let (mut first, replay) = ReplayBody::new(body(&[vec![1], vec![2], vec![3]]));
        assert_eq!(take(&mut first, 1), [1]);
        let shared = Arc::clone(&replay.0);
        replay.commit();
        assert_eq!(take(&mut first, 5), [2, 3]);
        assert!(shared.lock().kept.is_empty());
    }
}
