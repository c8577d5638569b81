//! What a simulation measures.

use hdrhistogram::Histogram;

use super::servers::Nanos;

/// The result of a simulation, without its warm-up.
#[derive(Debug)]
pub(super) struct Measured {
    /// Time of RPCs from the caller's call to their end (us), of those that ended well.
    latency: Histogram<u64>,
    pub(super) rpcs: u64,
    pub(super) errors: u64,
    /// RPCs that each server has answered.
    pub(super) served: Vec<u64>,
    pub(super) fallback_picks: u64,
    pub(super) faults: u64,
    pub(super) regret: Mean,
}

/// A mean of times.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mean {
    sum: f64,
    count: u64,
}

impl Mean {
    pub(super) fn add(&mut self, time: Nanos) {
        self.sum += time as f64;
        self.count += 1;
    }

    /// Returns the mean (ms).
    pub(super) fn ms(self) -> f64 {
        self.sum / 1e6 / (self.count.max(1) as f64)
    }
}

impl Measured {
    pub(super) fn new(servers: usize) -> Self {
        // Times from 1 us to a day, to three digits. Bounds that cannot be refused.
        let latency = Histogram::new_with_bounds(1, 86_400_000_000, 3);
        Self {
            latency: latency.unwrap_or_else(|_| unreachable!("valid bounds")),
            rpcs: 0,
            errors: 0,
            served: vec![0; servers],
            fallback_picks: 0,
            faults: 0,
            regret: Mean::default(),
        }
    }

    pub(super) fn ended(&mut self, latency: Nanos, is_ok: bool) {
        self.rpcs += 1;
        if is_ok {
            self.latency.saturating_record((latency / 1000).max(1));
        } else {
            self.errors += 1;
        }
    }

    /// Returns the latency at a quantile (ms).
    pub(super) fn quantile(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// Returns the mean latency (ms).
    pub(super) fn mean(&self) -> f64 {
        self.latency.mean() / 1000.0
    }

    /// Returns how many times the mean of all servers the busiest one has answered.
    pub(super) fn imbalance(&self) -> f64 {
        let mean = self.served.iter().sum::<u64>() as f64 / self.served.len().max(1) as f64;
        self.served.iter().max().map_or(0.0, |most| *most as f64) / mean.max(f64::MIN_POSITIVE)
    }
}
