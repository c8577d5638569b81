//! Histograms with the bounds of gRFC A66.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of latencies, in nanoseconds (gRFC A66).
pub(crate) const LATENCY_BOUNDS: [u64; 41] = [
    0,
    10_000,
    50_000,
    100_000,
    300_000,
    600_000,
    800_000,
    1_000_000,
    2_000_000,
    3_000_000,
    4_000_000,
    5_000_000,
    6_000_000,
    8_000_000,
    10_000_000,
    13_000_000,
    16_000_000,
    20_000_000,
    25_000_000,
    30_000_000,
    40_000_000,
    50_000_000,
    65_000_000,
    80_000_000,
    100_000_000,
    130_000_000,
    160_000_000,
    200_000_000,
    250_000_000,
    300_000_000,
    400_000_000,
    500_000_000,
    650_000_000,
    800_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
    20_000_000_000,
    50_000_000_000,
    100_000_000_000,
];

/// Upper bounds of the latencies of one method, in nanoseconds: those of A66 that are about a factor of 2.5 apart. With all
/// of them, a few hundred methods would be a text of tens of megabytes for each scrape.
pub(crate) const COARSE_LATENCY_BOUNDS: [u64; 15] = [
    100_000,
    300_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    20_000_000_000,
];

/// Upper bounds of sizes, in bytes: some of A66's.
pub(crate) const SIZE_BOUNDS: [u64; 5] = [1 << 10, 1 << 14, 1 << 18, 1 << 22, 1 << 26];

/// A histogram of `N` bounds. A value equal to a bound is below it.
#[derive(Debug)]
pub(super) struct Histogram<const N: usize> {
    bounds: &'static [u64; N],
    counts: [AtomicU64; N],
    above: AtomicU64,
    sum: AtomicU64,
}

/// A reading of a histogram: the count of each bound, of what is above all of them, and the sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HistogramReading {
    pub(crate) bounds: &'static [u64],
    pub(crate) counts: Vec<u64>,
    pub(crate) above: u64,
    pub(crate) sum: u64,
}

impl<const N: usize> Histogram<N> {
    pub(super) const fn new(bounds: &'static [u64; N]) -> Self {
        Self {
            bounds,
            counts: [const { AtomicU64::new(0) }; N],
            above: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }

    pub(super) fn record(&self, value: u64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        self.counts.get(at).unwrap_or(&self.above).fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    pub(super) fn record_time(&self, time: Duration) {
        self.record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(super) fn read(&self) -> HistogramReading {
        HistogramReading {
            bounds: self.bounds,
            counts: self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
            above: self.above.load(Ordering::Relaxed),
            sum: self.sum.load(Ordering::Relaxed),
        }
    }
}

impl HistogramReading {
    /// Returns the number of values.
    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum::<u64>() + self.above
    }

    /// Adds the counts of another reading with the same bounds.
    pub(crate) fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.above += other.above;
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// Returns the values that came since an earlier reading.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let counts = self.counts.iter().zip(&earlier.counts).map(|(now, then)| now.saturating_sub(*then));
        Self {
            bounds: self.bounds,
            counts: counts.collect(),
            above: self.above.saturating_sub(earlier.above),
            sum: self.sum.saturating_sub(earlier.sum),
        }
    }
}

/// Estimates a quantile, from 0 to 1, by interpolation between the bounds. `None`: there is no value. What is above all
/// bounds counts as the last one.
pub(crate) fn quantile(reading: &HistogramReading, quantile: f64) -> Option<f64> {
    let count = reading.count();
    if count == 0 {
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let float = |number: u64| number as f64;
    let rank = quantile * float(count);
    let mut below = 0;
    for (at, (bound, inside)) in reading.bounds.iter().zip(&reading.counts).enumerate() {
        if *inside > 0 && float(below + inside) >= rank {
            let lower = at.checked_sub(1).map_or(0, |at| reading.bounds[at]);
            let part = (rank - float(below)) / float(*inside);
            return Some(float(lower) + float(bound - lower) * part.clamp(0.0, 1.0));
        }
        below += inside;
    }
    reading.bounds.last().map(|last| float(*last))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_value_is_counted_below_the_bound_that_it_equals() {
        let histogram = Histogram::new(&SIZE_BOUNDS);
        for value in [0, 1, 1024, 1025, u64::MAX / 4] {
            histogram.record(value);
        }
        let reading = histogram.read();
        assert_eq!(reading.counts[..2], [3, 1]);
        assert_eq!((reading.above, reading.count()), (1, 5));
        assert_eq!(reading.sum, 1 + 1024 + 1025 + u64::MAX / 4);
        histogram.record(7);
        assert_eq!(histogram.read().since(&reading).count(), 1);
    }

    proptest! {
        /// An estimate lies within the bounds of the bucket of the exact quantile.
        #[test]
        fn a_quantile_is_in_its_bucket(
            mut values in prop::collection::vec(0u64..100_000_000_000, 1..200), quantile in 0.01f64..0.999,
        ) {
            let histogram = Histogram::new(&LATENCY_BOUNDS);
            values.iter().for_each(|value| histogram.record(*value));
            values.sort_unstable();
            // The first value that has at least this part of all values up to it.
            let rank = (1..=values.len()).find(|rank| *rank as f64 >= values.len() as f64 * quantile);
            let exact = values[rank.unwrap_or(values.len()) - 1];
            let at = LATENCY_BOUNDS.partition_point(|bound| *bound < exact);
            let (low, high) = (at.checked_sub(1).map_or(0, |at| LATENCY_BOUNDS[at]), LATENCY_BOUNDS[at]);
            let estimate = super::quantile(&histogram.read(), quantile).expect("values");
            prop_assert!((low as f64..=high as f64).contains(&estimate), "{} in {}..{}", estimate, low, high);
        }
    }
}
