//! The counters of one method.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use hotpick::call::{AttemptKind, AttemptRecord, CallRecord, DelayType};
use tonic::Code;

use super::histogram::{COARSE_LATENCY_BOUNDS, Histogram, HistogramReading, SIZE_BOUNDS};
use super::slots::Slots;

/// Number of status codes.
const CODES: usize = 17;
/// Upper bounds of numbers of retries (gRFC A96).
const COUNT_BOUNDS: [u64; 5] = [1, 2, 3, 4, 5];

type Latency = Histogram<15>;
type Size = Histogram<5>;

/// What is counted of the RPCs of one method. What did not happen takes no memory. A client can choose methods and, by
/// cancellations and deadlines, codes: histograms beyond the number of slots are those of [`Slots::other`].
#[derive(Debug, Default)]
pub(super) struct MethodCalls {
    /// `None`: without a limit.
    slots: Option<Arc<Slots>>,
    started: [AtomicU64; 4],
    attempts: [OnceLock<Box<Ends>>; CODES],
    calls: [OnceLock<Box<Latency>>; CODES],
    /// RPCs that a proxy has served.
    served: AtomicU64,
    server: [OnceLock<Box<Ends>>; CODES],
    rare: OnceLock<Box<Rare>>,
}

/// How attempts, or RPCs served, ended.
#[derive(Debug)]
struct Ends {
    duration: Latency,
    sent: Size,
    received: Size,
}

/// What happens to few RPCs.
#[derive(Debug)]
struct Rare {
    resolving: Latency,
    /// By [`DelayType`], in the order of [`DelayType::ALL`].
    delays: [Latency; DelayType::ALL.len()],
    retry_delay: Latency,
    retries: Histogram<5>,
    transparent_retries: Histogram<5>,
    hedges: Histogram<5>,
}

/// A reading of one method's counters.
#[derive(Debug, Default)]
pub(crate) struct MethodReading {
    /// Attempts that were started, by their kind.
    pub(crate) started: Vec<(AttemptKind, u64)>,
    pub(crate) attempts: Vec<AttemptReading>,
    /// Durations of RPCs.
    pub(crate) calls: Vec<(Code, HistogramReading)>,
    pub(crate) server: ServerReading,
    /// Delays of RPCs, by type.
    pub(crate) call_delays: Vec<(DelayType, HistogramReading)>,
    /// Delays of attempts, by type.
    pub(crate) attempt_delays: Vec<(DelayType, HistogramReading)>,
    pub(crate) retry_delay: Option<HistogramReading>,
    /// Retries, transparent retries and hedges of one RPC.
    pub(crate) counts: Vec<(&'static str, HistogramReading)>,
}

/// RPCs that a proxy has served.
#[derive(Debug, Default)]
pub(crate) struct ServerReading {
    pub(crate) started: u64,
    pub(crate) ends: Vec<AttemptReading>,
}

/// Attempts, or RPCs served, that ended with one code.
#[derive(Debug)]
pub(crate) struct AttemptReading {
    pub(crate) code: Code,
    pub(crate) duration: HistogramReading,
    pub(crate) sent: HistogramReading,
    pub(crate) received: HistogramReading,
}

const KINDS: [AttemptKind; 4] =
    [AttemptKind::Original, AttemptKind::Retry, AttemptKind::Hedge, AttemptKind::TransparentRetry];

impl MethodCalls {
    /// Counts within these slots.
    pub(super) fn within(slots: &Arc<Slots>) -> Self {
        Self { slots: Some(Arc::clone(slots)), ..Self::default() }
    }

    /// Returns histograms of this method; those of all other methods if they are new and no slot is left.
    fn slot<T>(&self, of: impl Fn(&Self) -> &OnceLock<Box<T>>, new: impl Fn() -> Box<T>) -> &T {
        if let Some(known) = of(self).get() {
            return known;
        }
        match &self.slots {
            Some(slots) if !slots.take() => of(&slots.other).get_or_init(new),
            _ => of(self).get_or_init(new),
        }
    }

