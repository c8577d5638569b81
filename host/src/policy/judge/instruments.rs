//! Instruments that policies declare.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::policy::limits::Limits;
use crate::text::clip;

/// The instruments of one policy in channels to one target. They outlive instances and versions.
#[derive(Debug, Default)]
pub(crate) struct Instruments(Mutex<BTreeMap<String, Arc<Instrument>>>);

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    /// Upper bounds of a histogram's buckets, ascending.
    Histogram(Vec<f64>),
}

#[derive(Debug)]
pub(crate) struct Instrument {
    help: String,
    kind: Kind,
    /// Generation of the version that declared the instrument last.
    generation: AtomicU64,
    value: Mutex<Value>,
}

#[derive(Debug, Default)]
struct Value {
    count: u64,
    /// Value of a gauge, or sum of a histogram.
    sum: f64,
    buckets: Vec<u64>,
}

/// A reading of an instrument that a policy has declared.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Metric {
    /// Name of the instrument, as declared by the policy: `[a-z_][a-z0-9_]*`.
    pub name: String,
    /// Description of the instrument.
    pub help: String,
    /// Target of the channels that the instrument measures.
    pub target: String,
    /// Current value.
    pub value: MetricValue,
}

/// Value of an instrument.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum MetricValue {
    /// A number that only grows.
    Counter(u64),
    /// A number that may rise and fall.
    Gauge(f64),
    /// Observed values, counted in buckets. A bucket counts values up to its bound and above the previous bound.
    Histogram {
        /// Number of all values.
        count: u64,
        /// Sum of all values.
        sum: f64,
        /// Upper bounds, and the number of values in each bucket. Values above the last bound are in none.
        buckets: Vec<(f64, u64)>,
    },
}

/// Names of the host's own metrics of policies: `hotpick_policy_<this>`, without the suffixes of the text format.
const TAKEN: [&str; 11] = [
    "fallback_picks",
    "faults",
    "generation",
    "loads",
    "memory_bytes",
    "pick_seconds",
    "picks",
    "planned_picks",
    "rejections",
    "renewals",
    "state",
];
/// Suffixes that the text format appends to the names of counters and histograms.
const SUFFIXES: [&str; 6] = ["_bucket", "_count", "_created", "_info", "_sum", "_total"];

/// Maximum length of a name, and of a help text (bytes).
const LONGEST: usize = 200;
const MOST_BUCKETS: usize = 64;

