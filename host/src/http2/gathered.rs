//! What a body had while the peer that it is sent to took no data.

use std::cell::Cell;
use std::collections::VecDeque;
use std::marker::PhantomData;

use bytes::{Bytes, BytesMut};
use http_body::Frame;

/// Data of a body in few pieces, and the frame that follows them.
pub(crate) struct Gathered<E> {
    pieces: VecDeque<Bytes>,
    /// Short pieces after those, in one.
    short: BytesMut,
    /// Bytes of all of them.
    bytes: usize,
    /// Trailers, an error, or the end of the body.
    end: Option<Option<Result<Frame<Bytes>, E>>>,
}

/// Length of pieces that are not copied (bytes).
pub(super) const LONG: usize = 1 << 10;
/// Length at which short pieces are complete (bytes).
pub(super) const COMPLETE: usize = 16 << 10;
/// Bytes below which the body's source may send again.
const LOW: usize = 64 << 10;

impl<E> Default for Gathered<E> {
    fn default() -> Self {
        Self { pieces: VecDeque::new(), short: BytesMut::new(), bytes: 0, end: None }
    }
}

impl<E> Gathered<E> {
    pub(crate) fn push(&mut self, frame: Option<Result<Frame<Bytes>, E>>) {
        match frame {
            Some(Ok(frame)) if frame.is_data() => {
                if let Ok(data) = frame.into_data() {
                    self.push_data(data);
                }
            }
            end => self.end = Some(end),
        }
    }

    fn push_data(&mut self, data: Bytes) {
        self.bytes += data.len();
        if data.len() < LONG {
            self.short.extend_from_slice(&data);
        }
        if data.len() >= LONG || self.short.len() >= COMPLETE {
            if !self.short.is_empty() {
                self.pieces.push_back(self.short.split().freeze());
            }
            if data.len() >= LONG {
                self.pieces.push_back(data);
            }
        }
    }

    /// Returns whether the body has ended with what is here.
    pub(crate) const fn is_whole(&self) -> bool {
        self.end.is_some()
    }

    /// Returns whether no frame is here.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0 && !matches!(self.end, Some(Some(_)))
    }

    /// Returns whether more of the body may be read although the rest of this has not been sent.
    pub(super) const fn runs_low(&self) -> bool {
        self.end.is_none() && self.bytes < LOW
    }

    /// Takes the next frame. `None`: there is nothing left.
    pub(crate) fn next(&mut self) -> Option<Option<Result<Frame<Bytes>, E>>> {
        let data = self.pieces.pop_front().or_else(|| {
            let is_some = !self.short.is_empty();
            is_some.then(|| self.short.split().freeze())
        });
        match data {
            Some(data) => {
                self.bytes -= data.len();
                Some(Some(Ok(Frame::data(data))))
            }
            None => self.end.take(),
        }
    }
}

/// While it lives, a body that is polled on this thread does not open the window of its source: what it returns is kept
/// here and not yet sent. Bodies are within each other, and those in between know nothing of windows.
pub(super) struct Hold(PhantomData<*const ()>);

thread_local! {
    static HOLDS: Cell<bool> = const { Cell::new(false) };
}

impl Hold {
    pub(super) fn begin() -> Self {
        HOLDS.set(true);
        Self(PhantomData)
    }

    /// Returns whether windows must not be opened now. Called by bodies that have one.
    pub(super) fn applies() -> bool {
        HOLDS.get()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        HOLDS.set(false);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The bytes stay in order, and are in few pieces.
        #[test]
        fn pieces_are_joined(lengths in prop::collection::vec(0usize..3000, 0..200), takes in 0usize..50) {
            let mut gathered = Gathered::<()>::default();
            let (mut sent, mut read, mut pieces) = (Vec::new(), Vec::new(), 0);
            let mut take = |gathered: &mut Gathered<()>| {
                let Some(Some(Ok(frame))) = gathered.next() else { return false };
                read.extend_from_slice(&frame.into_data().expect("data"));
                pieces += 1;
                true
            };
            for (number, length) in (0u8..=255).cycle().zip(lengths.iter().copied()) {
                sent.extend(vec![number; length]);
                gathered.push(Some(Ok(Frame::data(vec![number; length].into()))));
                if usize::from(number) < takes {
                    take(&mut gathered);
                }
            }
            while take(&mut gathered) {}
            prop_assert_eq!(gathered.bytes, 0);
            prop_assert!(gathered.runs_low());
            gathered.push(None);
            prop_assert!(gathered.is_whole() && matches!(gathered.next(), Some(None)));
            prop_assert!(gathered.next().is_none());
            prop_assert_eq!(read, sent);
            let long = lengths.iter().filter(|length| **length >= LONG).count();
            prop_assert!(pieces <= 2 * long + takes + lengths.iter().sum::<usize>() / COMPLETE + 1);
        }
    }

    #[test]
    fn a_hold_applies_while_it_lives() {
        assert!(!Hold::applies());
        let hold = Hold::begin();
        assert!(Hold::applies());
        drop(hold);
        assert!(!Hold::applies());
    }
}
