//! What the connections of a proxy share: the channel, and the number of RPCs in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::health::OwnHealth;
use super::options::ProxyOptions;
use crate::channel::Channel;

/// Shared by the connections of a proxy.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) channel: Channel,
    pub(super) options: ProxyOptions,
    /// Number of RPCs in flight.
    pub(super) rpcs: AtomicUsize,
    /// `None`: RPCs of the health service are forwarded, too.
    pub(super) health: Option<OwnHealth>,
}

/// An RPC in flight. Counted until dropped.
pub(super) struct Admitted(Arc<Shared>);

impl Shared {
    /// Admits one more RPC, or returns `None` at the limit.
    pub(super) fn admit(self: &Arc<Self>) -> Option<Admitted> {
        // Counted before the check, so that concurrent calls cannot exceed the limit.
        let admitted = Admitted(Arc::clone(self));
        (self.rpcs.fetch_add(1, Ordering::Relaxed) < self.options.max_rpcs).then_some(admitted)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.rpcs.fetch_sub(1, Ordering::Relaxed);
    }
}
