//! What the host counts of a subconn. It lives as long as the subconn, whatever policies come and go.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

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
    responses: Responses,
    averages: Mutex<Averages>,
}

/// When responses begin. Sums, of which whoever reads them twice has the change between.
#[derive(Debug, Default)]
struct Responses {
    /// RPCs under way whose response has begun.
    under_way: AtomicU32,
    /// When the first RPC began since the last one was answered or given up; 0 if none has. In nanoseconds of [`CLOCK`].
    /// One that is older says something of what it asks for, and not of the server, which has answered others since.
    waiting: AtomicU64,
    begun: AtomicU64,
    waited: AtomicU64,
    abandoned: AtomicU64,
    abandoned_after: AtomicU64,
    ended: AtomicU64,
    faulty: AtomicU64,
}

/// What an atomic has in place of an instant: the time since this. Earlier than anything that is measured.
static CLOCK: LazyLock<Instant> = LazyLock::new(|| {
    let now = Instant::now();
    now.checked_sub(Duration::from_secs(3_600)).unwrap_or(now)
});

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Never 0, which is no time.
fn on_clock(at: Instant) -> u64 {
    nanos(at.saturating_duration_since(*CLOCK)).saturating_add(1)
}

/// A reading of when the responses of a subconn begin: sums since it is there, but for the first two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResponseStats {
    /// RPCs under way.
    pub(crate) in_flight: u32,
    /// For how long nothing has come of the RPCs that have begun since the last answer.
    pub(crate) silence: Duration,
    /// Responses that have begun.
    pub(crate) begun: u64,
    /// How long these were awaited, all together, in nanoseconds.
    pub(crate) waited: u64,
    /// RPCs that the client gave up before their response had begun.
    pub(crate) abandoned: u64,
    /// How long these had waited, all together, in nanoseconds.
    pub(crate) abandoned_after: u64,
    /// RPCs that the server has ended, or the loss of its connection.
    pub(crate) ended: u64,
    /// Those of them whose status says that something is wrong with the server.
    pub(crate) faulty: u64,
}

/// The statuses that say more of the server than of the request.
const fn is_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Internal
            | Code::Unknown
            | Code::DataLoss
            | Code::ResourceExhausted
            | Code::Unimplemented
    )
}

impl Responses {
    fn begins(&self, begun: Instant, now: Instant) {
        self.waiting.store(0, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.waited.fetch_add(nanos(now.saturating_duration_since(begun)), Ordering::Relaxed);
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
    pub(crate) fn dialled(&self) {
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

    pub(crate) fn start(&self, now: Instant) {
        self.picked.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        if self.responses.waiting.load(Ordering::Relaxed) == 0 {
            self.responses.waiting.store(on_clock(now), Ordering::Relaxed);
        }
    }

    /// The response of an RPC begins.
    pub(crate) fn responded(&self, begun: Instant, now: Instant) {
        self.responses.under_way.fetch_add(1, Ordering::Relaxed);
        self.responses.begins(begun, now);
    }

    /// `client_ended`: the client gave up, which says little of the server.
    pub(crate) fn end(&self, code: Code, client_ended: bool, responded: bool, begun: Instant, now: Instant) {
        self.gone(responded);
        let ok = code == Code::Ok;
        let outcome = if ok { &self.succeeded } else { &self.failed };
        outcome.fetch_add(1, Ordering::Relaxed);
        let responses = &self.responses;
        match (responded, client_ended) {
            (true, _) => {}
            (false, true) => {
                responses.waiting.store(0, Ordering::Relaxed);
                responses.abandoned.fetch_add(1, Ordering::Relaxed);
                let waited = nanos(now.saturating_duration_since(begun));
                responses.abandoned_after.fetch_add(waited, Ordering::Relaxed);
            }
            (false, false) => responses.begins(begun, now),
        }
        if !client_ended {
            responses.ended.fetch_add(1, Ordering::Relaxed);
            responses.faulty.fetch_add(is_fault(code).into(), Ordering::Relaxed);
            self.averages().answered(ok, now.saturating_duration_since(begun), now);
        }
    }

    pub(crate) fn responses(&self) -> ResponseStats {
        let Responses { under_way, waiting, begun, waited, abandoned, abandoned_after, ended, faulty } =
            &self.responses;
        let in_flight = self.in_flight();
        let is_awaited = in_flight > under_way.load(Ordering::Relaxed);
        let since = waiting.load(Ordering::Relaxed);
        let silence =
            if is_awaited && since > 0 { on_clock(Instant::now()).saturating_sub(since) } else { 0 };
        ResponseStats {
            in_flight,
            silence: Duration::from_nanos(silence),
            begun: begun.load(Ordering::Relaxed),
            waited: waited.load(Ordering::Relaxed),
            abandoned: abandoned.load(Ordering::Relaxed),
            abandoned_after: abandoned_after.load(Ordering::Relaxed),
            ended: ended.load(Ordering::Relaxed),
            faulty: faulty.load(Ordering::Relaxed),
        }
    }

    fn gone(&self, responded: bool) {
        // In this order: who looks between them must not take it for one that is awaited.
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        if responded {
            self.responses.under_way.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(crate) fn set_ready(&self, ready: bool) {
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
    pub(crate) fn not_sent(&self, responded: bool) {
        self.gone(responded);
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

    #[tokio::test(start_paused = true)]
    async fn silence_is_that_of_rpcs_that_began_after_the_last_answer() {
        let (stats, ms) = (Stats::default(), Duration::from_millis);
        let begin = || {
            stats.start(Instant::now());
            Instant::now()
        };
        let silence = || stats.responses().silence;
        // A stream that says nothing for an hour.
        let stream = begin();
        tokio::time::advance(ms(5)).await;
        assert_eq!(silence(), ms(5));
        let first = begin();
        tokio::time::advance(ms(10)).await;
        stats.end(Code::Unavailable, false, false, first, Instant::now());
        tokio::time::advance(ms(3_600_000)).await;
        assert_eq!(silence(), ms(0), "others are answered");
        let second = begin();
        tokio::time::advance(ms(1)).await;
        begin();
        tokio::time::advance(ms(1)).await;
        assert_eq!(silence(), ms(2));
        stats.end(Code::Cancelled, true, false, second, Instant::now());
        assert_eq!(silence(), ms(0));
        stats.not_sent(false);
        stats.responded(stream, Instant::now());
        stats.end(Code::Ok, false, true, stream, Instant::now());
        let ms = 1_000_000;
        assert_eq!(
            stats.responses(),
            ResponseStats {
                in_flight: 0,
                silence: Duration::ZERO,
                begun: 2,
                waited: (3_600_017 + 10) * ms,
                abandoned: 1,
                abandoned_after: 2 * ms,
                ended: 2,
                faulty: 1,
            }
        );
    }
}
