//! A ring of hashes for consistent hashing (Karger et al., 1997), built as in gRFC A42 and Envoy.

use std::collections::BinaryHeap;

use crate::json::push_number;
use crate::{Endpoint, SubConn, SubConnMap, hash};

/// An endpoint in consistent hashing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place<'a> {
    /// The endpoint's subconn.
    pub id: SubConn,
    /// The [hash key](Endpoint::hash_key).
    pub key: &'a str,
    /// The weight, at least 1.
    pub weight: u32,
}

/// The endpoints of consistent hashing, sorted by key.
///
/// A change of one takes a binary search. The rest is copied, which is cheap.
#[derive(Clone, Debug, Default)]
pub struct Places {
    keys: SubConnMap<String>,
    order: Vec<Seat>,
}

/// An endpoint in the order of the keys.
#[derive(Clone, Copy, Debug)]
struct Seat {
    id: SubConn,
    weight: u32,
    /// Number of its points on the ring.
    points: u32,
}

impl Places {
    /// Applies a change of the list, as reported to [`Policy::endpoints`](crate::Policy::endpoints). Returns the
    /// subconns of endpoints that were removed or have another key, with their previous keys.
    pub fn update(&mut self, added: &[Endpoint], removed: &[SubConn]) -> Vec<(SubConn, String)> {
        let has_moved =
            |endpoint: &&Endpoint| self.keys.get(endpoint.id).is_some_and(|key| key != endpoint.hash_key());
        let moved = added.iter().filter(has_moved).map(|endpoint| endpoint.id);
        let leaving: Vec<_> = removed.iter().copied().chain(moved).collect();
        // Sorted by heaps: a quicksort is faster, but takes 4 KB of code for each type.
        let seats = leaving.iter().filter_map(|id| self.find(self.keys.get(*id)?, *id).ok());
        let mut seats = seats.collect::<BinaryHeap<_>>().into_sorted_vec();
        // One that is removed and comes again with another key.
        seats.dedup();
        self.order = spliced(&self.order, &seats, std::iter::empty());
        let gone = leaving.into_iter().filter_map(|id| Some((id, self.keys.remove(id)?))).collect();

        let mut joining = BinaryHeap::new();
        for endpoint in added {
            match self.find(endpoint.hash_key(), endpoint.id) {
                Ok(at) => self.order[at].weight = endpoint.weight,
                Err(_) => joining.push((endpoint.hash_key(), endpoint.id, endpoint.weight)),
            }
        }
        let seat = |(key, id, weight): (&str, SubConn, u32)| {
            let at = self.find(key, id).unwrap_or_else(|at| at);
            (at, Seat { id, weight, points: 0 })
        };
        self.order = spliced(&self.order, &[], joining.into_sorted_vec().into_iter().map(seat));
        for endpoint in added {
            if !self.keys.has(endpoint.id) {
                self.keys.insert(endpoint.id, endpoint.hash_key().to_owned());
            }
        }
        gone
    }

    /// Returns the index of an endpoint, or where it belongs.
    fn find(&self, key: &str, id: SubConn) -> Result<usize, usize> {
        self.order.binary_search_by(|seat| (self.key(seat.id), seat.id).cmp(&(key, id)))
    }

    fn key(&self, id: SubConn) -> &str {
        self.keys.get(id).map_or("", String::as_str)
    }

    /// Returns the places sorted by key, and those with equal keys by number.
    pub fn iter(&self) -> impl Iterator<Item = Place<'_>> {
        self.order.iter().map(|seat| Place { id: seat.id, key: self.key(seat.id), weight: seat.weight })
    }

    /// Returns the number of places.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.order.len()
    }

    /// Returns whether there are no places.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

/// Points on a circle of 64-bit hashes, each of which belongs to an endpoint. An RPC goes to the first point at or
/// after its own hash.
///
/// The number of points of an endpoint is proportional to its weight. There are at least `least` and
/// at most `most` points in all. Within these bounds, the endpoint with the least weight has a whole number of points.
/// The ring is computed as in grpc-go, so that clients of both have the same ring. The order of the endpoints makes no
/// difference.
///
/// A change of one endpoint changes the number of points of many others by one, down and up again with the next
/// change. So points that an endpoint has lost are kept, and passed over, until there are too many of them.
#[derive(Clone, Debug)]
pub struct Ring {
    least: u32,
    most: u32,
    /// In ascending order. A point is on the ring if its number is less than its endpoint's number of points.
    points: Vec<Point>,
    places: Places,
    /// Number of points of each endpoint.
    counts: SubConnMap<Count>,
    /// Number of points on the ring.
    len: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    hash: u64,
    owner: SubConn,
    number: u32,
}

/// Points of an endpoint.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    /// Those on the ring.
    on: u32,
    /// Those in the list.
    known: u32,
}

