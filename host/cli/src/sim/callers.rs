//! The callers of a simulation: when they call, from where, and with which key.

use http::{HeaderMap, HeaderValue};

use super::scenario::{Arrivals, Scenario};
use super::servers::{Nanos, exponential, nanos};

/// The callers. A policy that picks otherwise changes none of what they draw.
pub(super) struct Callers {
    random: fastrand::Rng,
    arrivals: Arrivals,
    rate: f64,
    clients: usize,
    /// Cumulative frequencies of the keys.
    keys: Vec<f64>,
    headers: Vec<HeaderMap>,
}

impl Callers {
    pub(super) fn new(scenario: &Scenario, random: fastrand::Rng) -> Self {
        let keys = scenario.keys.map(|keys| zipf(keys.count, keys.skew)).unwrap_or_default();
        let mut headers: Vec<_> = keys.iter().enumerate().map(|(key, _)| header(key)).collect();
        headers.push(HeaderMap::new());
        let Scenario { arrivals, rate, clients, .. } = *scenario;
        Self { random, arrivals, rate, clients: clients as usize, keys, headers }
    }

    /// Returns the number of keys.
    pub(super) const fn keys(&self) -> usize {
        self.keys.len()
    }

    /// Returns how many RPCs arrive at once.
    pub(super) const fn together(&self) -> u32 {
        match self.arrivals {
            Arrivals::Bursts { size } => size,
            Arrivals::Poisson | Arrivals::Closed { .. } => 1,
        }
    }

    /// Draws the time until the next RPCs arrive.
    pub(super) fn interval(&mut self) -> Nanos {
        nanos(exponential(&mut self.random) * f64::from(self.together()) / self.rate)
    }

    /// Draws when each caller of a closed loop begins: not all at once.
    pub(super) fn begin(&mut self, mean_ms: f64) -> Vec<Nanos> {
        let Arrivals::Closed { callers, think_ms } = self.arrivals else { return Vec::new() };
        (0..callers).map(|_| nanos(self.random.f64() * (think_ms + mean_ms) / 1000.0)).collect()
    }

    /// Draws how long a caller of a closed loop waits before its next RPC. `None`: the loop is open.
    pub(super) fn think(&mut self, is_ok: bool) -> Option<Nanos> {
        let Arrivals::Closed { think_ms, .. } = self.arrivals else { return None };
        let think = nanos(exponential(&mut self.random) * think_ms / 1000.0);
        // Not at once: a policy that fails RPCs within the same moment would stop the clock.
        Some(think.max(if is_ok { 1000 } else { 1_000_000 }))
    }

    /// Draws the client and the key of an RPC.
    pub(super) fn call(&mut self) -> (usize, Option<usize>) {
        let client = self.random.usize(..self.clients);
        let key = self.keys.last().copied().map(|all| {
            let drawn = self.random.f64() * all;
            self.keys.partition_point(|sum| *sum <= drawn).min(self.keys.len() - 1)
        });
        (client, key)
    }

    /// Returns the metadata of an RPC with this key.
    pub(super) fn headers(&self, key: Option<usize>) -> &HeaderMap {
        &self.headers[key.unwrap_or(self.headers.len() - 1)]
    }
}

fn header(key: usize) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(&format!("key-{key}")) {
        headers.insert("hash-key", value);
    }
    headers
}

/// Returns the cumulative frequencies of `count` keys: the k-th is as frequent as 1 / k^skew.
fn zipf(count: u32, skew: f64) -> Vec<f64> {
    let mut sum = 0.0;
    (1..=count)
        .map(|rank| {
            sum += libm::pow(f64::from(rank), -skew);
            sum
        })
        .collect()
}
