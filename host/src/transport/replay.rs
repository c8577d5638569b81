//! A request body that can be sent several times: one after another for retries, or at once for hedging.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::Bytes;
use h2::Reason;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tonic::Status;

use super::sendings::{Sending, SendingId, Sendings};
use crate::call::MessageMeter;
use crate::http2::Outgoing;

/// A caller's body, of which several sendings can be made. Its first part is kept while another sending may be needed.
/// The bytes are shared, not copied. A drop ends all sendings: when nobody waits for the response of an RPC, its request
/// must not continue.
#[derive(Debug)]
pub(crate) struct Replay(Arc<Shared>);

/// One sending of a caller's body.
#[derive(Debug)]
pub(crate) struct ReplayBody {
    shared: Arc<Shared>,
    sending: SendingId,
    /// Records the messages that are sent.
    meter: Option<MessageMeter>,
}

/// Error of a body that ends early. Either the caller's body has failed (see [`Replay::take_error`]), or nobody waits
/// for this sending.
#[derive(Debug)]
pub(crate) struct Ended;

#[derive(Debug)]
struct Shared(Mutex<State>);

#[derive(Debug)]
struct State {
    next: SendingId,
    sendings: Sendings,
    /// The unsent rest of the caller's body. `None` while it is polled, which happens without the lock: it is the
    /// caller's code, which may call back here, or panic.
    rest: Option<tonic::body::Body>,
    kept: VecDeque<Kept>,
    size: usize,
    /// Bytes that are kept at most.
    limit: usize,
    /// Whether `kept` has all frames that the body has returned so far. If not, there is at most one sending.
    complete: bool,
    /// The only sending that may go on, once not all frames are kept.
    only: Option<SendingId>,
    ended: bool,
    /// The [`Replay`] was dropped: nobody waits for the response.
    is_dropped: bool,
    /// The caller's body has failed. Without this flag a replay could look complete.
    has_failed: bool,
    error: Option<Status>,
}

#[derive(Clone, Debug)]
enum Kept {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// Bytes that a kept frame takes beside its data.
const FRAME: usize = 64;

impl Replay {
    /// Keeps at most `limit` bytes of this body, and of what its frames take beside them.
    pub(crate) fn new(body: tonic::body::Body, limit: usize) -> Self {
        Self(Arc::new(Shared(Mutex::new(State {
            next: SendingId(0),
            sendings: Sendings::default(),
            ended: body.is_end_stream(),
            rest: Some(body),
            kept: VecDeque::new(),
            size: 0,
            limit,
            complete: true,
            only: None,
            is_dropped: false,
            has_failed: false,
            error: None,
        }))))
    }

    /// Starts a sending from the beginning, beside those that go on. `None`: the beginning is no longer kept.
    pub(crate) fn start(&self) -> Option<ReplayBody> {
        let mut state = self.0.lock();
        if !state.complete {
            return None;
        }
        let id = state.next;
        state.next = SendingId(id.0.wrapping_add(1));
        state.sendings.push(Sending { id, at: 0, waker: None });
        drop(state);
        Some(ReplayBody { shared: Arc::clone(&self.0), sending: id, meter: None })
    }

    /// Returns whether this sending was ended because the body has grown too large, or another sending was answered.
    pub(crate) fn is_superseded(&self, sending: SendingId) -> bool {
        self.0.lock().only.is_some_and(|only| only != sending)
    }

    /// Returns whether another sending can be started.
    pub(crate) fn is_kept(&self) -> bool {
        self.0.lock().complete
    }

    /// Ends a sending.
    pub(crate) fn end(&self, sending: SendingId) {
        self.0.end(sending);
    }

    /// Returns and clears the error of the caller's body. `None`: the body has not failed.
    pub(crate) fn take_error(&self) -> Option<Status> {
        self.0.lock().error.take()
    }

