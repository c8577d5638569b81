//! Metrics of RPCs, by the names of gRFCs A66, A96 and A121.

use std::collections::BTreeMap;
use std::fmt;

use hotpick::call::code_name;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Unit;

use crate::calls::{AttemptReading, HistogramReading, MethodReading};
use crate::subjects::Subjects;

type Labels = Vec<(&'static str, String)>;

/// The metrics of RPCs, by family and labels. Channels with the same target count together: a series must not occur twice.
#[derive(Debug, Default)]
pub(crate) struct CallMetrics {
    counters: BTreeMap<usize, BTreeMap<Labels, u64>>,
    histograms: BTreeMap<usize, BTreeMap<Labels, HistogramReading>>,
}

/// A family: its name, its unit, its description.
struct Family(&'static str, Scale, &'static str);

/// What the values of a family are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scale {
    Count,
    Seconds,
    Bytes,
}

const COUNTERS: [Family; 2] = [
    Family("grpc_client_attempt_started", Scale::Count, "RPC attempts started"),
    Family("grpc_server_call_started", Scale::Count, "RPCs of clients of the proxy that were started"),
];
const ATTEMPT_STARTED: usize = 0;
const SERVER_STARTED: usize = 1;

const HISTOGRAMS: [Family; 13] = [
    Family("grpc_client_attempt_duration", Scale::Seconds, "Duration of an RPC attempt, with the pick"),
    Family(
        "grpc_client_attempt_sent_total_compressed_message_size",
        Scale::Bytes,
        "Size of the messages sent in an RPC attempt",
    ),
    Family(
        "grpc_client_attempt_rcvd_total_compressed_message_size",
        Scale::Bytes,
        "Size of the messages received in an RPC attempt",
    ),
    Family("grpc_client_call_duration", Scale::Seconds, "Duration of an RPC, with all of its attempts"),
    Family(
        "grpc_client_call_delay_duration",
        Scale::Seconds,
        "Time that an RPC waited before its first attempt",
    ),
    Family(
        "grpc_client_attempt_delay_duration",
        Scale::Seconds,
        "Time that an RPC attempt waited before it was sent",
    ),
    Family("grpc_client_call_retries", Scale::Count, "Retries of an RPC, if there were any"),
    Family(
        "grpc_client_call_transparent_retries",
        Scale::Count,
        "Transparent retries of an RPC, if there were any",
    ),
    Family("grpc_client_call_hedges", Scale::Count, "Hedges of an RPC, if there were any"),
    Family(
        "grpc_client_call_retry_delay",
        Scale::Seconds,
        "Time of an RPC during which no attempt was active",
    ),
    Family("grpc_server_call_duration", Scale::Seconds, "Duration of an RPC of a client of the proxy"),
    Family(
        "grpc_server_call_sent_total_compressed_message_size",
        Scale::Bytes,
        "Size of the messages sent to a client of the proxy in an RPC",
    ),
    Family(
        "grpc_server_call_rcvd_total_compressed_message_size",
        Scale::Bytes,
        "Size of the messages received from a client of the proxy in an RPC",
    ),
];
const ATTEMPT: usize = 0;
const CALL_DURATION: usize = 3;
const CALL_DELAY: usize = 4;
const ATTEMPT_DELAY: usize = 5;
const RETRIES: usize = 6;
const RETRY_DELAY: usize = 9;
const SERVER: usize = 10;

impl CallMetrics {
    /// Reads the counters of all channels.
    pub(crate) fn read(subjects: &Subjects) -> Self {
        let mut all = Self::default();
        for watched in &subjects.channels {
            let target = watched.channel.status().target;
            for (method, reading) in watched.calls.read() {
                all.add(&target, &method, reading);
            }
        }
        all
    }

    fn add(&mut self, target: &str, method: &str, reading: MethodReading) {
        let of_method = vec![("grpc_method", method.to_owned())];
        let of_client = vec![("grpc_method", method.to_owned()), ("grpc_target", target.to_owned())];
        let with = |labels: &Labels, name, value: &str| {
            let mut labels = labels.clone();
            labels.push((name, value.to_owned()));
            labels
        };
        let MethodReading {
            started,
            attempts,
            calls,
            server,
            call_delays,
            attempt_delays,
            retry_delay,
            counts,
        } = reading;
        for (kind, count) in started {
            self.count(ATTEMPT_STARTED, with(&of_client, "grpc_attempt_type", kind.name()), count);
        }
        for AttemptReading { code, duration, sent, received } in attempts {
            let labels = with(&of_client, "grpc_status", code_name(code));
            for (offset, reading) in [duration, sent, received].iter().enumerate() {
                self.observe(ATTEMPT + offset, labels.clone(), reading);
            }
        }
        for (code, duration) in calls {
            self.observe(CALL_DURATION, with(&of_client, "grpc_status", code_name(code)), &duration);
        }
        for (delay, duration) in call_delays {
            self.observe(CALL_DELAY, with(&of_client, "grpc_delay_type", delay.name()), &duration);
        }
        for (delay, duration) in attempt_delays {
            self.observe(ATTEMPT_DELAY, with(&of_client, "grpc_delay_type", delay.name()), &duration);
        }
        for (name, reading) in counts {
            let offset = ["retries", "transparent_retries", "hedges"].iter().position(|known| *known == name);
            self.observe(RETRIES + offset.unwrap_or_default(), of_client.clone(), &reading);
        }
        if let Some(reading) = retry_delay {
            self.observe(RETRY_DELAY, of_client.clone(), &reading);
        }
        if server.started > 0 {
            self.count(SERVER_STARTED, of_method.clone(), server.started);
        }
        for AttemptReading { code, duration, sent, received } in server.ends {
            let labels = with(&of_method, "grpc_status", code_name(code));
            for (offset, reading) in [duration, sent, received].iter().enumerate() {
                self.observe(SERVER + offset, labels.clone(), reading);
            }
        }
    }

    fn count(&mut self, family: usize, labels: Labels, count: u64) {
        *self.counters.entry(family).or_default().entry(labels).or_default() += count;
    }

    fn observe(&mut self, family: usize, labels: Labels, reading: &HistogramReading) {
        let series = self.histograms.entry(family).or_default();
        series.entry(labels).and_modify(|sum| sum.add(reading)).or_insert_with(|| reading.clone());
    }
}

impl Scale {
    const fn unit(self) -> Option<&'static Unit> {
        match self {
            Self::Count => None,
            Self::Seconds => Some(&Unit::Seconds),
            Self::Bytes => Some(&Unit::Bytes),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "Prometheus has floats")]
    fn of(self, value: u64) -> f64 {
        match self {
            Self::Count | Self::Bytes => value as f64,
            // Values are nanoseconds.
            Self::Seconds => value as f64 / 1e9,
        }
    }
}

impl Collector for CallMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (number, series) in &self.counters {
            let Family(name, _, help) = &COUNTERS[*number];
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (labels, count) in series {
                ConstCounter::new(*count).encode(family.encode_family(labels)?)?;
            }
        }
        for (number, series) in &self.histograms {
            let Family(name, scale, help) = &HISTOGRAMS[*number];
            let mut family = encoder.encode_descriptor(name, help, scale.unit(), MetricType::Histogram)?;
            for (labels, reading) in series {
                let bounds = reading.bounds.iter().map(|bound| scale.of(*bound));
                let mut buckets: Vec<_> = bounds.zip(reading.counts.iter().copied()).collect();
                buckets.push((f64::INFINITY, reading.above));
                let (sum, count) = (scale.of(reading.sum), reading.count());
                family.encode_family(labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }
}
