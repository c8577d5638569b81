//! Random numbers, and random choices by weight.

use crate::below;

/// SplitMix64 (Steele, Lea and Flood, 2014): a sequence of random numbers from a seed, for picks that need more than
/// one [`PickInfo::random`](crate::PickInfo::random).
#[derive(Clone, Debug, Default)]
pub struct Random(u64);

impl Random {
    /// Creates the sequence of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Returns a number below `bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        below(bound, self.next())
    }

    /// Shuffles a list (Fisher and Yates).
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for end in (2..=list.len()).rev() {
            let at = self.below(end);
            list.swap(at, end - 1);
        }
    }
}

/// Mixes the bits of a number. Similar numbers have unrelated results, and different numbers have different results.
#[must_use]
pub const fn mix(number: u64) -> u64 {
    let mut z = number;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Returns two different numbers below `bound`, which must be at least 2, made from one uniformly distributed `random`.
#[must_use]
pub fn two_below(bound: usize, random: u64) -> (usize, usize) {
    let first = below(bound, random);
    let second = below(bound.saturating_sub(1), mix(random));
    (first, if second >= first { second + 1 } else { second })
}

/// Random choices by weight, in constant time each: the alias method (Walker, 1974), built as in Vose (1991).
///
/// ```
/// use hotpick_guest::random::{Alias, Random};
///
/// let (alias, mut random, mut counts) = (Alias::new(&[1.0, 2.0, 5.0]), Random::new(1), [0; 3]);
/// for _ in 0..8_000 {
///     counts[alias.choose(random.next())] += 1;
/// }
/// assert!((900..1_100).contains(&counts[0]) && (4_800..5_200).contains(&counts[2]), "{counts:?}");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Alias {
    /// For each column, the part of 2^64 up to which the column itself is chosen, and the alias chosen beyond it.
    columns: Vec<(u64, usize)>,
}

impl Alias {
    /// Creates choices with these weights, which must not be negative. If all are 0, the choices are equally likely.
    #[must_use]
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "shares")]
    #[expect(clippy::cast_sign_loss, reason = "not negative")]
    pub fn new(weights: &[f64]) -> Self {
        let sum: f64 = weights.iter().sum();
        let mean = sum / weights.len() as f64;
        let share = |weight: &f64| if sum > 0.0 { weight / mean } else { 1.0 };
        let mut shares: Vec<f64> = weights.iter().map(share).collect();
        let (mut small, mut large): (Vec<_>, Vec<_>) = (0..shares.len()).partition(|at| shares[*at] < 1.0);
        let mut columns: Vec<_> = (0..shares.len()).map(|at| (u64::MAX, at)).collect();
        while let (Some(less), Some(&more)) = (small.pop(), large.last()) {
            columns[less] = ((shares[less] * 2f64.powi(64)) as u64, more);
            shares[more] -= 1.0 - shares[less];
            if shares[more] < 1.0 {
                small.extend(large.pop());
            }
        }
        // The remaining shares are 1, except for rounding errors.
        Self { columns }
    }

    /// Returns the index of a choice, made from a uniformly distributed `random`; 0 if there are no choices.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the halves of a product")]
    pub fn choose(&self, random: u64) -> usize {
        // The upper half of the product selects the column, the lower half the part of the column.
        let product = u128::from(random) * self.columns.len() as u128;
        let (at, part) = ((product >> 64) as usize, product as u64);
        match self.columns.get(at) {
            Some((up_to, other)) if part >= *up_to => *other,
            _ => at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::chi_square;

    #[test]
    fn an_alias_table_has_the_shares_of_the_weights() {
        for n in [1usize, 3, 10, 100, 1_000] {
            let weights: Vec<f64> =
                (0..n).map(|at| f64::from(u32::try_from(at % 7).expect("small"))).collect();
            let (alias, mut random) = (Alias::new(&weights), Random::new(7));
            let mut counts = vec![0; n];
            for _ in 0..n * 1_000 {
                counts[alias.choose(random.next())] += 1;
            }
            let all_zero = weights.iter().all(|weight| *weight == 0.0);
            let expected = if all_zero { vec![1.0; n] } else { weights };
            assert!(chi_square(&counts, &expected).is_likely(), "{n}: {counts:?}");
        }
        assert_eq!(Alias::new(&[]).choose(u64::MAX), 0);
    }

    #[test]
    fn two_are_different_and_each_pair_is_as_likely() {
        let (mut random, mut counts) = (Random::new(3), vec![0; 25]);
        for _ in 0..25_000 {
            let (first, second) = two_below(5, random.next());
            counts[first * 5 + second] += 1;
        }
        let expected: Vec<f64> = (0..25).map(|at| if at % 6 == 0 { 0.0 } else { 1.0 }).collect();
        assert!(chi_square(&counts, &expected).is_likely(), "{counts:?}");
    }

    #[test]
    fn a_shuffled_list_has_the_same_members_in_any_order() {
        let mut firsts = vec![0; 4];
        let mut random = Random::new(5);
        for _ in 0..4_000 {
            let mut list = [0usize, 1, 2, 3];
            random.shuffle(&mut list);
            firsts[list[0]] += 1;
            list.sort_unstable();
            assert_eq!(list, [0, 1, 2, 3]);
        }
        assert!(chi_square(&firsts, &[1.0; 4]).is_likely(), "{firsts:?}");
    }
}
