//! Metrics of gRFCs A66, A94, A96 and A121.

use std::sync::{Arc, Mutex, PoisonError};

use hotpick::call::{
    AttemptKind, AttemptRecord, Call, CallObserver, CallRecord, CallWatcher, MethodNames, Methods, code_name,
};
use hotpick::{Channel, PolicyDir};
use http::HeaderMap;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Counter, Histogram, Meter};

/// Upper bounds of latencies, in seconds (gRFC A66).
const LATENCIES: [f64; 41] = [
    0.0, 0.00001, 0.00005, 0.0001, 0.0003, 0.0006, 0.0008, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008,
    0.01, 0.013, 0.016, 0.02, 0.025, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.4,
    0.5, 0.65, 0.8, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0,
];
/// Upper bounds of sizes, in bytes (gRFC A66).
const SIZES: [f64; 14] = [
    0.0,
    1024.0,
    2048.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
    1_073_741_824.0,
    4_294_967_296.0,
];
/// Upper bounds of numbers of retries (gRFC A96).
const COUNTS: [f64; 5] = [1.0, 2.0, 3.0, 4.0, 5.0];

/// Records the metrics of channels: an observer of their RPCs. Cheap to clone; clones share the instruments.
///
/// RPCs of clients of a [`Proxy`](hotpick::proxy::Proxy) are recorded as `grpc.server.*` as well.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    meter: Meter,
    instruments: Instruments,
    names: Methods<Arc<str>>,
    followed: Arc<Mutex<Vec<Channel>>>,
}

struct Instruments {
    attempt_started: Counter<u64>,
    attempt: Ends,
    call_duration: Histogram<f64>,
    call_delay: Histogram<f64>,
    attempt_delay: Histogram<f64>,
    retries: Histogram<u64>,
    transparent_retries: Histogram<u64>,
    hedges: Histogram<u64>,
    retry_delay: Histogram<f64>,
    server_started: Counter<u64>,
    server: Ends,
}

/// Instruments of attempts, or of RPCs served, that have ended.
struct Ends {
    duration: Histogram<f64>,
    sent: Histogram<u64>,
    received: Histogram<u64>,
}

impl Metrics {
    /// Creates the instruments. The first 200 methods have metrics of their own, the others share the name `other`.
    #[must_use]
    pub fn new(meter: &Meter) -> Self {
        Self::with_methods(meter, MethodNames::default())
    }

    /// Creates the instruments, with metrics of their own for these methods.
    #[must_use]
    pub fn with_methods(meter: &Meter, names: MethodNames) -> Self {
        let followed = Arc::<Mutex<Vec<Channel>>>::default();
        observe_connections(meter, &followed);
        let names = Methods::new(names, |name| Arc::from(name));
        let instruments = Instruments::new(meter);
        Self(Arc::new(Inner { meter: meter.clone(), instruments, names, followed }))
    }

    /// Reports the connections of this channel, too (gRFC A94). Holds the channel open.
    pub fn follow(&self, channel: &Channel) {
        self.0.followed.lock().unwrap_or_else(PoisonError::into_inner).push(channel.clone());
    }

    /// Reports the policies of this directory, too, as `hotpick.policy.*`; of the instruments that policies declare
    /// themselves, the counters and gauges. Holds the directory open. Call it once for each directory.
    pub fn follow_policies(&self, policies: &PolicyDir) {
        crate::policies::observe(&self.0.meter, policies);
    }

    fn method(&self, call: &Call) -> KeyValue {
        KeyValue::new("grpc.method", self.0.names.with(call.method(), Arc::clone))
    }
}

