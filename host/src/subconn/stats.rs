//! What the host counts of a subconn. It lives as long as the subconn, whatever policies come and go.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The counters, all relaxed: each is exact, but two read together may differ by an RPC.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    dials: AtomicU64,
    in_flight: AtomicU32,
    picked: AtomicU64,
    succeeded: AtomicU64,
    failed: AtomicU64,
}

/// A reading of a subconn's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubConnStats {
    /// Connections attempted.
    pub dials: u64,
    /// Connections that take RPCs.
    pub connections: usize,
    /// How many streams the peer allows at once on a connection (SETTINGS_MAX_CONCURRENT_STREAMS), if
    /// there is one and it has said.
    pub max_streams: Option<u32>,
    /// RPCs under way.
    pub in_flight: u32,
    /// RPCs sent, in flight or ended.
    pub picked: u64,
    /// RPCs that ended with OK.
    pub succeeded: u64,
    /// RPCs that ended in any other way, given up by the client too.
    pub failed: u64,
}

impl Stats {
    pub(super) fn dialled(&self) {
        self.dials.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> SubConnStats {
        SubConnStats {
            connections: 0,
            max_streams: None,
            dials: self.dials.load(Ordering::Relaxed),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            picked: self.picked.load(Ordering::Relaxed),
            succeeded: self.succeeded.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }

    pub(super) fn begin(&self) {
        self.picked.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self, ok: bool) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let outcome = if ok { &self.succeeded } else { &self.failed };
        outcome.fetch_add(1, Ordering::Relaxed);
    }

    /// The RPC never left.
    pub(super) fn unsend(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.picked.fetch_sub(1, Ordering::Relaxed);
    }
}
