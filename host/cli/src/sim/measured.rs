//! What a simulation measures.

use hdrhistogram::Histogram;

use super::servers::Nanos;

/// The result of a simulation, without its warm-up.
#[derive(Debug)]
pub(crate) struct Measured {
    /// Time of RPCs from the caller's call to their end (us), of those that ended well.
    latency: Histogram<u64>,
    /// RPCs that have begun.
    pub(super) begun: u64,
    pub(crate) rpcs: u64,
    pub(crate) errors: u64,
    /// RPCs that each server has answered.
    pub(super) served: Vec<u64>,
    pub(super) fallback_picks: u64,
    pub(super) faults: u64,
    pub(super) regret: Mean,
    /// Picks for a key that is not the first of its key, and those that went elsewhere than the pick before.
    keyed: (u64, u64),
    /// Called picks, and the instructions that they took.
    pub(super) cost: (u64, u64),
    /// By time, each for the same length.
    pub(super) slices: Vec<Slice>,
}

/// A part of the time.
#[derive(Clone, Debug)]
pub(super) struct Slice {
    latency: Histogram<u64>,
    pub(super) errors: u64,
    /// RPCs that each server has answered.
    pub(super) served: Vec<u32>,
    /// RPCs at each server, at the end.
    pub(super) waiting: Vec<u32>,
    /// RPCs that are queued by clients, at the end.
    queued: u64,
    regret: Mean,
    keyed: (u64, u64),
}

/// A mean of times.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mean {
    sum: f64,
    count: u64,
}

/// Parts of the time that is measured.
pub(super) const SLICES: usize = 100;

#[expect(clippy::cast_possible_truncation, reason = "from 0 to 1, times a hundred")]
fn slice_at(part: f64) -> usize {
    ((part * SLICES as f64) as usize).min(SLICES - 1)
}

/// Returns a histogram of times from 1 us to a day.
fn histogram(digits: u8) -> Histogram<u64> {
    let bounded = Histogram::new_with_bounds(1, 86_400_000_000, digits);
    bounded.unwrap_or_else(|_| unreachable!("the bounds are valid"))
}

impl Slice {
    /// Returns the latency at a quantile (ms). `None`: no RPC ended with OK.
    pub(super) fn quantile(&self, quantile: f64) -> Option<f64> {
        (!self.latency.is_empty()).then(|| self.latency.value_at_quantile(quantile) as f64 / 1000.0)
    }

    pub(super) fn rpcs(&self) -> u64 {
        self.latency.len() + self.errors
    }

    /// Returns the number of RPCs that are queued or at a server, at the end.
    pub(super) fn in_flight(&self) -> u64 {
        self.queued + self.waiting.iter().map(|waiting| u64::from(*waiting)).sum::<u64>()
    }

    /// Returns the mean regret (ms). `None`: there was no pick.
    pub(super) fn regret(&self) -> Option<f64> {
        (self.regret.count > 0).then(|| self.regret.ms())
    }

    /// Returns the part of the picks for keys that went elsewhere than the pick before.
    pub(super) fn moved(&self) -> Option<f64> {
        let (picks, moved) = self.keyed;
        (picks > 0).then(|| moved as f64 / picks as f64)
    }
}

impl Mean {
    pub(super) fn add(&mut self, time: Nanos) {
        self.sum += time as f64;
        self.count += 1;
    }

    /// Returns the mean (ms) as text.
    pub(super) fn shown(self) -> String {
        if self.count == 0 { "-".to_owned() } else { format!("{:.2}", self.ms()) }
    }

    /// Returns the mean (ms).
    pub(super) fn ms(self) -> f64 {
        self.sum / 1e6 / (self.count.max(1) as f64)
    }
}

impl Measured {
    pub(super) fn new(servers: usize) -> Self {
        let slice = Slice {
            latency: histogram(2),
            errors: 0,
            served: vec![0; servers],
            waiting: Vec::new(),
            queued: 0,
            regret: Mean::default(),
            keyed: (0, 0),
        };
        Self {
            latency: histogram(3),
            slices: vec![slice; SLICES],
            begun: 0,
            rpcs: 0,
            errors: 0,
            served: vec![0; servers],
            fallback_picks: 0,
            faults: 0,
            regret: Mean::default(),
            keyed: (0, 0),
            cost: (0, 0),
        }
    }

    /// A pick was for a key: `has_moved` if the pick before went elsewhere.
    pub(super) fn keyed(&mut self, part: f64, has_moved: bool) {
        let count = |(picks, moved): &mut (u64, u64)| {
            *picks += 1;
            *moved += u64::from(has_moved);
        };
        count(&mut self.keyed);
        if let Some(slice) = self.slices.get_mut(slice_at(part)) {
            count(&mut slice.keyed);
        }
    }

    /// A pick was so much worse than the best.
    pub(super) fn regrets(&mut self, part: f64, regret: Nanos) {
        self.regret.add(regret);
        if let Some(slice) = self.slices.get_mut(slice_at(part)) {
            slice.regret.add(regret);
        }
    }

    /// Notes the RPCs at each server, and those that are queued, at the end of a slice.
    pub(super) fn sample(&mut self, slice: usize, waiting: Vec<u32>, queued: u64) {
        if let Some(slice) = self.slices.get_mut(slice) {
            (slice.waiting, slice.queued) = (waiting, queued);
        }
    }

    /// Returns the part of the picks for keys that went elsewhere than the pick before. `None`: there are no keys.
    pub(super) fn moved(&self) -> Option<f64> {
        let (picks, moved) = self.keyed;
        (picks > 0).then(|| moved as f64 / picks as f64)
    }

    /// Returns the instructions of a called pick. `None`: none was called.
    pub(super) fn instructions(&self) -> Option<f64> {
        let (picks, instructions) = self.cost;
        (picks > 0).then(|| instructions as f64 / picks as f64)
    }

    /// An RPC has ended. `born`: when it began, as a part of the time that is measured (0 to 1).
    pub(super) fn ended(&mut self, born: f64, latency: Nanos, is_ok: bool) {
        self.rpcs += 1;
        let Some(slice) = self.slices.get_mut(slice_at(born)) else { return };
        if is_ok {
            let micros = (latency / 1000).max(1);
            self.latency.saturating_record(micros);
            slice.latency.saturating_record(micros);
        } else {
            self.errors += 1;
            slice.errors += 1;
        }
    }

    /// A server has answered an RPC that began at this part of the time.
    pub(super) fn served(&mut self, born: f64, server: usize) {
        self.served[server] += 1;
        if let Some(slice) = self.slices.get_mut(slice_at(born)) {
            slice.served[server] += 1;
        }
    }

    /// Returns the number of RPCs that have not ended.
    pub(super) const fn open(&self) -> u64 {
        self.begun.saturating_sub(self.rpcs)
    }

    /// Returns the latency at a quantile (ms) as text.
    pub(crate) fn shown(&self, quantile: f64) -> String {
        if self.latency.is_empty() { "-".to_owned() } else { format!("{:.2}", self.quantile(quantile)) }
    }

    /// Returns the latency at a quantile (ms).
    pub(crate) fn quantile(&self, quantile: f64) -> f64 {
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