    /// Ends all sendings but this one, and stops keeping frames, because the peer has answered. Kept frames that it has
    /// not sent yet are sent first: a peer may answer before it has read the request.
    pub(crate) fn commit(&self, sending: SendingId) {
        let mut state = self.0.lock();
        let ended = state.keep_only(sending);
        drop(state);
        ended.into_iter().for_each(Sendings::wake);
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        // Even if the body has ended: its last frames may still wait for the peer.
        let sendings = std::mem::take(&mut state.sendings);
        state.ended = true;
        state.is_dropped = true;
        // `None` if the body is being polled: `poll_frame` then drops it.
        let rest = state.rest.take();
        drop(state);
        sendings.wake();
        // Runs the caller's code, so not under the lock.
        drop(rest);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, sending: SendingId) {
        let mut state = self.lock();
        let Some(ended) = state.sendings.remove(sending) else { return };
        if state.sendings.is_empty() {
            drop(state);
            // Usually the connection itself drops its body, and is awake.
            ended.waker.into_iter().for_each(Waker::wake);
            return;
        }
        // It may have been the one whose waker the caller's body has.
        let others = state.sendings.wakers();
        drop(state);
        ended.waker.into_iter().chain(others).for_each(Waker::wake);
    }
}

/// Wakes all sendings when the caller's body has its next frame.
impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        let wakers = self.lock().sendings.wakers();
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl State {
    /// Ends all sendings but this one, and stops keeping frames. Returns the sendings that have ended.
    fn keep_only(&mut self, id: SendingId) -> Option<Sendings> {
        self.complete = false;
        self.only = Some(id);
        if !self.sendings.is_several()
            && let Some(first) = self.sendings.first.as_mut().filter(|first| first.id == id)
        {
            // Usually there is no other one.
            if first.at == self.kept.len() {
                self.kept.clear();
                first.at = 0;
            }
            return None;
        }
        let only = self.sendings.remove(id);
        let ended = std::mem::take(&mut self.sendings);
        if only.as_ref().is_none_or(|only| only.at == self.kept.len()) {
            self.kept = VecDeque::new();
        }
        self.sendings.first = only.map(|only| Sending { at: only.at.min(self.kept.len()), ..only });
        Some(ended)
    }

    /// Records a frame of the caller's body, which was polled by this sending. Returns the sendings that it ends.
    fn taken(
        &mut self,
        frame: Option<&Result<Frame<Bytes>, Status>>,
        is_over: bool,
        by: SendingId,
    ) -> Option<Sendings> {
        let frame = match frame {
            Some(Ok(frame)) => frame,
            // A failed body is not polled again.
            Some(Err(error)) => {
                self.has_failed = true;
                self.complete = false;
                self.error = Some(error.clone());
                return None;
            }
            None => {
                self.ended = true;
                return None;
            }
        };
        self.ended |= is_over;
        let data = frame.data_ref().cloned().map(Kept::Data);
        let kept = data.or_else(|| frame.trailers_ref().cloned().map(Kept::Trailers))?;
        if let Kept::Data(data) = &kept {
            self.size = self.size.saturating_add(data.len() + FRAME);
        }
        let (complete, fits) = (self.complete, self.size <= self.limit);
        match self.sendings.find(by) {
            // It has ended meanwhile. Those that go on need the frame.
            None => self.kept.push_back(kept),
            Some(sending) if complete && fits => {
                self.kept.push_back(kept);
                sending.at += 1;
            }
            // The request has grown too large to be sent again: this sending, which has sent the most, is the only one.
            Some(_) if complete => return self.keep_only(by),
            Some(_) => {}
        }
        None
    }
}

impl ReplayBody {
    pub(crate) const fn sending(&self) -> SendingId {
        self.sending
    }

    /// Records the messages with this meter.
    pub(crate) fn measure(&mut self, meter: Option<MessageMeter>) {
        self.meter = meter;
    }
}

impl Drop for ReplayBody {
    fn drop(&mut self) {
        self.shared.end(self.sending);
    }
}

impl Outgoing for ReplayBody {
    const FAILED: Reason = Reason::CANCEL;