impl Ring {
    /// Creates a ring without endpoints.
    #[must_use]
    pub fn new(least: u32, most: u32) -> Self {
        let (places, counts) = (Places::default(), SubConnMap::default());
        Self { least, most, points: Vec::new(), places, counts, len: 0 }
    }

    /// Applies a change of the list, as reported to [`Policy::endpoints`](crate::Policy::endpoints). Hashes only the
    /// points that were not known.
    pub fn update(&mut self, added: &[Endpoint], removed: &[SubConn]) {
        let (mut gone, mut fresh) = (BinaryHeap::new(), BinaryHeap::new());
        for (id, key) in self.places.update(added, removed) {
            let count = self.counts.remove(id).unwrap_or_default();
            gone.extend((0..count.known).map(|number| Point::new(&key, id, number)));
        }
        self.count(&mut fresh);
        let at = |point: &Point| self.points.partition_point(|other| other < point);
        let gone: Vec<_> = gone.into_sorted_vec().iter().map(at).collect();
        let fresh = fresh.into_sorted_vec().into_iter().map(|point| (at(&point), point));
        self.points = spliced(&self.points, &gone, fresh);
        if self.points.len() > 2 * (self.len + self.places.len()) {
            self.points
                .retain(|point| self.counts.get(point.owner).is_some_and(|count| point.number < count.on));
            self.counts.values_mut().for_each(|count| count.known = count.on);
        }
    }

    /// Sets the number of points of each endpoint, and collects those to add. Each step as in grpc-go.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most the greatest size")]
    #[expect(clippy::cast_precision_loss, reason = "less than 2^53")]
    fn count(&mut self, fresh: &mut BinaryHeap<Point>) {
        let weights = || self.places.order.iter().map(|seat| seat.weight);
        let sum = weights().map(u64::from).sum::<u64>() as f64;
        let (mut target, mut made) = (0.0, 0);
        if let Some(lightest) = weights().min() {
            let lightest = f64::from(lightest) / sum;
            let scale = ((lightest * f64::from(self.least)).ceil() / lightest).min(f64::from(self.most));
            // A ring without points gets all of them.
            fresh.reserve(if self.points.is_empty() { scale as usize + 1 } else { 0 });
            for seat in &mut self.places.order {
                target += scale * (f64::from(seat.weight) / sum);
                let first = made;
                made = made.max(f64::ceil(target) as u32);
                if seat.points == made - first {
                    continue;
                }
                seat.points = made - first;
                let count = self.counts.get_or_insert_with(seat.id, Count::default);
                count.on = seat.points;
                let key = self.places.keys.get(seat.id).map_or("", String::as_str);
                fresh.extend((count.known..count.on).map(|number| Point::new(key, seat.id, number)));
                count.known = count.known.max(count.on);
            }
        }
        self.len = made as usize;
    }

    /// Returns the endpoints of the ring.
    #[must_use]
    pub const fn places(&self) -> &Places {
        &self.places
    }

    /// Returns the owners of the points from a hash on, once around. An endpoint occurs once for each of its points.
    pub fn from(&self, hash: u64) -> impl Iterator<Item = SubConn> {
        let first = self.points.partition_point(|point| point.hash < hash);
        let (before, after) = self.points.split_at(first);
        let is_on =
            |point: &&Point| self.counts.get(point.owner).is_some_and(|count| point.number < count.on);
        after.iter().chain(before).filter(is_on).map(|point| point.owner)
    }

    /// Returns the number of points.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns whether the ring has no points.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Point {
    fn new(key: &str, owner: SubConn, number: u32) -> Self {
        let mut name = String::with_capacity(key.len() + 6);
        name.push_str(key);
        name.push('_');
        push_number(&mut name, number.into());
        Self { hash: hash(name.as_bytes()), owner, number }
    }
}