    pub(super) fn attempt_started(&self, kind: AttemptKind) {
        let at = KINDS.iter().position(|known| *known == kind).unwrap_or_default();
        self.started[at].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn call_started(&self, is_served: bool) {
        if is_served {
            self.served.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn ended(&self, record: &CallRecord<'_>) {
        for attempt in record.attempts {
            self.attempt_ended(attempt);
        }
        let new = || Box::new(Latency::new(&COARSE_LATENCY_BOUNDS));
        self.slot(|calls| &calls.calls[at(record.code)], new).record_time(record.duration);
        if record.call.peer.is_some() {
            let ends = self.slot(|calls| &calls.server[at(record.code)], Ends::new);
            ends.duration.record_time(record.duration);
            // What the proxy received from the client it has sent, once, to the server that answered.
            let last = record.attempts.last();
            ends.received.record(last.map_or(0, |attempt| attempt.request.bytes));
            ends.sent.record(last.map_or(0, |attempt| attempt.response.bytes));
        }
        if record.attempts.len() > 1 || !record.resolving.is_zero() {
            self.rare(record);
        }
    }

    fn attempt_ended(&self, attempt: &AttemptRecord) {
        let code = attempt.code.unwrap_or(Code::Unknown);
        let ends = self.slot(|calls| &calls.attempts[at(code)], Ends::new);
        ends.duration.record_time(attempt.duration());
        ends.sent.record(attempt.request.bytes);
        ends.received.record(attempt.response.bytes);
        for delay in &attempt.delays {
            let rare = self.slot(|calls| &calls.rare, Rare::new);
            if let Some(at) = DelayType::ALL.iter().position(|known| *known == delay.delay) {
                rare.delays[at].record_time(delay.duration);
            }
        }
    }

    #[cold]
    fn rare(&self, record: &CallRecord<'_>) {
        let rare = self.slot(|calls| &calls.rare, Rare::new);
        if !record.resolving.is_zero() {
            rare.resolving.record_time(record.resolving);
        }
        if !record.retry_delay.is_zero() {
            rare.retry_delay.record_time(record.retry_delay);
        }
        // Zeros are not recorded (gRFC A96).
        for (kind, histogram) in [
            (AttemptKind::Retry, &rare.retries),
            (AttemptKind::TransparentRetry, &rare.transparent_retries),
            (AttemptKind::Hedge, &rare.hedges),
        ] {
            match record.count(kind) {
                0 => {}
                count => histogram.record(count as u64),
            }
        }
    }

    pub(super) fn read(&self) -> MethodReading {
        let started =
            KINDS.iter().zip(&self.started).map(|(kind, count)| (*kind, count.load(Ordering::Relaxed)));
        let calls = self.calls.iter().enumerate();
        let calls = calls.filter_map(|(number, calls)| Some((code(number), calls.get()?.read())));
        let is_known = |reading: &HistogramReading| reading.count() > 0;
        let rare = self.rare.get();
        let mut counts = Vec::new();
        if let Some(rare) = rare {
            for (name, histogram) in [
                ("retries", &rare.retries),
                ("transparent_retries", &rare.transparent_retries),
                ("hedges", &rare.hedges),
            ] {
                counts.push((name, histogram.read()));
            }
        }
        MethodReading {
            started: started.filter(|(_, count)| *count > 0).collect(),
            attempts: read_ends(&self.attempts),
            calls: calls.collect(),
            server: ServerReading {
                started: self.served.load(Ordering::Relaxed),
                ends: read_ends(&self.server),
            },
            call_delays: rare
                .map(|rare| (DelayType::Resolving, rare.resolving.read()))
                .filter(|(_, reading)| is_known(reading))
                .into_iter()
                .collect(),
            attempt_delays: rare.map_or_else(Vec::new, |rare| {
                let delays = DelayType::ALL.into_iter().zip(rare.delays.iter().map(Histogram::read));
                delays.filter(|(_, reading)| is_known(reading)).collect()
            }),
            retry_delay: rare.map(|rare| rare.retry_delay.read()).filter(is_known),
            counts: counts.into_iter().filter(|(_, reading)| is_known(reading)).collect(),
        }
    }
}

impl MethodReading {
    pub(super) fn is_used(&self) -> bool {
        !self.started.is_empty()
            || !self.calls.is_empty()
            || !self.attempts.is_empty()
            || self.server.started > 0
            || !self.server.ends.is_empty()
    }
}

impl Ends {
    fn new() -> Box<Self> {
        Box::new(Self {
            duration: Latency::new(&COARSE_LATENCY_BOUNDS),
            sent: Size::new(&SIZE_BOUNDS),
            received: Size::new(&SIZE_BOUNDS),
        })
    }
}

impl Rare {
    fn new() -> Box<Self> {
        let latency = || Latency::new(&COARSE_LATENCY_BOUNDS);
        let counts = || Histogram::new(&COUNT_BOUNDS);
        Box::new(Self {
            resolving: latency(),
            delays: std::array::from_fn(|_| latency()),
            retry_delay: latency(),
            retries: counts(),
            transparent_retries: counts(),
            hedges: counts(),
        })
    }
}

fn read_ends(all: &[OnceLock<Box<Ends>>; CODES]) -> Vec<AttemptReading> {
    let read = |(number, ends): (usize, &OnceLock<Box<Ends>>)| {
        let ends = ends.get()?;
        let (duration, sent, received) = (ends.duration.read(), ends.sent.read(), ends.received.read());
        Some(AttemptReading { code: code(number), duration, sent, received })
    };
    all.iter().enumerate().filter_map(read).collect()
}

const fn at(code: Code) -> usize {
    code as usize
}

fn code(at: usize) -> Code {
    Code::from_i32(i32::try_from(at).unwrap_or_default())
}