impl Instruments {
    fn new(meter: &Meter) -> Self {
        let seconds = |name: &'static str, help: &'static str| {
            meter
                .f64_histogram(name)
                .with_unit("s")
                .with_description(help)
                .with_boundaries(LATENCIES.to_vec())
                .build()
        };
        let bytes = |name: &'static str, help: &'static str| {
            meter
                .u64_histogram(name)
                .with_unit("By")
                .with_description(help)
                .with_boundaries(SIZES.to_vec())
                .build()
        };
        let counts = |name: &'static str, unit: &'static str, help: &'static str| {
            meter
                .u64_histogram(name)
                .with_unit(unit)
                .with_description(help)
                .with_boundaries(COUNTS.to_vec())
                .build()
        };
        let counter = |name: &'static str, unit: &'static str, help: &'static str| {
            meter.u64_counter(name).with_unit(unit).with_description(help).build()
        };
        Self {
            attempt_started: counter("grpc.client.attempt.started", "{attempt}", "RPC attempts started"),
            attempt: Ends {
                duration: seconds(
                    "grpc.client.attempt.duration",
                    "Duration of an RPC attempt, with the pick",
                ),
                sent: bytes(
                    "grpc.client.attempt.sent_total_compressed_message_size",
                    "Size of the messages sent in an RPC attempt",
                ),
                received: bytes(
                    "grpc.client.attempt.rcvd_total_compressed_message_size",
                    "Size of the messages received in an RPC attempt",
                ),
            },
            call_duration: seconds(
                "grpc.client.call.duration",
                "Duration of an RPC, with all of its attempts",
            ),
            call_delay: seconds(
                "grpc.client.call.delay.duration",
                "Time that an RPC waited before its first attempt",
            ),
            attempt_delay: seconds(
                "grpc.client.attempt.delay.duration",
                "Time that an RPC attempt waited before it was sent",
            ),
            retries: counts("grpc.client.call.retries", "{retry}", "Retries of an RPC, if there were any"),
            transparent_retries: counts(
                "grpc.client.call.transparent_retries",
                "{transparent_retry}",
                "Transparent retries of an RPC, if there were any",
            ),
            hedges: counts("grpc.client.call.hedges", "{hedge}", "Hedges of an RPC, if there were any"),
            retry_delay: seconds(
                "grpc.client.call.retry_delay",
                "Time of an RPC during which no attempt was active",
            ),
            server_started: counter(
                "grpc.server.call.started",
                "{call}",
                "RPCs of clients of the proxy that were started",
            ),
            server: Ends {
                duration: seconds("grpc.server.call.duration", "Duration of an RPC of a client of the proxy"),
                sent: bytes(
                    "grpc.server.call.sent_total_compressed_message_size",
                    "Size of the messages sent to a client of the proxy in an RPC",
                ),
                received: bytes(
                    "grpc.server.call.rcvd_total_compressed_message_size",
                    "Size of the messages received from a client of the proxy in an RPC",
                ),
            },
        }
    }
}

impl Ends {
    fn record(&self, seconds: f64, sent: u64, received: u64, labels: &[KeyValue]) {
        self.duration.record(seconds, labels);
        self.sent.record(sent, labels);
        self.received.record(received, labels);
    }
}

/// Creates the instruments of gRFC A94, which are read when metrics are collected.
fn observe_connections(meter: &Meter, followed: &Arc<Mutex<Vec<Channel>>>) {
    let each = |followed: &Arc<Mutex<Vec<Channel>>>| {
        let followed = Arc::clone(followed);
        move |observe: &mut dyn FnMut(&hotpick::channel::ChannelStatus, KeyValue)| {
            for channel in followed.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                let status = channel.status();
                let target = KeyValue::new("grpc.target", status.target.clone());
                observe(&status, target);
            }
        }
    };
    let counter = |name: &'static str,
                   help: &'static str,
                   value: fn(&hotpick::channel::ChannelStatus) -> u64| {
        let each = each(followed);
        let read = move |instrument: &dyn AsyncInstrument<u64>| {
            each(&mut |status, target| instrument.observe(value(status), &[target]));
        };
        let unit = if name.ends_with("attempts_failed") || name.ends_with("attempts_succeeded") {
            "{attempt}"
        } else {
            "{connection}"
        };
        meter.u64_observable_counter(name).with_unit(unit).with_description(help).with_callback(read).build();
    };
    counter(
        "grpc.subchannel.connection_attempts_succeeded",
        "Connection attempts that succeeded",
        |status| status.connections.attempts_succeeded,
    );
    counter("grpc.subchannel.connection_attempts_failed", "Connection attempts that failed", |status| {
        status.connections.attempts_failed
    });
    let each_disconnection = each(followed);
    meter
        .u64_observable_counter("grpc.subchannel.disconnections")
        .with_unit("{disconnection}")
        .with_description("Connections that have ended, by reason")
        .with_callback(move |instrument| {
            each_disconnection(&mut |status, target| {
                for (reason, count) in &status.connections.disconnections {
                    let reason = KeyValue::new("grpc.disconnect_error", reason.clone());
                    instrument.observe(*count, &[target.clone(), reason]);
                }
            });
        })
        .build();
    let each_open = each(followed);
    meter
        .u64_observable_gauge("grpc.subchannel.open_connections")
        .with_unit("{connection}")
        .with_description("Number of open connections")
        .with_callback(move |instrument| {
            each_open(&mut |status, target| instrument.observe(status.connections.open, &[target]));
        })
        .build();
}

