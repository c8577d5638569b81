//! The lookup table of Maglev (Eisenbud et al., NSDI 2016, section 3.4), filled as in Envoy.

use hotpick_guest::random::mix;
use hotpick_guest::ring::Places;
use hotpick_guest::{SubConn, SubConnMap, hash, hash_with_seed};

use crate::packed::Packed;

/// Entries of endpoints, in number proportional to their weights.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) owners: Vec<Owner>,
    /// Index of each entry's owner in `owners`.
    pub(crate) entries: Packed,
}

/// An endpoint in the table.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) id: SubConn,
    /// Where its walk begins.
    start: u32,
    skip: u32,
    /// Number of its entries.
    share: u32,
}

/// Start and step of an endpoint's walk through the table, derived from its name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hashes {
    offset: u64,
    skip: u64,
}

impl Hashes {
    pub(crate) fn of(name: &str) -> Self {
        Self { offset: hash(name.as_bytes()), skip: hash_with_seed(1, name.as_bytes()) }
    }
}

/// An endpoint's walk through the table, which visits all entries in an order of its own.
struct Filler {
    /// The next entry of the walk.
    at: u32,
    /// Share of the sum of all weights.
    weight: f64,
    /// The endpoint takes an entry in the round in which its weight, added up over the rounds, reaches this.
    target: f64,
}

/// The entries that have no owner yet.
struct Free {
    /// Whether an entry has an owner: smaller, and so faster, than the table.
    taken: Vec<bool>,
    count: usize,
    /// The free entries, as soon as there are few of them.
    last: Vec<u32>,
}

/// Number of free entries from which on each of them is asked how far it is, instead of walking there: a walk takes
/// `size / free` steps, this takes `free` multiplications, which are slower.
const FEW: usize = 100;

/// Greatest weight, as a multiple of the mean. The number of rounds to fill the table grows with it.
const MOST_TO_MEAN: f64 = 20.0;

impl Table {
    /// Fills a table. The endpoints take turns, sorted by name. Each takes the first free entry in its own order. When
    /// an endpoint is added or removed, most entries stay the same. The table is the same as Envoy's (hashes, turns,
    /// and the rounding of weights), so that clients of both send a key to the same endpoint. Only weights of more than
    /// twenty times the mean are capped.
    ///
    /// `size` is a prime number, so that each order visits all entries. The order of the endpoints makes no difference.
    #[expect(clippy::cast_precision_loss, reason = "numbers of endpoints and of entries")]
    pub(crate) fn new(places: &Places, hashes: &SubConnMap<Hashes>, size: u32) -> Self {
        if places.is_empty() {
            return Self::default();
        }
        let mean = places.iter().map(|place| f64::from(place.weight)).sum::<f64>() / places.len() as f64;
        let bounded = |weight: u32| f64::from(weight).min(mean * MOST_TO_MEAN);
        let sum: f64 = places.iter().map(|place| bounded(place.weight)).sum();
        let (mut owners, mut fillers) = (Vec::with_capacity(places.len()), Vec::with_capacity(places.len()));
        let mut before = None;
        for place in places.iter() {
            // Endpoints with the same name would walk the same way.
            let is_double = before.replace(place.key) == Some(place.key);
            let salt = if is_double { mix(owners.len() as u64) } else { 0 };
            let hashes = hashes.get(place.id).copied().unwrap_or_else(|| Hashes::of(place.key));
            let below = |hash: u64, bound: u32| u32::try_from((hash ^ salt) % u64::from(bound)).unwrap_or(0);
            let (start, skip) = (below(hashes.offset, size), below(hashes.skip, size - 1) + 1);
            owners.push(Owner { id: place.id, start, skip, share: 0 });
            fillers.push(Filler { at: start, weight: bounded(place.weight) / sum, target: 0.0 });
        }
        let heaviest = fillers.iter().map(|filler| filler.weight).fold(0.0, f64::max);
        let mut entries = Packed::new(size as usize, owners.len());
        let (mut free, mut round) = (Free::all(size), 0.0);
        while free.count > 0 {
            round += 1.0;
            for (index, (filler, owner)) in fillers.iter_mut().zip(&mut owners).enumerate() {
                if round * filler.weight < filler.target {
                    continue;
                }
                filler.target += heaviest;
                let Some(entry) = free.take(filler.at, owner.skip, size) else { break };
                entries.set(entry as usize, index);
                filler.at = entry;
                owner.share += 1;
            }
        }
        Self { owners, entries }
    }

    /// Returns the entries of an owner.
    pub(crate) fn entries_of(&self, index: usize) -> impl Iterator<Item = usize> {
        let Owner { start, skip, share, .. } = self.owners[index];
        let length = self.entries.len();
        let walk = std::iter::successors(Some(start as usize), move |at| Some((at + skip as usize) % length));
        walk.filter(move |at| self.entries.get(*at) == index).take(share as usize)
    }
}

impl Free {
    fn all(size: u32) -> Self {
        let mut free = Self { taken: vec![false; size as usize], count: size as usize, last: Vec::new() };
        free.list_if_few(size);
        free
    }

