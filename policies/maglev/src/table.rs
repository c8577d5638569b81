//! The lookup table of Maglev (Eisenbud et al., NSDI 2016, section 3.4).

use std::collections::BinaryHeap;

use hotpick_guest::random::mix;
use hotpick_guest::ring::Place;
use hotpick_guest::{SubConn, hash};

/// Entries of about the same number for each endpoint, in proportion to the weights.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) owners: Vec<SubConn>,
    /// The place of each entry's owner.
    pub(crate) entries: Vec<u32>,
}

/// An endpoint on its way through the table: it has its own order of all entries.
struct Filler {
    /// Of the next entry that it would like.
    at: u64,
    skip: u64,
    /// Against the largest one.
    weight: f64,
    /// Turns that its weight has earned it, and that it has had.
    due: f64,
    had: f64,
}

const FREE: u32 = u32::MAX;
/// No weight counts as more than this many times the mean: the rounds that it takes to fill the table grow with it.
const MOST_TO_MEAN: f64 = 20.0;

impl Table {
    /// The endpoints take turns: each takes the first entry in its own order that is free. When one comes or goes, most
    /// entries stay as they are.
    ///
    /// `size` is a prime number, so that each order has every entry. The order of the endpoints makes no difference.
    pub(crate) fn new<'a>(endpoints: impl Iterator<Item = &'a Place>, size: u32) -> Self {
        let endpoints: Vec<_> = endpoints.collect();
        let named = endpoints.iter().zip(0..).map(|(place, at)| (hash(place.key.as_bytes()), at));
        let order = named.collect::<BinaryHeap<(u64, usize)>>().into_sorted_vec();
        let Some(heaviest) = endpoints.iter().map(|endpoint| endpoint.weight).max() else {
            return Self::default();
        };
        let length = u64::from(size);
        #[expect(clippy::cast_precision_loss, reason = "a number of endpoints")]
        let mean =
            endpoints.iter().map(|place| f64::from(place.weight)).sum::<f64>() / endpoints.len() as f64;
        let heaviest = f64::from(heaviest).min(mean * MOST_TO_MEAN);
        let mut fillers: Vec<Filler> = Vec::with_capacity(order.len());
        let mut before = None;
        for (offset, at) in &order {
            // Those of the same name would all want the same entries.
            let is_double = before.replace(*offset) == Some(*offset);
            let offset = if is_double { mix(*offset ^ fillers.len() as u64) } else { *offset };
            // The paper has two hash functions; this makes the second of the first.
            let skip = mix(offset) % (length - 1) + 1;
            let weight = (f64::from(endpoints[*at].weight) / heaviest).min(1.0);
            // In the first round each has one, however light it is.
            fillers.push(Filler { at: offset % length, skip, weight, due: 1.0 - weight, had: 0.0 });
        }
        let mut entries = vec![FREE; size as usize];
        let mut free = entries.len();
        while free > 0 {
            for (filler, owner) in fillers.iter_mut().zip(0..) {
                filler.due += filler.weight;
                // The heaviest has one in each round.
                if filler.due < filler.had + 1.0 - 1e-9 || free == 0 {
                    continue;
                }
                filler.had += 1.0;
                while entries[filler.place()] != FREE {
                    filler.go_on(length);
                }
                entries[filler.place()] = owner;
                free -= 1;
            }
        }
        Self { owners: order.iter().map(|(_, at)| endpoints[*at].id).collect(), entries }
    }
}

impl Filler {
    #[expect(clippy::cast_possible_truncation, reason = "less than the size")]
    const fn place(&self) -> usize {
        self.at as usize
    }

    const fn go_on(&mut self, length: u64) {
        self.at += self.skip;
        if self.at >= length {
            self.at -= length;
        }
    }
}

/// Whether a number is prime.
pub(crate) fn is_prime(number: u32) -> bool {
    number >= 2
        && (2..)
            .take_while(|divisor| divisor * divisor <= number)
            .all(|divisor| !number.is_multiple_of(divisor))
}

#[cfg(test)]
mod tests {
    use hotpick_guest::testing::endpoint;

    use super::*;

    fn endpoints(n: u32) -> Vec<Place> {
        (0..n).map(|id| Place::of(&endpoint(id, &[]))).collect()
    }

    fn table<'a>(endpoints: impl Iterator<Item = &'a Place>, size: u32) -> Vec<SubConn> {
        let Table { owners, entries } = Table::new(endpoints, size);
        entries.iter().map(|owner| owners[*owner as usize]).collect()
    }

    fn counts(table: &[SubConn], n: u32) -> Vec<usize> {
        (0..n).map(|id| table.iter().filter(|owner| **owner == id).count()).collect()
    }

    #[test]
    fn each_has_the_same_number_of_entries_but_for_one() {
        for n in [1, 3, 100] {
            let counts = counts(&table(endpoints(n).iter(), 65_537), n);
            let (least, most) = (counts.iter().min(), counts.iter().max());
            assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{n}: {counts:?}");
        }
        assert!(table(endpoints(0).iter(), 65_537).is_empty());
    }

    #[test]
    fn the_entries_are_as_the_weights() {
        let mut endpoints = endpoints(3);
        for (endpoint, weight) in endpoints.iter_mut().zip([1, 2, 5]) {
            endpoint.weight = weight;
        }
        let counts = counts(&table(endpoints.iter(), 8_009), 3);
        for (count, expected) in counts.iter().zip([1_001, 2_002, 5_006]) {
            assert!(count.abs_diff(expected) <= 5, "{counts:?}");
        }
    }

    #[test]
    fn the_order_of_the_endpoints_makes_no_difference() {
        let (forth, mut back) = (endpoints(10), endpoints(10));
        back.reverse();
        assert_eq!(table(forth.iter(), 1_009), table(back.iter(), 1_009));
    }

    #[test]
    fn few_entries_move_when_one_goes() {
        let all = endpoints(100);
        let before = table(all.iter(), 65_537);
        let after = table(all.iter().filter(|endpoint| endpoint.id != 7), 65_537);
        let moved =
            before.iter().zip(&after).filter(|(before, after)| before != after && **before != 7).count();
        // Beside its own 655: a few per cent, where a ring has none (figure 12 of the paper).
        assert!(moved * 100 < 65_537 * 4, "{moved} entries of others");
    }

    #[test]
    fn each_has_an_entry_whatever_the_weights_and_names() {
        let mut endpoints = endpoints(100);
        endpoints[7].weight = 1_000_000;
        let counts = counts(&table(endpoints.iter(), 1_009), 100);
        assert!(counts.iter().all(|count| *count > 0) && counts[7] > 100, "{counts:?}");
        for endpoint in &mut endpoints {
            (endpoint.weight, endpoint.key) = (1, "same".to_owned());
        }
        let table = table(endpoints.iter(), 1_009);
        assert!((0..100).all(|id| table.contains(&id)));
    }

    #[test]
    fn primes_are_known() {
        let primes: Vec<u32> = (0..30).filter(|number| is_prime(*number)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
        assert!(is_prime(65_537) && is_prime(655_373) && !is_prime(65_536) && !is_prime(1_000_001));
    }
}
