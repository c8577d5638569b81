//! Statistics of a subconn. They live as long as the subconn, even when the policy is replaced.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

/// Time constant of the averages: after this time, earlier samples weigh 1/e.
const MEMORY: Duration = Duration::from_secs(10);

/// Counters of a subconn. All are relaxed: each is exact, but two that are read together may differ by one RPC.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    dials: AtomicU64,
    in_flight: AtomicU32,
    picked: AtomicU64,
    succeeded: AtomicU64,
    failed: AtomicU64,
    cancelled: AtomicU64,
    responses: Responses,
    averages: Mutex<Averages>,
}

/// Counters of when responses begin. They are sums: a reader takes the difference of two readings.
#[derive(Debug, Default)]
struct Responses {
    /// RPCs in flight whose response has begun.
    responding: AtomicU32,
    /// Start of the first RPC since the last one was answered or given up (nanoseconds since [`CLOCK`]); 0 if there is
    /// none. Older RPCs do not count: the server has answered others since, so it is not the server that is silent.
    waiting: AtomicU64,
    begun: AtomicU64,
    waited: AtomicU64,
    abandoned: AtomicU64,
    abandoned_after: AtomicU64,
    ended: AtomicU64,
    faulty: AtomicU64,
}

/// Origin of times that are stored in an atomic. Earlier than any measured time.
static CLOCK: LazyLock<Instant> = LazyLock::new(|| {
    let now = Instant::now();
    now.checked_sub(Duration::from_secs(3_600)).unwrap_or(now)
});

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns nanoseconds since [`CLOCK`]. Never 0, which stands for no time.
fn on_clock(at: Instant) -> u64 {
    nanos(at.saturating_duration_since(*CLOCK)).saturating_add(1)
}

/// A reading of when the responses of a subconn begin. All but the first two are sums since the subconn was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResponseStats {
    /// RPCs in flight.
    pub(crate) in_flight: u32,
    /// Time since the first RPC that was sent after the last answer; 0 if no RPC awaits its response.
    pub(crate) silence: Duration,
    /// Responses that have begun.
    pub(crate) begun: u64,
    /// Total time until these responses began (nanoseconds).
    pub(crate) waited: u64,
    /// RPCs that the client gave up before their response had begun.
    pub(crate) abandoned: u64,
    /// Total time that these RPCs had waited (nanoseconds).
    pub(crate) abandoned_after: u64,
    /// RPCs ended by the server, or by the loss of its connection.
    pub(crate) ended: u64,
    /// Those of `ended` whose status code indicates a fault of the server.
    pub(crate) faulty: u64,
}

/// Returns whether a status code indicates a fault of the server, not of the request.
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

/// Averages, exponentially weighted by time: a sample weighs more after a longer pause.
#[derive(Clone, Copy, Debug, Default)]
struct Averages {
    latency: Duration,
    failure_rate: f64,
    /// Time of the last answer.
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
        // At least 1/1000, so that each of many answers at the same moment counts.
        let silence = now.saturating_duration_since(before).max(MEMORY / 1000);
        // A series for e^x is exact enough for the age of nearly every answer, at a tenth of the time.
        let age = silence.as_secs_f64() / MEMORY.as_secs_f64();
        let weight = if age < 0.01 { age - age * age / 2.0 } else { 1.0 - libm::exp(-age) };
        let mix = |before: f64, sample: f64| before + weight * (sample - before);
        let mixed = mix(self.latency.as_secs_f64(), latency.as_secs_f64());
        self.latency = Duration::try_from_secs_f64(mixed).unwrap_or_default();
        self.failure_rate = mix(self.failure_rate, failed);
    }
}

/// A reading of a subconn's statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct SubConnStats {
    /// Attempts to connect.
    pub dials: u64,
    /// Connections that take RPCs.
    pub connections: usize,
    /// Streams that the peer allows at once on a connection (SETTINGS_MAX_CONCURRENT_STREAMS). `None`: there is no
    /// connection, or the peer has set no limit.
    pub max_streams: Option<u32>,
    /// RPCs in flight.
    pub in_flight: u32,
    /// RPCs sent, in flight or ended.
    pub picked: u64,
    /// RPCs that ended with OK.
    pub succeeded: u64,
    /// RPCs that ended with another status. Those whose deadline passed are among them.
    pub failed: u64,
    /// RPCs that this side cancelled: the caller gave up, or another attempt of the same RPC was answered first.
    pub cancelled: u64,
    /// Time from the sending of an RPC to its end (exponential moving average over about 10 s). RPCs that the client
    /// gave up do not count.
    pub latency: Duration,
    /// Fraction of RPCs that did not end with OK, from 0 to 1. Averaged like the latency.
    pub failure_rate: f64,
    /// When the subconn became READY. `None`: it is not READY.
    pub ready_since: Option<Instant>,
}

impl Counters {
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
            cancelled: self.cancelled.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn start(&self, now: Instant) {
        self.picked.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        if self.responses.waiting.load(Ordering::Relaxed) == 0 {
            self.responses.waiting.store(on_clock(now), Ordering::Relaxed);
        }
    }

    /// Records that the response of an RPC has begun.
    pub(crate) fn responded(&self, begun: Instant, now: Instant) {
        self.responses.responding.fetch_add(1, Ordering::Relaxed);
        self.responses.begins(begun, now);
    }

    /// Records the end of an RPC. `client_ended`: the client gave up, which says little about the server.
    pub(crate) fn end(&self, code: Code, client_ended: bool, responded: bool, begun: Instant, now: Instant) {
        self.gone(responded);
        let ok = code == Code::Ok;
        let outcome = match code {
            Code::Ok => &self.succeeded,
            Code::Cancelled if client_ended => &self.cancelled,
            _ => &self.failed,
        };
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
        let Responses { responding, waiting, begun, waited, abandoned, abandoned_after, ended, faulty } =
            &self.responses;
        let in_flight = self.in_flight();
        let is_awaited = in_flight > responding.load(Ordering::Relaxed);
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
        // In this order, so that a concurrent reader does not take the RPC for one that awaits its response.
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        if responded {
            self.responses.responding.fetch_sub(1, Ordering::Relaxed);
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

    /// Records that the RPC was not sent.
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
        // A minute later, earlier samples have almost no weight.
        tokio::time::advance(MEMORY * 6).await;
        averages.answered(false, ms(10), Instant::now());
        assert!(averages.latency < ms(11) && averages.failure_rate > 0.99, "{averages:?}");
        // One of many answers at the same moment moves the average by a thousandth.
        averages.answered(true, ms(1010), Instant::now());
        assert!(averages.latency > ms(10) && averages.latency < ms(13), "{averages:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_that_of_rpcs_that_began_after_the_last_answer() {
        let (stats, ms) = (Counters::default(), Duration::from_millis);
        let begin = || {
            stats.start(Instant::now());
            Instant::now()
        };
        let silence = || stats.responses().silence;
        // A stream without a message for an hour.
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