    /// Ready when nobody waits for this sending.
    fn poll_given_up(&self, cx: &Context<'_>) -> Poll<()> {
        match self.shared.lock().sendings.find(self.sending) {
            None => Poll::Ready(()),
            Some(sending) => {
                sending.wakes(cx);
                Poll::Pending
            }
        }
    }
}

impl Body for ReplayBody {
    type Data = Bytes;
    type Error = Ended;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Ended>>> {
        let polled = self.poll(cx);
        if let (Poll::Ready(Some(Ok(frame))), Some(meter)) = (&polled, &mut self.meter)
            && let Some(data) = frame.data_ref()
        {
            meter.data(data);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let mut state = self.shared.lock();
        let (ended, kept) = (state.ended, state.kept.len());
        ended && state.sendings.find(self.sending).is_some_and(|sending| sending.at >= kept)
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

impl ReplayBody {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Ended>>> {
        let shared = Arc::clone(&self.shared);
        let mut guard = shared.lock();
        let state = &mut *guard;
        let Some(sending) = state.sendings.find(self.sending) else {
            return Poll::Ready(Some(Err(Ended)));
        };
        if let Some(frame) = state.kept.get(sending.at).cloned() {
            sending.at += 1;
            return Poll::Ready(Some(Ok(match frame {
                Kept::Data(data) => Frame::data(data),
                Kept::Trailers(trailers) => Frame::trailers(trailers),
            })));
        }
        if !state.complete {
            // The only sending has sent all of them.
            state.kept = VecDeque::new();
            sending.at = 0;
        }
        if state.has_failed {
            return Poll::Ready(Some(Err(Ended)));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        // Before the poll, so that a sending that ends meanwhile is woken.
        sending.wakes(cx);
        let Some(mut rest) = state.rest.take() else {
            // Another sending is polling it, and wakes this one if there is a frame.
            return Poll::Pending;
        };
        let is_several = state.sendings.is_several();
        drop(guard);
        let polled = if is_several {
            let all = Waker::from(Arc::clone(&shared));
            Pin::new(&mut rest).poll_frame(&mut Context::from_waker(&all))
        } else {
            Pin::new(&mut rest).poll_frame(cx)
        };
        let mut guard = shared.lock();
        let state = &mut *guard;
        if state.is_dropped {
            drop(guard);
            drop(rest);
            return Poll::Ready(Some(Err(Ended)));
        }
        let is_over = rest.is_end_stream();
        state.rest = Some(rest);
        let mut ended = None;
        if let Poll::Ready(frame) = &polled {
            ended = state.taken(frame.as_ref(), is_over, self.sending);
        }
        let is_current = state.sendings.find(self.sending).is_some();
        if !is_current || (polled.is_ready() && state.sendings.is_several()) {
            // The frame was kept for the others. If this sending has ended, they poll for the following ones.
            let others = state.sendings.wakers();
            drop(guard);
            others.into_iter().for_each(Waker::wake);
        } else {
            drop(guard);
        }
        ended.into_iter().for_each(Sendings::wake);
        if !is_current {
            return Poll::Ready(Some(Err(Ended)));
        }
        let frame = ready!(polled);
        Poll::Ready(frame.map(|frame| frame.map_err(|_| Ended)))
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

    const KEPT: usize = 64 << 10;

    fn first_of(body: tonic::body::Body) -> (ReplayBody, Replay) {
        let replay = Replay::new(body, KEPT);
        (replay.start().expect("nothing has been sent"), replay)
    }

    proptest! {
        /// Whatever part was sent the first time, the replay is whole or is refused.
        #[test]
        fn the_second_sending_is_whole(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20_000), 0..8),
            sent in 0usize..10,
        ) {
            let (mut first, replay) = first_of(body(&frames));
            let taken = take(&mut first, sent);
            drop(first);
            match replay.start() {
                Some(mut second) => {
                    prop_assert_eq!(take(&mut second, 10), frames.concat());
                    prop_assert!(second.is_end_stream());
                }
                None => prop_assert!(taken.len() + FRAME * frames.len() > KEPT),
            }
        }

        /// Sendings at once, in any order of turns: each is whole, or has ended because the body has become too large to
        /// be kept. One of them is never ended.
        #[test]
        fn sendings_at_once_are_whole(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20_000), 0..8),
            turns in prop::collection::vec((0usize..4, any::<bool>()), 0..60),
        ) {
            let (first, replay) = first_of(body(&frames));
            let whole = frames.concat();
            let mut sendings = vec![(first, Vec::new(), false)];
            for (at, starts) in turns {
                if starts && let Some(another) = replay.start() {
                    sendings.push((another, Vec::new(), false));
                }
                let count = sendings.len();
                let (sending, sent, has_ended) = &mut sendings[at % count];
                if let Some(frame) = sending.frame().now_or_never().expect("never pending") {
                    match frame {
                        Ok(frame) => sent.extend(frame.into_data().expect("data")),
                        Err(Ended) => *has_ended = true,
                    }
                }
                prop_assert!(whole.starts_with(sent));
            }
            let mut finished = 0;
            for (sending, sent, has_ended) in &mut sendings {
                while let Some(frame) = sending.frame().now_or_never().expect("never pending") {
                    match frame {
                        Ok(frame) => sent.extend(frame.into_data().expect("data")),
                        Err(Ended) => { *has_ended = true; break }
                    }
                }
                prop_assert!(*has_ended || *sent == whole);
                prop_assert!(!*has_ended || whole.len() + FRAME * frames.len() > KEPT);
                finished += usize::from(!*has_ended);
            }
            prop_assert!(finished >= 1);
        }
    }

    /// A hedge that ends while it alone waits for the caller's next message: the other one gets the message.
    #[tokio::test]
    async fn a_sending_that_ends_leaves_its_place_to_the_others() {
        let (send, receive) = tokio::sync::mpsc::unbounded_channel();
        let frames = tokio_stream::wrappers::UnboundedReceiverStream::new(receive);
        let (mut first, replay) = first_of(tonic::body::Body::new(StreamBody::new(frames)));
        let mut second = replay.start().expect("it is kept");
        let other = tokio::spawn(async move { second.frame().await });
        tokio::task::yield_now().await;
        assert!(first.frame().now_or_never().is_none(), "its waker is in the body now");
        drop(first);
        tokio::task::yield_now().await;
        send.send(Ok::<_, Status>(Frame::data(Bytes::from_static(b"x")))).expect("open");
        let frame = other.await.expect("no panic").expect("a frame").expect("no error");
        assert_eq!(frame.into_data().expect("data"), "x");
    }

    /// All get the caller's next message, whichever of them asked for it last.
    #[tokio::test]
    async fn a_message_wakes_all_sendings() {
        let (send, receive) = tokio::sync::mpsc::unbounded_channel();
        let frames = tokio_stream::wrappers::UnboundedReceiverStream::new(receive);
        let (first, replay) = first_of(tonic::body::Body::new(StreamBody::new(frames)));
        let others = (0..3).map(|_| replay.start().expect("it is kept"));
        let waiting: Vec<_> = std::iter::once(first)
            .chain(others)
            .map(|mut sending| tokio::spawn(async move { sending.frame().await.is_some() }))
            .collect();
        tokio::task::yield_now().await;
        send.send(Ok::<_, Status>(Frame::data(Bytes::from_static(b"x")))).expect("open");
        for one in waiting {
            assert!(one.await.expect("no panic"));
        }
    }

    /// The sending that was answered goes on, the others end.
    #[test]
    fn a_commit_ends_the_other_sendings() {
        let (mut first, replay) = first_of(body(&[vec![1], vec![2], vec![3]]));
        let mut second = replay.start().expect("it is kept");
        assert_eq!(take(&mut first, 2), [1, 2]);
        assert_eq!(take(&mut second, 1), [1]);
        replay.commit(second.sending());
        assert!(first.frame().now_or_never().expect("not pending").expect("an end").is_err());
        assert_eq!(take(&mut second, 5), [2, 3]);
        assert!(replay.start().is_none());
    }

    /// A peer may answer before it has read the replay.
    #[test]
    fn a_replay_that_is_committed_early_is_still_sent() {
        let (mut first, replay) = first_of(body(&[vec![1], vec![2], vec![3]]));
        assert_eq!(take(&mut first, 2), [1, 2]);
        replay.end(first.sending());
        let mut second = replay.start().expect("it is kept");
        assert_eq!(take(&mut second, 1), [1]);
        replay.commit(second.sending());
        assert_eq!(take(&mut second, 5), [2, 3]);
    }

    /// A failed connection may poll its body once more. It must not take a frame of the next sending.
    #[tokio::test]
    async fn an_earlier_sending_takes_nothing_from_a_later_one() {
        let (send, receive) = tokio::sync::mpsc::unbounded_channel();
        let frames = tokio_stream::wrappers::UnboundedReceiverStream::new(receive);
        let (mut first, replay) = first_of(tonic::body::Body::new(StreamBody::new(frames)));
        replay.end(first.sending());
        let mut second = replay.start().expect("nothing has been sent");
        let waiting = tokio::spawn(async move { second.frame().await });
        tokio::task::yield_now().await;
        assert!(first.frame().await.expect("an end").is_err());
        send.send(Ok::<_, Status>(Frame::data(Bytes::from_static(b"x")))).expect("open");
        let frame = waiting.await.expect("no panic").expect("a frame").expect("no error");
        assert_eq!(frame.into_data().expect("data"), "x");
    }

    #[test]
    fn frames_are_not_kept_after_a_commit() {
        let (mut first, replay) = first_of(body(&[vec![1], vec![2], vec![3]]));
        assert_eq!(take(&mut first, 1), [1]);
        let shared = Arc::clone(&replay.0);
        replay.commit(first.sending());
        assert_eq!(take(&mut first, 5), [2, 3]);
        assert!(shared.lock().kept.is_empty());
    }
}
