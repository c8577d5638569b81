//! Turns in proportion to weights.

/// The largest weight after scaling.
const MOST: u64 = u16::MAX as u64;

/// Turns in proportion to weights, at even intervals: the static stride scheduler of gRPC (gRFC A58).
///
/// An entry of weight `w` gets a turn in `w` of 65,535 rounds. The result is like earliest deadline first (EDF),
/// without a heap. `n` turns take `n` steps times the ratio of the largest weight to the mean, at most ten times `n`. A
/// weight counts as at most ten times and at least a hundredth of the mean, as in gRPC's core.
///
/// ```
/// use hotpick_guest::stride::Stride;
///
/// let mut stride = Stride::new(&[1.0, 2.0], 0).expect("two weights");
/// let turns: Vec<_> = (0..30).map(|_| stride.next()).collect();
/// assert_eq!(turns.iter().filter(|turn| **turn == 1).count(), 20);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Stride {
    weights: Vec<u64>,
    sequence: u64,
}

/// Bounds of a weight, as multiples of the mean.
const MOST_TO_MEAN: f64 = 10.0;
const LEAST_TO_MEAN: f64 = 0.01;

impl Stride {
    /// Creates the schedule of these weights, starting at a position. A weight of 0 is unknown, and counts as the mean.
    /// `None` if fewer than two weights are known.
    ///
    /// Each step is as in gRPC's core, in single precision where the core uses it, so that the picks are the same.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "what the core does")]
    #[expect(clippy::cast_precision_loss, reason = "a number of endpoints")]
    pub fn new(weights: &[f64], position: u64) -> Option<Self> {
        let weights: Vec<f32> = weights.iter().map(|weight| *weight as f32).collect();
        let known = || weights.iter().copied().filter(|weight| *weight > 0.0);
        let count = known().count();
        if count < 2 {
            return None;
        }
        let mean = known().map(f64::from).sum::<f64>() / count as f64;
        let largest = known().fold(0.0, f32::max);
        let largest =
            if f64::from(largest) / mean > MOST_TO_MEAN { (MOST_TO_MEAN * mean) as f32 } else { largest };
        let scale = f64::from(MOST as f32 / largest);
        let mean = round(scale * mean);
        let least = round(mean as f64 * LEAST_TO_MEAN).max(1);
        let scaled = |weight: &f32| {
            if *weight > 0.0 { round(f64::from(weight.min(largest)) * scale).max(least) } else { mean }
        };
        Some(Self { weights: weights.iter().map(scaled).collect(), sequence: position })
    }

    /// Returns the current position. An initial position below 2^32 never overflows.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.sequence
    }

    /// Returns the index of the next turn in the list of weights.
    #[expect(clippy::cast_possible_truncation, reason = "less than the number of weights")]
    #[expect(clippy::should_implement_trait, reason = "it has no end")]
    pub fn next(&mut self) -> usize {
        let n = self.weights.len() as u64;
        loop {
            let (round, at) = (self.sequence / n, self.sequence % n);
            self.sequence += 1;
            let weight = self.weights[at as usize];
            // The offset spreads the rounds in which the entries are skipped.
            if (weight * round + at * (MOST / 2)) % MOST >= MOST - weight {
                return at as usize;
            }
        }
    }
}

/// Rounds, halves up, to at most the greatest scaled weight.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and cut")]
fn round(weight: f64) -> u64 {
    ((weight + 0.5) as u64).min(MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_are_as_the_weights() {
        for n in [3usize, 10, 100, 1_000] {
            let weights: Vec<f64> = (0..n).map(|at| 1.0 + (at % 5) as f64).collect();
            let mut stride = Stride::new(&weights, 1 << 30).expect("weights");
            let mut counts = vec![0; n];
            let picks = n * 3_000;
            for _ in 0..picks {
                counts[stride.next()] += 1;
            }
            let sum: f64 = weights.iter().sum();
            for (count, weight) in counts.iter().zip(&weights) {
                let expected = weight / sum * picks as f64;
                // Even intervals: the count is off by a few picks, not by the square root of their number.
                assert!((f64::from(*count) - expected).abs() < 5.0, "{n}: {count} of {expected}");
            }
        }
    }

    #[test]
    fn what_is_not_known_is_like_the_mean_and_extremes_are_bounded() {
        let stride = Stride::new(&[1.0, 0.0, 3.0], 0).expect("weights");
        assert_eq!(stride.weights, [21_845, 43_690, 65_535]);
        // As observed in the core, which divides in single precision.
        let scaled = |weights: &[f64]| Stride::new(weights, 0).expect("weights").weights;
        assert_eq!(scaled(&[400.0, 200.0, 100.0]), [65_535, 32_767, 16_384]);
        assert_eq!(scaled(&[500.0, 300.0, 200.0, 100.0, 700.0]), [46_811, 28_086, 18_724, 9_362, 65_535]);
        assert_eq!(scaled(&[1_000.0, 1.0, 1.0]), [65_535, 219, 219]);
        let most: Vec<f64> = [vec![1.0; 99], vec![1e6]].concat();
        let stride = Stride::new(&most, 0).expect("weights");
        assert!(stride.weights[0] >= 65_535 / 1_001 && stride.weights[99] == MOST);
        assert!(Stride::new(&[0.0, 5.0, 0.0], 0).is_none());
        assert!(Stride::new(&[], 0).is_none());
    }
}