/// Returns a list without what is at these indices, and with others before these; both ascending.
fn spliced<T: Copy>(list: &[T], gone: &[usize], new: impl ExactSizeIterator<Item = (usize, T)>) -> Vec<T> {
    let mut next = Vec::with_capacity(list.len() - gone.len() + new.len());
    let (mut from, mut new) = (0, new.peekable());
    for end in gone.iter().copied().chain([list.len()]) {
        while let Some((at, value)) = new.next_if(|(at, _)| *at <= end) {
            next.extend_from_slice(&list[from..at]);
            next.push(value);
            from = at;
        }
        next.extend_from_slice(&list[from..end]);
        from = end + 1;
    }
    next
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::endpoint;

    fn weighted(id: SubConn, weight: u32) -> Endpoint {
        Endpoint { weight, ..endpoint(id, &[]) }
    }

    fn ring(endpoints: &[Endpoint], least: u32, most: u32) -> Ring {
        let mut ring = Ring::new(least, most);
        ring.update(endpoints, &[]);
        ring
    }

    #[test]
    fn sizes_are_those_of_grfc_a42() {
        let size = |weights: &[u32], least, most| {
            let endpoints: Vec<_> =
                weights.iter().zip(0..).map(|(weight, id)| weighted(id, *weight)).collect();
            ring(&endpoints, least, most).len()
        };
        assert_eq!(size(&[1, 1, 1], 1, 4_096), 3);
        // A ring of at least 1,024 points has 342 for each of three endpoints.
        assert_eq!(size(&[1, 1, 1], 1_024, 4_096), 1_026);
        assert_eq!(size(&[1, 2, 5], 8, 4_096), 8);
        assert_eq!(size(&[1, 99], 1_024, 4_096), 1_100);
        assert_eq!(size(&[1, 99], 1_024, 512), 512);
        assert_eq!(size(&[], 1_024, 512), 0);
    }

    #[test]
    fn it_goes_around_and_the_order_of_endpoints_makes_no_difference() {
        let (a, b) = (weighted(1, 1), weighted(2, 1));
        let (ring, turned) = (ring(&[a.clone(), b.clone()], 4, 4), ring(&[b, a], 4, 4));
        assert_eq!(ring.points, turned.points);
        let all: Vec<_> = ring.points.iter().map(|point| point.owner).collect();
        assert_eq!(ring.from(0).collect::<Vec<_>>(), all);
        assert_eq!(ring.from(ring.points[3].hash).next(), Some(ring.points[3].owner));
        assert_eq!(ring.from(ring.points[3].hash + 1).collect::<Vec<_>>(), all);
    }

    /// The ring of gRFC A42, computed at once, as in grpc-go.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small")]
    fn model(endpoints: &[Endpoint], least: u32, most: u32) -> Vec<(u64, SubConn)> {
        let sum: f64 = endpoints.iter().map(|endpoint| f64::from(endpoint.weight)).sum();
        let normalized = |endpoint: &Endpoint| f64::from(endpoint.weight) / sum;
        let minimum = endpoints.iter().map(normalized).fold(f64::INFINITY, f64::min);
        let scale = f64::min((minimum * f64::from(least)).ceil() / minimum, f64::from(most));
        let mut sorted = endpoints.to_vec();
        sorted.sort_by(|one, other| one.hash_key().cmp(other.hash_key()).then(one.id.cmp(&other.id)));
        let (mut ring, mut current, mut target) = (Vec::with_capacity(scale.ceil() as usize), 0.0, 0.0);
        for endpoint in &sorted {
            target += scale * normalized(endpoint);
            let mut index = 0;
            while current < target {
                let key = format!("{}_{index}", endpoint.hash_key());
                ring.push((twox_hash::XxHash64::oneshot(0, key.as_bytes()), endpoint.id));
                index += 1;
                current += 1.0;
            }
        }
        ring.sort_unstable();
        ring
    }

    proptest! {
        #[test]
        fn a_ring_that_was_changed_is_the_ring_of_what_there_is(
            sizes in (1u32..200, 0u32..300),
            changes in prop::collection::vec((0u32..12, 0u32..6, any::<bool>()), 1..30),
        ) {
            let (least, most) = (sizes.0, sizes.0 + sizes.1);
            let (mut ring, mut there) = (Ring::new(least, most), std::collections::BTreeMap::new());
            for (id, weight, named) in changes {
                if weight == 0 && named {
                    // All at once, and some of them again.
                    let all: Vec<_> = std::mem::take(&mut there).into_keys().collect();
                    let again: Vec<_> = all.iter().filter(|id| *id % 2 == 0).map(|id| weighted(*id, 2)).collect();
                    ring.update(&again, &all);
                    there.extend(again.into_iter().map(|endpoint| (endpoint.id, endpoint)));
                } else if weight == 0 {
                    ring.update(&[], &[id]);
                    there.remove(&id);
                } else {
                    // Some have a name, which others may have, too.
                    let name = format!("n{}", id % 3);
                    let attributes: &[_] = if named { &[("hash_key", name.as_str())] } else { &[] };
                    let endpoint = Endpoint { weight, ..endpoint(id, attributes) };
                    ring.update(std::slice::from_ref(&endpoint), &[]);
                    there.insert(id, endpoint);
                }
                let endpoints: Vec<_> = there.values().cloned().collect();
                let expected = model(&endpoints, least, most);
                let is_on = |point: &&Point| point.number < ring.counts.get(point.owner).map_or(0, |count| count.on);
                let on = ring.points.iter().filter(is_on).map(|point| (point.hash, point.owner));
                prop_assert!(on.eq(expected.iter().copied()));
                prop_assert!(ring.from(0).eq(expected.iter().map(|(_, owner)| *owner)));
                prop_assert_eq!(ring.len(), expected.len());
                let known: u32 = ring.counts.values().map(|count| count.known).sum();
                prop_assert_eq!(ring.points.len(), known as usize);
                prop_assert!(ring.points.len() <= 2 * (ring.len() + endpoints.len()));
            }
        }
    }
}