impl Instruments {
    /// Returns the instrument of this name, which is created if it does not exist.
    ///
    /// # Errors
    ///
    /// If the name or the buckets are invalid, the instrument exists with another kind, or there are too many
    /// instruments.
    pub(crate) fn declare(
        &self,
        name: &str,
        help: &str,
        kind: Kind,
        limits: &Limits,
        generation: u64,
    ) -> Result<Arc<Instrument>, String> {
        let plain = |c: char| c.is_ascii_lowercase() || c == '_';
        let is_name = name.starts_with(plain) && name.chars().all(|c| plain(c) || c.is_ascii_digit());
        if !is_name || name.len() > LONGEST {
            return Err(format!(
                "{:?} is not the name of an instrument: use a-z, 0-9 and '_'",
                clip(name, LONGEST)
            ));
        }
        if TAKEN.contains(&name) || SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) {
            return Err(format!("{name} is the name of a metric of the host: use another name"));
        }
        if let Kind::Histogram(bounds) = &kind {
            let ascending = bounds.windows(2).all(|pair| pair[0] < pair[1]);
            // OpenMetrics does not allow a sum in a histogram of values that may be negative.
            let is_good = |bound: &f64| bound.is_finite() && *bound >= 0.0;
            if !ascending || bounds.len() > MOST_BUCKETS || !bounds.iter().all(is_good) {
                return Err(format!(
                    "{name} needs at most {MOST_BUCKETS} buckets, ascending, finite and not negative"
                ));
            }
        }
        let mut instruments = self.lock();
        let is_ours = |known: &Arc<Instrument>| known.generation.load(Ordering::Relaxed) == generation;
        match instruments.get(name) {
            Some(known) if known.kind == kind => {
                known.generation.store(generation, Ordering::Relaxed);
                return Ok(Arc::clone(known));
            }
            Some(known) if is_ours(known) => {
                return Err(format!("{name} is already an instrument of another kind"));
            }
            // Declared by an earlier version: replaced.
            Some(_) | None => {}
        }
        if instruments.values().filter(|known| is_ours(known)).count() >= limits.instruments {
            return Err(format!("at most {} instruments are allowed", limits.instruments));
        }
        if instruments.len() >= limits.instruments {
            instruments.retain(|_, known| is_ours(known));
        }
        let buckets = if let Kind::Histogram(bounds) = &kind { vec![0; bounds.len()] } else { Vec::new() };
        let value = Mutex::new(Value { buckets, ..Value::default() });
        let help = clip(help, LONGEST);
        let generation = AtomicU64::new(generation);
        let instrument = Arc::new(Instrument { help, kind, generation, value });
        instruments.insert(name.to_owned(), Arc::clone(&instrument));
        Ok(instrument)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    pub(crate) fn read(&self, target: &str) -> Vec<Metric> {
        let metric = |(name, instrument): (&String, &Arc<Instrument>)| Metric {
            name: name.clone(),
            help: instrument.help.clone(),
            target: target.to_owned(),
            value: instrument.read(),
        };
        self.lock().iter().map(metric).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Instrument>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Instrument {
    /// Adds to a counter. Ignored for other kinds.
    pub(crate) fn add(&self, delta: u64) {
        if self.kind == Kind::Counter {
            let mut value = self.lock();
            value.count = value.count.saturating_add(delta);
        }
    }

    /// Sets a gauge, or adds a value to a histogram.
    pub(crate) fn observe(&self, sample: f64) {
        match &self.kind {
            Kind::Counter => {}
            Kind::Gauge => self.lock().sum = sample,
            // NaN would make the sum NaN forever.
            Kind::Histogram(_) if !sample.is_finite() => {}
            Kind::Histogram(bounds) => {
                let mut value = self.lock();
                value.count += 1;
                value.sum += sample;
                let at = bounds.partition_point(|bound| *bound < sample);
                if let Some(bucket) = value.buckets.get_mut(at) {
                    *bucket += 1;
                }
            }
        }
    }

    fn read(&self) -> MetricValue {
        let value = self.lock();
        match &self.kind {
            Kind::Counter => MetricValue::Counter(value.count),
            Kind::Gauge => MetricValue::Gauge(value.sum),
            Kind::Histogram(bounds) => MetricValue::Histogram {
                count: value.count,
                sum: value.sum,
                buckets: bounds.iter().copied().zip(value.buckets.iter().copied()).collect(),
            },
        }
    }

    fn lock(&self) -> MutexGuard<'_, Value> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instruments_are_made_once_and_refused_by_name() {
        let instruments = Instruments::default();
        let limits = Limits { instruments: 2, ..Limits::default() };
        let make = |name: &str, kind| instruments.declare(name, "help", kind, &limits, 1).map(|_| ());
        assert_eq!(make("moves", Kind::Counter), Ok(()));
        assert_eq!(make("moves", Kind::Counter), Ok(()));
        for taken in ["picks", "moves_total", "x_sum"] {
            assert!(make(taken, Kind::Counter).expect_err("taken").starts_with(taken));
        }
        assert_eq!(
            make("moves", Kind::Gauge),
            Err("moves is already an instrument of another kind".to_owned())
        );
        assert_eq!(make("load", Kind::Gauge), Ok(()));
        assert_eq!(make("third", Kind::Gauge), Err("at most 2 instruments are allowed".to_owned()));
        // The next version may want it otherwise.
        let next = |name: &str, kind| instruments.declare(name, "help", kind, &limits, 2).map(|_| ());
        assert_eq!(next("moves", Kind::Gauge), Ok(()));
        assert_eq!(next("third", Kind::Gauge), Ok(()));
        assert!(instruments.read("t").iter().all(|metric| metric.name != "load"));
        assert!(make("Bad-Name", Kind::Gauge).expect_err("no name").contains("Bad-Name"));
        assert!(make("h", Kind::Histogram(vec![2.0, 1.0])).expect_err("not ascending").contains("ascending"));
    }

    #[test]
    fn a_histogram_counts_values_by_bucket() {
        let instruments = Instruments::default();
        let histogram = instruments.declare("h", "", Kind::Histogram(vec![1.0, 10.0]), &Limits::default(), 1);
        let histogram = histogram.expect("made");
        for value in [0.5, 1.0, 5.0, 50.0, f64::NAN] {
            histogram.observe(value);
        }
        histogram.add(7);
        let value = MetricValue::Histogram { count: 4, sum: 56.5, buckets: vec![(1.0, 2), (10.0, 1)] };
        assert_eq!(instruments.read("t")[0].value, value);
    }
}
