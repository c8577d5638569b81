//! The host's side of the imports, for native builds. There is one per thread, which
//! [`FakeHost::start`](crate::testing::FakeHost::start) resets.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::bindings::hotpick::policy::env::Level;
use crate::bindings::hotpick::policy::stats::{Measure, ResponseCounts, Summary};
use crate::random::Random;
use crate::{Nanos, OTHER_METHOD, SubConn};

/// State of the fake host.
#[derive(Debug, Default)]
pub(crate) struct Host {
    pub(crate) in_init: bool,
    pub(crate) keys: Vec<String>,
    pub(crate) affinity: Option<Affinity>,
    /// Numbered values of metadata keys, each once.
    pub(crate) numbered: Vec<(u32, Vec<u8>)>,
    pub(crate) methods: Vec<String>,
    pub(crate) random: Random,
    pub(crate) now: Nanos,
    pub(crate) log: Vec<(Level, String)>,
    /// The RPC being picked.
    pub(crate) rpc: Option<Rpc>,
    pub(crate) explanation: Option<String>,
    pub(crate) added: Vec<(String, Vec<u8>)>,
    pub(crate) stats: BTreeMap<SubConn, Summary>,
    /// Counters of subconns for which a test has set more than a summary.
    pub(crate) responses: BTreeMap<SubConn, ResponseCounts>,
    /// Due time of each timer.
    pub(crate) timers: BTreeMap<u32, Nanos>,
    pub(crate) lazy: bool,
    /// Requests in order: true to connect, false to disconnect.
    pub(crate) connects: Vec<(SubConn, bool)>,
    pub(crate) resolves: u32,
    /// Value by name: the sum of a counter, or the last value of a gauge or histogram.
    pub(crate) instruments: Vec<(String, f64)>,
}

/// What [`PickInfo::affinity`](crate::PickInfo::affinity) contains.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Affinity {
    HashOf(u32),
    NumberOf(u32),
}

/// An RPC, as seen by a pick.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Rpc {
    /// `/package.Service/Method`.
    pub method: String,
    /// Keys and values. Values of `-bin` keys are not encoded.
    pub metadata: Vec<(String, Vec<u8>)>,
    /// Subconns of earlier attempts.
    pub tried: Vec<SubConn>,
    /// Time until the deadline (ns). `None`: no deadline.
    pub time_left: Option<Nanos>,
}

impl Rpc {
    /// Returns an RPC with one metadata value.
    #[must_use]
    pub fn with_metadata(key: &str, value: &str) -> Self {
        Self::default().and_metadata(key, value)
    }

    /// Adds a metadata value.
    #[must_use]
    pub fn and_metadata(mut self, key: &str, value: &str) -> Self {
        self.metadata.push((key.to_owned(), value.as_bytes().to_vec()));
        self
    }
}

thread_local! {
    static HOST: RefCell<Host> = RefCell::default();
}

pub(crate) fn with<R>(run: impl FnOnce(&mut Host) -> R) -> R {
    HOST.with_borrow_mut(run)
}

impl Host {
    pub(crate) fn next_random(&mut self) -> u64 {
        self.random.next()
    }

    /// Returns the affinity of the RPC being picked.
    pub(crate) fn affinity(&mut self) -> Option<u64> {
        match self.affinity? {
            Affinity::HashOf(key) => self.hash(key),
            Affinity::NumberOf(key) => self.number(key),
        }
    }

    pub(crate) fn hash(&self, key: u32) -> Option<u64> {
        let joined = self.values(key).join(&b","[..]);
        (!joined.is_empty()).then(|| crate::hash(&joined))
    }

    fn number(&mut self, key: u32) -> Option<u64> {
        let value = (key, self.values(key).into_iter().next().filter(|value| !value.is_empty())?);
        let at = self.numbered.iter().position(|known| *known == value).unwrap_or_else(|| {
            self.numbered.push(value);
            self.numbered.len() - 1
        });
        Some(at as u64 + 1)
    }

    /// Returns the number of a method. The last number stands for all methods without a number of their own.
    pub(crate) fn method(&mut self, name: &str) -> u32 {
        let known = self.methods.iter().position(|known| known == name);
        let at = known.unwrap_or_else(|| {
            if self.methods.len() < OTHER_METHOD as usize {
                self.methods.push(name.to_owned());
                self.methods.len() - 1
            } else {
                OTHER_METHOD as usize
            }
        });
        u32::try_from(at).unwrap_or(OTHER_METHOD)
    }

    pub(crate) fn values(&self, key: u32) -> Vec<Vec<u8>> {
        let name = usize::try_from(key).ok().and_then(|at| self.keys.get(at));
        let metadata = self.rpc.iter().flat_map(|rpc| &rpc.metadata);
        metadata.filter(|(key, _)| Some(key) == name).map(|(_, value)| value.clone()).collect()
    }
}

pub(crate) fn declare_metadata(key: &str) -> Result<u32, String> {
    with(|host| {
        if !host.in_init {
            return Err("metadata keys can only be declared in init".to_owned());
        }
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
        if key.is_empty() || !key.chars().all(plain) {
            return Err(format!("{key:?} is not a metadata key: use a-z, 0-9, '-', '_' and '.'"));
        }
        let at = host.keys.iter().position(|known| known == key).unwrap_or_else(|| {
            host.keys.push(key.to_owned());
            host.keys.len() - 1
        });
        u32::try_from(at).map_err(|error| error.to_string())
    })
}

pub(crate) fn declare_affinity(key: u32) -> Result<(), String> {
    declare(Affinity::HashOf(key))
}

pub(crate) fn declare_affinity_number(key: u32) -> Result<(), String> {
    declare(Affinity::NumberOf(key))
}

