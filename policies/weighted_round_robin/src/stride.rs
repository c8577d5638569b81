//! Which one is next, in proportion to weights: grpc-go's static stride scheduler.

/// The largest weight after scaling.
const MOST: u64 = u16::MAX as u64;

/// An endpoint of weight `w` is passed over in all but `w` of `MOST` rounds, at even distances: like earliest
/// deadline first (EDF), without a heap. `n` picks look at `n` times the ratio of the largest weight to the mean,
/// at most ten times `n`.
#[derive(Debug, Default)]
pub(crate) struct Stride {
    weights: Vec<u64>,
    sequence: u64,
}

/// No weight counts as more than this many times the mean, or less than this part of it.
const MOST_TO_MEAN: f64 = 10.0;
const LEAST_TO_MEAN: f64 = 0.01;

impl Stride {
    /// The schedule of these weights, from some point on. A weight of 0 is not known: the mean is taken for it.
    /// None if fewer than two are known, and so there is nothing to weigh.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
    #[expect(clippy::cast_precision_loss, reason = "a number of endpoints")]
    pub(crate) fn new(weights: &[f64], position: u64) -> Option<Self> {
        let known = || weights.iter().copied().filter(|weight| *weight > 0.0);
        let count = known().count();
        if count < 2 {
            return None;
        }
        let mean = known().sum::<f64>() / count as f64;
        let largest = known().fold(0.0, f64::max).min(mean * MOST_TO_MEAN);
        let scale = MOST as f64 / largest;
        let least = (mean * scale * LEAST_TO_MEAN).max(1.0);
        let scaled = |weight: &f64| {
            let weight = if *weight > 0.0 { *weight } else { mean };
            (weight * scale + 0.5).max(least).min(MOST as f64) as u64
        };
        let weights: Vec<_> = weights.iter().map(scaled).collect();
        Some(Self { weights, sequence: position })
    }

    /// Where it is; below 2^32 at first, so that no product overflows in any time.
    pub(crate) const fn position(&self) -> u64 {
        self.sequence
    }

    /// The place of the next one.
    #[expect(clippy::cast_possible_truncation, reason = "less than the number of weights")]
    pub(crate) fn next(&mut self) -> usize {
        let n = self.weights.len() as u64;
        loop {
            let (round, at) = (self.sequence / n, self.sequence % n);
            self.sequence += 1;
            let weight = self.weights[at as usize];
            // The endpoints are not all passed over in the same rounds.
            if (weight * round + at * (MOST / 2)) % MOST >= MOST - weight {
                return at as usize;
            }
        }
    }
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
                // Even distances: it is off by some picks, not by the root of their number.
                assert!((f64::from(*count) - expected).abs() < 5.0, "{n}: {count} of {expected}");
            }
        }
    }

    #[test]
    fn what_is_not_known_is_like_the_mean_and_extremes_are_bounded() {
        let stride = Stride::new(&[1.0, 0.0, 3.0], 0).expect("weights");
        assert_eq!(stride.weights, [21_845, 43_690, 65_535]);
        let most: Vec<f64> = [vec![1.0; 99], vec![1e6]].concat();
        let stride = Stride::new(&most, 0).expect("weights");
        assert!(stride.weights[0] >= 65_535 / 1_001 && stride.weights[99] == MOST);
        assert!(Stride::new(&[0.0, 5.0, 0.0], 0).is_none());
        assert!(Stride::new(&[], 0).is_none());
    }
}
