//! What the host counts of a subconn. It lives as long as the subconn, whatever policies come and go.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How fast an average forgets: after so long, what was before weighs 1/e.
const MEMORY: Duration = Duration::from_secs(10);

/// The counters, all relaxed: each is exact, but two read together may differ by an RPC.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    dials: AtomicU64,
    in_flight: AtomicU32,
    picked: AtomicU64,
    succeeded: AtomicU64,
    failed: AtomicU64,
    averages: Mutex<Averages>,
}

/// The connections of a channel, over all of its subconns since it began (gRFC A94).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connections {
    /// Attempts that led to one.
    pub attempts_succeeded: u64,
    /// Attempts that did not.
    pub attempts_failed: u64,
    /// Those that are open.
    pub open: u64,
    /// Those that have ended, by why: `GOAWAY` with its code, `connection lost`, or `subchannel shutdown`
    /// for those that the channel gave up.
    pub disconnections: BTreeMap<String, u64>,
}

/// What the subconns of a channel count together.
#[derive(Debug, Default)]
pub(crate) struct ConnectionCounters(Mutex<Connections>);

impl ConnectionCounters {
    pub(crate) fn read(&self) -> Connections {
        self.lock().clone()
    }

    pub(super) fn failed(&self) {
        self.lock().attempts_failed += 1;
    }

    pub(super) fn opened(self: &Arc<Self>) -> OpenConnection {
        let mut connections = self.lock();
        connections.attempts_succeeded += 1;
        connections.open += 1;
        OpenConnection { counters: Arc::clone(self), end: None }
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that is counted as open until this is dropped.
#[derive(Debug)]
pub(super) struct OpenConnection {
    counters: Arc<ConnectionCounters>,
    end: Option<String>,
}

impl OpenConnection {
    /// Why it ends, if not because it was given up.
    pub(super) fn ends(&mut self, why: String) {
        self.end = Some(why);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let mut connections = self.counters.lock();
        connections.open = connections.open.saturating_sub(1);
        let why = self.end.take().unwrap_or_else(|| "subchannel shutdown".to_owned());
        *connections.disconnections.entry(why).or_default() += 1;
    }
}

/// Exponentially weighted by time: an answer counts for more the longer there was none.
#[derive(Clone, Copy, Debug, Default)]
struct Averages {
    latency: Duration,
    failure_rate: f64,
    /// Of the last answer.
    at: Option<Instant>,
    ready_since: Option<Instant>,
}

impl Averages {
    fn answered(&mut self, ok: bool, latency: Duration, now: Instant) {
        let failed = f64::from(u8::from(!ok));
        let Some(before) = self.at.replace(now) else {
            (self.latency, self.failure_rate) = (latency, failed);
            return;
        };
        // Of many answers at the same moment each must count.
        let silence = now.saturating_duration_since(before).max(MEMORY / 1000);
        // Of e^x, for the x of nearly every answer: it costs a tenth.
        let age = silence.as_secs_f64() / MEMORY.as_secs_f64();
        let weight = if age < 0.01 { age - age * age / 2.0 } else { 1.0 - (-age).exp() };
        let mix = |before: f64, sample: f64| before + weight * (sample - before);
        let mixed = mix(self.latency.as_secs_f64(), latency.as_secs_f64());
        self.latency = Duration::try_from_secs_f64(mixed).unwrap_or_default();
        self.failure_rate = mix(self.failure_rate, failed);
    }
}

/// A reading of a subconn's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
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
    /// How long RPCs took, from when they were sent to their end; exponentially weighted over some 10 s.
    /// Those that the client gave up do not count.
    pub latency: Duration,
    /// The part of RPCs that did not end with OK, 0 to 1, weighted like the latency.
    pub failure_rate: f64,
    /// Since when the subconn is READY; none if it is not.
    pub ready_since: Option<Instant>,
}

impl Stats {
    pub(super) fn dialled(&self) {
        self.dials.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> SubConnStats {
        let averages = *self.averages();
        SubConnStats {
            latency: averages.latency,
            failure_rate: averages.failure_rate,
            ready_since: averages.ready_since,
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

    /// `client_ended`: the client gave up, which says little of the server.
    pub(super) fn end(&self, ok: bool, client_ended: bool, begun: Instant, now: Instant) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let outcome = if ok { &self.succeeded } else { &self.failed };
        outcome.fetch_add(1, Ordering::Relaxed);
        if !client_ended {
            self.averages().answered(ok, now.saturating_duration_since(begun), now);
        }
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn ready(&self, ready: bool) {
        let mut averages = self.averages();
        match averages.ready_since {
            Some(_) if ready => {}
            _ => averages.ready_since = ready.then(Instant::now),
        }
    }

    fn averages(&self) -> MutexGuard<'_, Averages> {
        self.averages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The RPC never left.
    pub(super) fn unsend(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.picked.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn averages_follow_what_is_new_and_forget_by_time() {
        let mut averages = Averages::default();
        let ms = Duration::from_millis;
        averages.answered(true, ms(100), Instant::now());
        assert_eq!((averages.latency, averages.failure_rate), (ms(100), 0.0));
        // A minute later what was before is all but forgotten.
        tokio::time::advance(MEMORY * 6).await;
        averages.answered(false, ms(10), Instant::now());
        assert!(averages.latency < ms(11) && averages.failure_rate > 0.99, "{averages:?}");
        // One of many in the same moment moves it by a thousandth.
        averages.answered(true, ms(1010), Instant::now());
        assert!(averages.latency > ms(10) && averages.latency < ms(13), "{averages:?}");
    }
}
