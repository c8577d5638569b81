//! The sent and the received body of one RPC on an HTTP/2 connection.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use http_body::{Body, Frame, SizeHint};

use super::gathered::{COMPLETE, Gathered, Hold, LONG};

/// A body to be sent.
pub(crate) trait Outgoing: Body<Data = Bytes> + Unpin {
    /// Reason of the stream's reset when the body fails.
    const FAILED: Reason;

    /// Whether the body is read on while the peer takes no data: it comes from a peer whose window is not opened then.
    const GATHERS: bool = false;

    /// Returns whether the body has ended because its time is over, so that what is left of it is of no use.
    fn is_late(&self) -> bool {
        false
    }

    /// Ready when nobody waits any more for the body to be sent. Polled while the body itself cannot be, because the
    /// peer takes no data.
    fn poll_given_up(&self, cx: &Context<'_>) -> Poll<()>;
}

/// Bytes of an available body that are handed to h2 in one turn, at most, before the peer's window is known: fewer than are
/// kept of a request, so that it can be sent again if the peer takes nothing.
const AT_ONCE: usize = 32 << 10;

/// Whether more of a body is to be handed to h2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    Nothing,
    ToCome,
}

/// A body that is being sent.
pub(crate) struct Sending<B: Outgoing> {
    body: B,
    stream: SendStream<Bytes>,
    /// Data taken from the body and not yet handed to h2. Held back because the last data is sent with END_STREAM.
    held: Option<Bytes>,
    /// What the body had while the peer took no data. `None`: nothing.
    gathered: Option<Box<Gathered<B::Error>>>,
    /// The whole body is handed to h2, or the stream is over.
    is_over: bool,
}

/// Resets the stream if sending ends early, because of a runtime shutdown or a panic in the body. Otherwise the peer
/// would wait for the rest, and the caller for the peer.
impl<B: Outgoing> Drop for Sending<B> {
    fn drop(&mut self) {
        if !self.is_over {
            self.stream.send_reset(B::FAILED);
        }
    }
}

impl<B: Outgoing> Sending<B> {
    pub(crate) const fn new(body: B, stream: SendStream<Bytes>) -> Self {
        Self { body, stream, held: None, gathered: None, is_over: false }
    }

    /// Hands the available part of the body to h2, usually the whole. If that is pending, continue with
    /// [`poll_finish`](Self::poll_finish).
    pub(crate) fn begin(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let begun = self.poll_begin(cx);
        self.is_over |= begun.is_ready();
        begun
    }

    fn poll_begin(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut left = AT_ONCE;
        while left > 0
            && let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx)
        {
            if self.take(frame) == Rest::Nothing {
                return Poll::Ready(());
            }
            left = left.saturating_sub(self.held.as_ref().map_or(1, |data| data.len().max(1)));
        }
        self.poll_rest(cx)
    }

    /// Hands the rest to h2 as the peer's window allows, until the body ends or the stream is over.
    pub(crate) async fn finish(mut self) {
        std::future::poll_fn(|cx| self.poll_finish(cx)).await;
    }

    pub(crate) fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let finished = self.poll_rest(cx);
        self.is_over |= finished.is_ready();
        finished
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.held.is_some() && self.body.poll_given_up(cx).is_ready() {
                self.stream.send_reset(Reason::CANCEL);
                return Poll::Ready(());
            }
            let is_open = match &self.held {
                Some(_) => match poll_room(&mut self.stream, cx) {
                    Poll::Ready(is_open) => is_open,
                    Poll::Pending if B::GATHERS => return self.gather(cx),
                    Poll::Pending => return Poll::Pending,
                },
                None => self.stream.poll_reset(cx).is_pending(),
            };
            if !is_open {
                return Poll::Ready(());
            }
            match self.poll_body(cx) {
                Poll::Ready(frame) => {
                    if self.take(frame) == Rest::Nothing {
                        return Poll::Ready(());
                    }
                }
                Poll::Pending => match self.held.take() {
                    None => return Poll::Pending,
                    // Then loop: the peer may reset the stream while there is nothing to be sent.
                    Some(data) => {
                        if self.send(data, false) == Rest::Nothing {
                            return Poll::Ready(());
                        }
                    }
                },
            }
        }
    }

    /// Returns the next frame: what was gathered, or what the body has.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let Some(gathered) = &mut self.gathered else { return Pin::new(&mut self.body).poll_frame(cx) };
        if gathered.runs_low()
            && let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx)
        {
            gathered.push(frame);
        }
        match gathered.next() {
            Some(frame) => Poll::Ready(frame),
            None => {
                self.gathered = None;
                Pin::new(&mut self.body).poll_frame(cx)
            }
        }
    }

    /// Reads what the body has, although the peer takes no data now. h2 keeps 200 bytes for each received frame that is
    /// not read, and ends the connection if there are too many, with the RPCs of all others.
    fn gather(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let gathered = self.gathered.get_or_insert_default();
        while !gathered.is_whole() {
            let _hold = Hold::begin();
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(frame) => gathered.push(frame),
                Poll::Pending => return Poll::Pending,
            }
        }
        if self.body.is_late() {
            self.stream.send_reset(Reason::CANCEL);
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Takes a frame from the body, and hands the previous one to h2.
    fn take<E>(&mut self, frame: Option<Result<Frame<Bytes>, E>>) -> Rest {
        let before = self.held.take();
        let frame = match frame {
            None => {
                self.send(before.unwrap_or_default(), true);
                return Rest::Nothing;
            }
            // The body itself has reported the error.
            Some(Err(_)) => {
                self.stream.send_reset(B::FAILED);
                return Rest::Nothing;
            }
            Some(Ok(frame)) => frame,
        };
        // Peers count empty frames and end the connection after some, because they look like an attack.
        if frame.data_ref().is_some_and(Bytes::is_empty) {
            self.held = before;
            return Rest::ToCome;
        }
        let frame = frame.into_data().map_err(Frame::into_trailers);
        let before = match (&frame, before) {
            (Ok(data), Some(before)) if is_joined(&before, data) => {
                self.held = Some(joined(before, data));
                return Rest::ToCome;
            }
            (_, before) => before,
        };
        if let Some(before) = before
            && self.send(before, false) == Rest::Nothing
        {
            return Rest::Nothing;
        }
        match frame {
            Ok(data) => self.held = Some(data),
            Err(Ok(trailers)) => {
                // Either the stream is over, which its other direction reports, or the trailers may not be sent.
                if self.stream.send_trailers(trailers).is_err() {
                    self.stream.send_reset(Reason::CANCEL);
                }
                return Rest::Nothing;
            }
            // There is no other kind of frame.
            Err(Err(_)) => {}
        }
        Rest::ToCome
    }

    /// Hands data to h2. If the stream is over, its other direction reports why.
    fn send(&mut self, data: Bytes, is_last: bool) -> Rest {
        match self.stream.send_data(data, is_last) {
            Ok(()) if !is_last => Rest::ToCome,
            _ => Rest::Nothing,
        }
    }
}

