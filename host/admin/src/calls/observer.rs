//! The observer that counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hotpick::call::{AttemptRecord, Call, CallObserver, CallRecord, CallWatcher, MethodNames, Methods};
use tonic::Code;

use super::histogram::{Histogram, HistogramReading, LATENCY_BOUNDS};
use super::method::{MethodCalls, MethodReading};
use super::slots::Slots;
use crate::tap::Tap;

/// Counts the RPCs of one channel. Cheap to clone; clones count together.
///
/// Give a clone to the channel's builder, and another one to [`AdminBuilder::channel`](crate::AdminBuilder::channel).
#[derive(Clone, Debug)]
pub struct Calls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    methods: Methods<MethodCalls>,
    slots: Arc<Slots>,
    started: AtomicU64,
    ended: AtomicU64,
    failed: AtomicU64,
    cancelled: AtomicU64,
    duration: Histogram<41>,
    tap: Tap,
}

/// Totals of a channel's RPCs.
#[derive(Clone, Debug)]
pub(crate) struct Totals {
    pub(crate) started: u64,
    pub(crate) ended: u64,
    /// Those that ended with another code than OK and CANCELLED.
    pub(crate) failed: u64,
    /// Those that ended with CANCELLED.
    pub(crate) cancelled: u64,
    pub(crate) duration: HistogramReading,
}

impl Calls {
    /// Creates counters, by these methods.
    #[must_use]
    pub fn new(methods: MethodNames) -> Self {
        let slots = Arc::new(Slots::of(&methods));
        let theirs = Arc::clone(&slots);
        Self(Arc::new(Inner {
            methods: Methods::new(methods, move |_| MethodCalls::within(&theirs)),
            slots,
            started: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            duration: Histogram::new(&LATENCY_BOUNDS),
            tap: Tap::default(),
        }))
    }

    pub(crate) fn tap(&self) -> &Tap {
        &self.0.tap
    }

    pub(crate) fn read(&self) -> Vec<(String, MethodReading)> {
        let mut all = self.0.methods.read(MethodCalls::read);
        all.push((Methods::<MethodCalls>::OTHER.to_owned(), self.0.slots.other.read()));
        all.retain(|(_, reading)| reading.is_used());
        all
    }

    pub(crate) fn totals(&self) -> Totals {
        // In this order, so that no more have ended than started.
        let ended = self.0.ended.load(Ordering::Acquire);
        Totals {
            ended,
            failed: self.0.failed.load(Ordering::Relaxed),
            cancelled: self.0.cancelled.load(Ordering::Relaxed),
            duration: self.0.duration.read(),
            started: self.0.started.load(Ordering::Relaxed),
        }
    }
}

impl Default for Calls {
    fn default() -> Self {
        Self::new(MethodNames::default())
    }
}

impl CallObserver for Calls {
    fn call_started(&self, call: &Call, _metadata: &http::HeaderMap) -> Option<Box<dyn CallWatcher>> {
        self.0.started.fetch_add(1, Ordering::Relaxed);
        if call.peer.is_some() {
            self.0.methods.with(call.method(), |calls| calls.call_started(true));
        }
        None
    }

    fn attempt_started(&self, call: &Call, attempt: &AttemptRecord) {
        self.0.methods.with(call.method(), |calls| calls.attempt_started(attempt.kind));
    }

    fn call_ended(&self, record: &CallRecord<'_>) {
        self.0.methods.with(record.call.method(), |calls| calls.ended(record));
        match record.code {
            Code::Ok => {}
            Code::Cancelled => _ = self.0.cancelled.fetch_add(1, Ordering::Relaxed),
            _ => _ = self.0.failed.fetch_add(1, Ordering::Relaxed),
        }
        self.0.duration.record_time(record.duration);
        self.0.ended.fetch_add(1, Ordering::Release);
        self.0.tap.ended(record);
    }
}
