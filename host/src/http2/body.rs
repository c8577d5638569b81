//! The two directions of one RPC on an HTTP/2 connection: the body that is sent, and the body that is received.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http_body::{Body, Frame, SizeHint};

/// A body to be sent.
pub(crate) trait Outgoing: Body<Data = Bytes> + Unpin {
    /// What the stream is reset with when the body fails.
    const FAILED: Reason;

    /// Ready when no one waits any more for it to be sent. For who cannot poll the body: the peer takes nothing.
    fn poll_given_up(&self, cx: &Context<'_>) -> Poll<()>;
}

/// So much of a body is handed over at once, if it is there.
const AT_ONCE: usize = 64 << 10;

/// What remains of a body to be handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    Nothing,
    ToCome,
}

/// A body on its way.
pub(crate) struct Sending<B: Outgoing> {
    body: B,
    stream: SendStream<Bytes>,
    /// Taken from the body, and not handed over: with the last of them goes word that it is the last.
    held: Option<Bytes>,
    /// All of it is handed over, or the stream is over.
    is_over: bool,
}

/// Whatever ends it early (its runtime, or a panic of the body): the peer is not left waiting for the rest, nor who waits
/// for the peer.
impl<B: Outgoing> Drop for Sending<B> {
    fn drop(&mut self) {
        if !self.is_over {
            self.stream.send_reset(B::FAILED);
        }
    }
}

impl<B: Outgoing> Sending<B> {
    pub(crate) const fn new(body: B, stream: SendStream<Bytes>) -> Self {
        Self { body, stream, held: None, is_over: false }
    }

    /// Hands over what is there: the whole, as a rule. Then goes on with [`poll_finish`](Self::poll_finish).
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

    /// Hands over the rest as the peer lets it, until there is no more or the stream is over.
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
                Some(_) => ready!(poll_room(&mut self.stream, cx)),
                None => self.stream.poll_reset(cx).is_pending(),
            };
            if !is_open {
                return Poll::Ready(());
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(frame) => {
                    if self.take(frame) == Rest::Nothing {
                        return Poll::Ready(());
                    }
                }
                Poll::Pending => match self.held.take() {
                    None => return Poll::Pending,
                    // Again, for the peer may reset the stream while there is nothing to be sent.
                    Some(data) => {
                        if self.send(data, false) == Rest::Nothing {
                            return Poll::Ready(());
                        }
                    }
                },
            }
        }
    }

    /// Takes in a frame, and hands over the one before.
    fn take<E>(&mut self, frame: Option<Result<Frame<Bytes>, E>>) -> Rest {
        let before = self.held.take();
        let frame = match frame {
            None => {
                self.send(before.unwrap_or_default(), true);
                return Rest::Nothing;
            }
            // The body knows why.
            Some(Err(_)) => {
                self.stream.send_reset(B::FAILED);
                return Rest::Nothing;
            }
            Some(Ok(frame)) => frame,
        };
        // Peers count frames of nothing, and end the connection after some: it looks like an attack.
        if frame.data_ref().is_some_and(Bytes::is_empty) {
            self.held = before;
            return Rest::ToCome;
        }
        if let Some(before) = before
            && self.send(before, false) == Rest::Nothing
        {
            return Rest::Nothing;
        }
        match frame.into_data().map_err(Frame::into_trailers) {
            Ok(data) => self.held = Some(data),
            Err(Ok(trailers)) => {
                // If the stream is over, its other direction says so; if not, they are such as may not be sent.
                if self.stream.send_trailers(trailers).is_err() {
                    self.stream.send_reset(Reason::CANCEL);
                }
                return Rest::Nothing;
            }
            // There is no other kind.
            Err(Err(_)) => {}
        }
        Rest::ToCome
    }

    /// If the stream is over, its other direction says why.
    fn send(&mut self, data: Bytes, is_last: bool) -> Rest {
        match self.stream.send_data(data, is_last) {
            Ok(()) if !is_last => Rest::ToCome,
            _ => Rest::Nothing,
        }
    }
}

/// Waits until the peer takes at least a byte more; false if the stream is over.
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

/// A body as it comes from the connection: of a response, or of a request. One that ends without END_STREAM fails,
/// also if the peer has reset it with NO_ERROR.
#[derive(Debug)]
pub(crate) struct Received {
    stream: RecvStream,
    /// What may come now are trailers.
    data_ended: bool,
}

impl Received {
    pub(crate) const fn new(stream: RecvStream) -> Self {
        Self { stream, data_ended: false }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // It is the reader's now, and the peer may send as much again. An error would be of a stream that
                    // is over.
                    let _ = self.stream.flow_control().release_capacity(data.len());
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