fn declare(affinity: Affinity) -> Result<(), String> {
    with(|host| {
        if !host.in_init {
            return Err("the affinity key can only be declared in init".to_owned());
        }
        host.affinity = Some(affinity);
        Ok(())
    })
}

pub(crate) fn metadata(key: u32) -> Option<String> {
    with(|host| host.values(key).into_iter().next())
        .and_then(|value| String::from_utf8(value).ok().filter(|text| text.is_ascii()))
}

pub(crate) fn metadata_all(key: u32) -> Vec<Vec<u8>> {
    with(|host| host.values(key))
}

pub(crate) fn metadata_hash(key: u32) -> Option<u64> {
    with(|host| host.hash(key))
}

pub(crate) fn metadata_number(key: u32) -> Option<u64> {
    with(|host| host.number(key))
}

pub(crate) fn set_metadata(key: &str, value: &[u8]) -> Result<(), String> {
    with(|host| {
        if host.rpc.is_none() {
            return Err("metadata can only be set in pick".to_owned());
        }
        host.added.push((key.to_owned(), value.to_vec()));
        Ok(())
    })
}

pub(crate) fn tried(id: SubConn) -> bool {
    with(|host| host.rpc.as_ref().is_some_and(|rpc| rpc.tried.contains(&id)))
}

pub(crate) fn time_left() -> Option<Nanos> {
    with(|host| host.rpc.as_ref().and_then(|rpc| rpc.time_left))
}

pub(crate) fn explain(message: &str) {
    with(|host| {
        if host.rpc.is_some() {
            host.explanation = Some(message.to_owned());
        }
    });
}

pub(crate) fn method_name(id: u32) -> String {
    with(|host| usize::try_from(id).ok().and_then(|at| host.methods.get(at)).cloned().unwrap_or_default())
}

pub(crate) fn now() -> Nanos {
    with(|host| host.now)
}

pub(crate) fn random() -> u64 {
    with(Host::next_random)
}

pub(crate) fn log(level: Level, message: &str) {
    with(|host| host.log.push((level, message.to_owned())));
}

pub(crate) fn level_enabled(_level: Level) -> bool {
    true
}

pub(crate) fn in_flight(id: SubConn) -> u32 {
    read(id).map_or(0, |summary| summary.in_flight)
}

pub(crate) fn read(id: SubConn) -> Option<Summary> {
    with(|host| host.stats.get(&id).copied())
}

pub(crate) fn responses(id: SubConn) -> Option<ResponseCounts> {
    let of_summary = |summary: Summary| {
        let ended = summary.succeeded + summary.failed;
        ResponseCounts {
            in_flight: summary.in_flight,
            max_streams: summary.max_streams,
            silence: 0,
            begun: ended,
            waited: ended * summary.latency_ewma,
            abandoned: 0,
            abandoned_after: 0,
            ended,
            faulty: summary.failed,
        }
    };
    with(|host| host.responses.get(&id).copied().or_else(|| host.stats.get(&id).copied().map(of_summary)))
}

pub(crate) fn least(among: &[SubConn], by: Measure) -> Option<SubConn> {
    let measure = |id: &SubConn| {
        let summary = read(*id)?;
        let ended = (summary.succeeded + summary.failed).max(1);
        Some(match by {
            Measure::InFlight => u128::from(summary.in_flight),
            Measure::LatencyEwma => u128::from(summary.latency_ewma),
            // The fake keeps no moving average, so it uses the share of all RPCs.
            Measure::FailureRateEwma => u128::from(summary.failed) * 1_000_000 / u128::from(ended),
        })
    };
    let known = among.iter().filter_map(|id| measure(id).map(|measure| (measure, *id)));
    known.min_by_key(|(measure, _)| *measure).map(|(_, id)| id)
}

pub(crate) fn schedule(id: u32, delay: Nanos) -> Result<(), String> {
    with(|host| {
        host.timers.insert(id, host.now.saturating_add(delay));
        Ok(())
    })
}

pub(crate) fn cancel(id: u32) {
    with(|host| host.timers.remove(&id));
}

pub(crate) fn declare_lazy() {
    with(|host| host.lazy |= host.in_init);
}

pub(crate) fn connect(id: SubConn) {
    with(|host| host.connects.push((id, true)));
}

pub(crate) fn disconnect(id: SubConn) {
    with(|host| host.connects.push((id, false)));
}

pub(crate) fn resolve_now() {
    with(|host| host.resolves += 1);
}

fn instrument(name: &str) -> Result<u32, String> {
    with(|host| {
        if !host.in_init {
            return Err("instruments can only be declared in init".to_owned());
        }
        let at = host.instruments.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            host.instruments.push((name.to_owned(), 0.0));
            host.instruments.len() - 1
        });
        u32::try_from(at).map_err(|error| error.to_string())
    })
}

pub(crate) fn counter(name: &str, _help: &str) -> Result<u32, String> {
    instrument(name)
}

pub(crate) fn gauge(name: &str, _help: &str) -> Result<u32, String> {
    instrument(name)
}

pub(crate) fn histogram(name: &str, _help: &str, _buckets: &[f64]) -> Result<u32, String> {
    instrument(name)
}

fn measure(id: u32, change: impl FnOnce(&mut f64)) {
    with(|host| {
        let at = usize::try_from(id).ok();
        if let Some((_, value)) = at.and_then(|at| host.instruments.get_mut(at)) {
            change(value);
        }
    });
}

#[expect(clippy::cast_precision_loss, reason = "tests do not count so far")]
pub(crate) fn add(id: u32, delta: u64) {
    measure(id, |value| *value += delta as f64);
}

pub(crate) fn observe(id: u32, observed: f64) {
    measure(id, |value| *value = observed);
}