/// Returns whether two pieces of data are sent in one frame: h2 keeps 250 bytes for each frame that waits to be written.
fn is_joined(before: &Bytes, data: &Bytes) -> bool {
    data.len() < LONG && before.len() + data.len() <= COMPLETE
}

fn joined(before: Bytes, data: &Bytes) -> Bytes {
    let mut both = before.try_into_mut().unwrap_or_else(|before| {
        let mut both = BytesMut::with_capacity(before.len() + data.len().max(LONG));
        both.extend_from_slice(&before);
        both
    });
    both.extend_from_slice(data);
    both.freeze()
}

/// Waits until the peer takes at least one more byte. Returns false if the stream is over.
fn poll_room(stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<bool> {
    stream.reserve_capacity(1);
    while stream.capacity() == 0 {
        match ready!(stream.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Poll::Ready(false),
        }
    }
    Poll::Ready(true)
}

/// A received body of a response or a request. A body that ends without END_STREAM fails, even if the peer has reset
/// the stream with NO_ERROR.
#[derive(Debug)]
pub(crate) struct Received {
    stream: RecvStream,
    /// All data has been read; only trailers may follow.
    data_ended: bool,
    /// Bytes that were read while nobody took them, and that the peer may not yet send again.
    owed: usize,
}

impl Received {
    pub(crate) const fn new(stream: RecvStream) -> Self {
        Self { stream, data_ended: false, owed: 0 }
    }
}

impl Received {
    /// Reads data that nobody takes yet: the peer may not send as much again until it is [released](Self::release).
    pub(crate) fn poll_held(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let _hold = Hold::begin();
        Pin::new(self).poll_frame(cx)
    }

    /// Opens the peer's window by this many bytes, which were held and have been taken.
    pub(crate) fn release(&mut self, bytes: usize) {
        self.owed -= bytes.min(self.owed);
        // An error would mean that the stream is over.
        let _ = self.stream.flow_control().release_capacity(bytes);
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let is_held = Hold::applies();
        if !is_held && self.owed > 0 {
            let owed = std::mem::take(&mut self.owed);
            // An error would mean that the stream is over.
            let _ = self.stream.flow_control().release_capacity(owed);
        }
        if !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    if is_held {
                        self.owed += data.len();
                    } else {
                        // The reader has the data now, and the peer may send as much again.
                        let _ = self.stream.flow_control().release_capacity(data.len());
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_ended = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx)).transpose();
        Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() { SizeHint::with_exact(0) } else { SizeHint::default() }
    }
}
