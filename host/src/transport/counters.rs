//! Counters of a channel's connections (gRFC A94).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The connections of a channel, over all of its subconns since it was created (gRFC A94).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionStats {
    /// Attempts that led to a connection.
    pub attempts_succeeded: u64,
    /// Attempts that did not.
    pub attempts_failed: u64,
    /// Open connections.
    pub open: u64,
    /// Connections that have ended, by reason: `GOAWAY` with its code, `connection lost`, or `subchannel
    /// shutdown` for those that the channel gave up.
    pub disconnections: BTreeMap<String, u64>,
}

/// The counters behind [`ConnectionStats`].
#[derive(Debug, Default)]
pub(crate) struct ConnectionCounters(Mutex<ConnectionStats>);

impl ConnectionCounters {
    pub(crate) fn read(&self) -> ConnectionStats {
        self.lock().clone()
    }

    pub(super) fn failed(&self) {
        self.lock().attempts_failed += 1;
    }

    pub(super) fn opened(self: &Arc<Self>) -> OpenConnection {
        let mut stats = self.lock();
        stats.attempts_succeeded += 1;
        stats.open += 1;
        OpenConnection { counters: Arc::clone(self), end: None }
    }

    fn lock(&self) -> MutexGuard<'_, ConnectionStats> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a connection as open until it is dropped.
#[derive(Debug)]
pub(super) struct OpenConnection {
    counters: Arc<ConnectionCounters>,
    end: Option<String>,
}

impl OpenConnection {
    /// Sets the reason of the end. Without one the channel has given up the connection.
    pub(super) fn ends(&mut self, reason: String) {
        self.end = Some(reason);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let mut stats = self.counters.lock();
        stats.open = stats.open.saturating_sub(1);
        let reason = self.end.take().unwrap_or_else(|| "subchannel shutdown".to_owned());
        *stats.disconnections.entry(reason).or_default() += 1;
    }
}
