//! Which instances of a policy are recorded: requests, which each take one instance, and their slots.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

use super::recorder::{Extent, Recorder, TraceSink};

/// Requests to record a policy, whatever its version. Shared by all of its slots.
#[derive(Default)]
pub(crate) struct Recordings {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    requests: Vec<Request>,
    /// Wakes the supervisors of slots.
    slots: Vec<Weak<Notify>>,
}

/// A request to record one instance.
pub(crate) struct Request {
    /// Target of the channel. `None`: any.
    pub(crate) target: Option<String>,
    pub(crate) extent: Extent,
    pub(crate) sink: Box<dyn TraceSink>,
}

/// Maximum number of requests that wait for an instance.
const MOST: usize = 8;

impl Recordings {
    /// Has the next instance recorded that fits the request. `false`: too many requests wait.
    pub(crate) fn request(&self, request: Request) -> bool {
        let mut inner = self.lock();
        inner.requests.retain(|request| request.sink.is_wanted());
        if inner.requests.len() == MOST {
            return false;
        }
        inner.requests.push(request);
        inner.slots.retain(|slot| slot.upgrade().inspect(|slot| slot.notify_one()).is_some());
        true
    }

    /// Adds a slot, whose supervisor is woken by requests.
    pub(crate) fn add(&self, wake: &Arc<Notify>) {
        let mut inner = self.lock();
        inner.slots.retain(|slot| slot.strong_count() > 0);
        inner.slots.push(Arc::downgrade(wake));
    }

    /// Returns whether an instance in a channel with this target is to be recorded.
    pub(crate) fn is_requested(&self, target: &str) -> bool {
        self.lock().requests.iter().any(|request| request.fits(target))
    }

    /// Takes a request for an instance in a channel with this target.
    pub(crate) fn take(&self, target: &str) -> Option<Recorder> {
        let mut inner = self.lock();
        let at = inner.requests.iter().position(|request| request.fits(target))?;
        let Request { extent, sink, .. } = inner.requests.remove(at);
        Some(Recorder::new(extent, sink, true))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Request {
    fn fits(&self, target: &str) -> bool {
        self.sink.is_wanted() && self.target.as_deref().is_none_or(|wanted| wanted == target)
    }
}

impl fmt::Debug for Recordings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recordings").finish_non_exhaustive()
    }
}
