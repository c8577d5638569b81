//! The sendings of one request body: who has sent how much of it, and who is woken for more.

use std::task::{Context, Waker};

/// Identifies a sending of one body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SendingId(pub(super) u32);

/// The sendings that go on. Rarely more than one, which needs no allocation.
#[derive(Debug, Default)]
pub(super) struct Sendings {
    pub(super) first: Option<Sending>,
    others: Vec<Sending>,
}

/// A sending that goes on. The connection of one that has ended may still poll for a while: it must get no frame, and
/// must not leave its waker in the caller's body.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) id: SendingId,
    /// Number of kept frames that it has returned.
    pub(super) at: usize,
    /// Waker of the connection that waits for the next frame.
    pub(super) waker: Option<Waker>,
}

impl Sendings {
    pub(super) fn push(&mut self, sending: Sending) {
        match self.first {
            None => self.first = Some(sending),
            Some(_) => self.others.push(sending),
        }
    }

    pub(super) fn find(&mut self, id: SendingId) -> Option<&mut Sending> {
        self.first.iter_mut().chain(&mut self.others).find(|sending| sending.id == id)
    }

    pub(super) fn remove(&mut self, id: SendingId) -> Option<Sending> {
        // If there is no first one, there are no others.
        if self.first.as_ref()?.id == id {
            return std::mem::replace(&mut self.first, self.others.pop());
        }
        let at = self.others.iter().position(|sending| sending.id == id)?;
        Some(self.others.swap_remove(at))
    }

    pub(super) fn is_several(&self) -> bool {
        !self.others.is_empty()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Takes the wakers of all.
    pub(super) fn wakers(&mut self) -> Vec<Waker> {
        self.first.iter_mut().chain(&mut self.others).filter_map(|sending| sending.waker.take()).collect()
    }

    /// Wakes the connections of sendings that have ended. Not under the lock.
    #[inline]
    pub(super) fn wake(self) {
        if self.first.is_some() {
            self.wake_all();
        }
    }

    fn wake_all(self) {
        for waker in self.first.into_iter().chain(self.others).filter_map(|sending| sending.waker) {
            waker.wake();
        }
    }
}

impl Sending {
    pub(super) fn wakes(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }
}