    /// Takes the first free entry of a walk. `None`: there is none.
    fn take(&mut self, mut at: u32, skip: u32, size: u32) -> Option<u32> {
        if self.last.is_empty() {
            if self.count == 0 {
                return None;
            }
            while self.is_taken(at) {
                at += skip;
                at = at.min(at.wrapping_sub(size));
            }
        } else {
            // The number of steps to an entry is its distance divided by the step, modulo the size.
            let inverse = inverse(skip, size);
            let steps = |entry: &u32| times(entry + size - at, inverse, size);
            let nearest = (0..self.last.len()).min_by_key(|index| steps(&self.last[*index]))?;
            at = self.last.swap_remove(nearest);
        }
        self.taken[at as usize] = true;
        self.count -= 1;
        if self.last.is_empty() {
            self.list_if_few(size);
        }
        Some(at)
    }

    fn list_if_few(&mut self, size: u32) {
        if self.count <= FEW {
            self.last = (0..size).filter(|at| !self.is_taken(*at)).collect();
        }
    }

    #[inline(always)]
    fn is_taken(&self, at: u32) -> bool {
        self.taken[at as usize]
    }
}

#[expect(clippy::cast_possible_truncation, reason = "less than the size")]
const fn times(one: u32, other: u32, size: u32) -> u32 {
    (one as u64 * other as u64 % size as u64) as u32
}

/// Returns the number that multiplied by `number` is 1 modulo a prime (Fermat's little theorem).
fn inverse(number: u32, prime: u32) -> u32 {
    let (mut result, mut power, mut exponent) = (1, number % prime, prime - 2);
    while exponent > 0 {
        if exponent % 2 == 1 {
            result = times(result, power, prime);
        }
        power = times(power, power, prime);
        exponent /= 2;
    }
    result
}

/// Returns whether a number is prime.
pub(crate) fn is_prime(number: u32) -> bool {
    number >= 2
        && (2..)
            .take_while(|divisor| divisor * divisor <= number)
            .all(|divisor| !number.is_multiple_of(divisor))
}

#[cfg(test)]
mod tests {
    use hotpick_guest::Endpoint;
    use hotpick_guest::testing::endpoint;

    use super::*;

    fn endpoints(n: u32) -> Vec<Endpoint> {
        (0..n).map(|id| endpoint(id, &[])).collect()
    }

    fn table<'a>(endpoints: impl Iterator<Item = &'a Endpoint>, size: u32) -> Vec<SubConn> {
        let mut places = Places::default();
        places.update(&endpoints.cloned().collect::<Vec<_>>(), &[]);
        let table = Table::new(&places, &SubConnMap::default(), size);
        for index in 0..table.owners.len() {
            let mut own: Vec<_> = table.entries_of(index).collect();
            own.sort_unstable();
            let all = 0..table.entries.len();
            assert!(own.into_iter().eq(all.filter(|at| table.entries.get(*at) == index)));
        }
        (0..table.entries.len()).map(|at| table.owners[table.entries.get(at)].id).collect()
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
        // Each gets an entry in the first round, however light it is.
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
        // In addition to its own 655: a few per cent, where a ring moves none (figure 12 of the paper).
        assert!(moved * 100 < 65_537 * 4, "{moved} entries of others");
    }

    #[test]
    fn each_has_an_entry_whatever_the_weights_and_names() {
        let mut endpoints = endpoints(100);
        endpoints[7].weight = 1_000_000;
        let counts = counts(&table(endpoints.iter(), 1_009), 100);
        assert!(counts.iter().all(|count| *count > 0) && counts[7] > 100, "{counts:?}");
        for endpoint in &mut endpoints {
            (endpoint.weight, endpoint.addresses) = (1, vec!["same".to_owned()]);
        }
        let table = table(endpoints.iter(), 1_009);
        assert!((0..100).all(|id| table.contains(&id)));
    }

    /// Compared with the entries that Envoy 1.40 was observed to use.
    #[test]
    fn it_is_the_table_of_envoy() {
        let named = |(number, weight): &(u32, u32)| {
            let addresses = vec![format!("127.0.0.{number}:18080")];
            Endpoint { addresses, weight: *weight, ..endpoint(*number, &[]) }
        };
        for (endpoints, expected) in [
            (vec![(11, 1), (12, 1), (13, 1)], vec![11, 11, 13, 12, 13, 12, 11]),
            (vec![(11, 1), (12, 2), (13, 3)], vec![12, 11, 13, 12, 13, 12, 11]),
            (
                vec![(14, 7), (11, 1), (15, 3), (12, 2), (13, 5)],
                vec![
                    14, 11, 13, 13, 12, 11, 12, 14, 14, 13, 12, 12, 14, 15, 15, 13, 15, 14, 14, 14, 14, 13,
                    13, 15, 14, 15, 13, 13, 13, 14, 14,
                ],
            ),
            // With more endpoints than entries, the last by name have none.
            ((11..=20).map(|number| (number, 1)).collect(), vec![17, 11, 14, 16, 13, 12, 15]),
        ] {
            let places: Vec<_> = endpoints.iter().map(named).collect();
            let size = u32::try_from(expected.len()).expect("small");
            assert_eq!(table(places.iter(), size), expected);
        }
    }

    #[test]
    fn primes_are_known() {
        let primes: Vec<u32> = (0..30).filter(|number| is_prime(*number)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
        assert!(is_prime(65_537) && is_prime(655_373) && !is_prime(65_536) && !is_prime(1_000_001));
    }
}
