//! A position in a rotation over the ready subconns.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::subconn::{ReadySet, SubConn};

/// A position in a rotation, shared by threads.
#[derive(Debug)]
pub(crate) struct Rotation(AtomicUsize);

impl Rotation {
    /// Starts at a random position, so that clients do not all start with the same endpoint.
    pub(crate) fn random() -> Self {
        Self(AtomicUsize::new(fastrand::usize(..usize::MAX / 2)))
    }

    /// Returns the next ready subconn. `None`: none is ready.
    pub(crate) fn next(&self, ready: &ReadySet) -> Option<SubConn> {
        let ready = ready.ready();
        let at = self.0.fetch_add(1, Ordering::Relaxed);
        ready.get(at.checked_rem(ready.len())?).cloned()
    }
}