impl CallObserver for Metrics {
    fn call_started(&self, call: &Call, _metadata: &HeaderMap) -> Option<Box<dyn CallWatcher>> {
        if call.peer.is_some() {
            self.0.instruments.server_started.add(1, &[self.method(call)]);
        }
        None
    }

    fn attempt_started(&self, call: &Call, attempt: &AttemptRecord) {
        let kind = KeyValue::new("grpc.attempt_type", attempt.kind.name());
        self.0.instruments.attempt_started.add(1, &[self.method(call), target(call), kind]);
    }

    fn attempt_ended(&self, call: &Call, attempt: &AttemptRecord) {
        let status = KeyValue::new("grpc.status", attempt.code.map_or("UNKNOWN", code_name));
        let (method, target) = (self.method(call), target(call));
        let instruments = &self.0.instruments;
        for delay in &attempt.delays {
            let kind = KeyValue::new("grpc.delay_type", delay.delay.name());
            let labels = [method.clone(), target.clone(), kind];
            instruments.attempt_delay.record(delay.duration.as_secs_f64(), &labels);
        }
        let (sent, received) = (attempt.request.bytes, attempt.response.bytes);
        instruments.attempt.record(
            attempt.duration().as_secs_f64(),
            sent,
            received,
            &[method, target, status],
        );
    }

    fn call_ended(&self, record: &CallRecord<'_>) {
        let call = record.call;
        let status = KeyValue::new("grpc.status", code_name(record.code));
        let (method, target) = (self.method(call), target(call));
        let instruments = &self.0.instruments;
        let seconds = record.duration.as_secs_f64();
        instruments.call_duration.record(seconds, &[method.clone(), target.clone(), status.clone()]);
        if call.peer.is_some() {
            let last = record.attempts.last();
            let sent = last.map_or(0, |attempt| attempt.response.bytes);
            let received = last.map_or(0, |attempt| attempt.request.bytes);
            instruments.server.record(seconds, sent, received, &[method.clone(), status]);
        }
        if !record.resolving.is_zero() {
            let kind = KeyValue::new("grpc.delay_type", "resolving");
            let labels = [method.clone(), target.clone(), kind];
            instruments.call_delay.record(record.resolving.as_secs_f64(), &labels);
        }
        if record.attempts.len() < 2 {
            return;
        }
        let labels = [method, target];
        // Zeros are not recorded (gRFC A96).
        for (kind, histogram) in [
            (AttemptKind::Retry, &instruments.retries),
            (AttemptKind::TransparentRetry, &instruments.transparent_retries),
            (AttemptKind::Hedge, &instruments.hedges),
        ] {
            match record.count(kind) {
                0 => {}
                count => histogram.record(count as u64, &labels),
            }
        }
        if !record.retry_delay.is_zero() {
            instruments.retry_delay.record(record.retry_delay.as_secs_f64(), &labels);
        }
    }
}

fn target(call: &Call) -> KeyValue {
    KeyValue::new("grpc.target", Arc::clone(&call.target))
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}
