//! A ring of hashes for consistent hashing (Karger et al., 1997), built as in gRFC A42 and Envoy.

use std::collections::BinaryHeap;

use crate::json::push_number;
use crate::{Endpoint, SubConn, SubConnMap, hash};

/// An endpoint in consistent hashing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place {
    /// The endpoint's subconn.
    pub id: SubConn,
    /// The [hash key](Endpoint::hash_key).
    pub key: String,
    /// The weight, at least 1.
    pub weight: u32,
}

impl Place {
    /// Returns the place of an endpoint.
    #[must_use]
    pub fn of(endpoint: &Endpoint) -> Self {
        Self { id: endpoint.id, key: endpoint.hash_key().to_owned(), weight: endpoint.weight }
    }
}

/// The endpoints of consistent hashing, sorted by key.
#[derive(Clone, Debug, Default)]
pub struct Places {
    of: SubConnMap<Place>,
    order: Vec<SubConn>,
}

impl Places {
    /// Applies a change of the list, as reported to [`Policy::endpoints`](crate::Policy::endpoints). Returns the
    /// previous places of endpoints that were removed or have another key.
    pub fn update(&mut self, added: &[Endpoint], removed: &[SubConn]) -> Vec<Place> {
        let mut moved: Vec<SubConn> = removed.to_vec();
        // Sorted by a heap: a quicksort is faster, but takes 4 KB of code for each type.
        let mut new = BinaryHeap::new();
        for endpoint in added {
            if self.of.get(endpoint.id).is_none_or(|place| place.key != endpoint.hash_key()) {
                moved.push(endpoint.id);
                new.push((endpoint.hash_key(), endpoint.id));
            }
        }
        let gone = moved.into_iter().filter_map(|id| self.of.remove(id)).collect();
        let before = std::mem::take(&mut self.order).into_iter();
        let named = before.filter_map(|id| Some((self.of.get(id)?.key.as_str(), id)));
        self.order = merge(named, new.into_sorted_vec().into_iter()).map(|(_, id)| id).collect();
        for endpoint in added {
            self.of.insert(endpoint.id, Place::of(endpoint));
        }
        gone
    }

    /// Returns the places sorted by key, and those with equal keys by number.
    pub fn iter(&self) -> impl Iterator<Item = &Place> {
        self.order.iter().filter_map(|id| self.of.get(*id))
    }

    /// Returns the place of a subconn.
    #[must_use]
    pub fn get(&self, id: SubConn) -> Option<&Place> {
        self.of.get(id)
    }

    /// Returns the number of places.
    #[must_use]
    pub fn len(&self) -> usize {
        self.of.len()
    }

    /// Returns whether there are no places.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }
}

/// Points on a circle of 64-bit hashes, each of which belongs to an endpoint. An RPC goes to the first point at or
/// after its own hash.
///
/// The number of points of an endpoint is proportional to its weight. There are at least `least` and
/// at most `most` points in all. Within these bounds, the endpoint with the least weight has a whole number of points.
/// The ring is computed as in grpc-go, so that clients of both have the same ring. The order of the endpoints makes no
/// difference.
#[derive(Clone, Debug)]
pub struct Ring {
    least: u32,
    most: u32,
    /// In ascending order.
    points: Vec<(u64, SubConn)>,
    places: Places,
    /// Number of points of each endpoint.
    counts: SubConnMap<u32>,
}

impl Ring {
    /// Creates a ring without endpoints.
    #[must_use]
    pub fn new(least: u32, most: u32) -> Self {
        Self { least, most, points: Vec::new(), places: Places::default(), counts: SubConnMap::default() }
    }

    /// Applies a change of the list, as reported to [`Policy::endpoints`](crate::Policy::endpoints). Hashes only the
    /// points that are added or removed.
    pub fn update(&mut self, added: &[Endpoint], removed: &[SubConn]) {
        let (mut fresh, mut gone) = (BinaryHeap::new(), BinaryHeap::new());
        for place in self.places.update(added, removed) {
            let count = self.counts.remove(place.id).unwrap_or(0);
            gone.extend((0..count).map(|number| (place.point(number), place.id)));
        }
        self.count(&mut fresh, &mut gone);
        let mut gone = gone.into_sorted_vec().into_iter().peekable();
        let before = std::mem::take(&mut self.points).into_iter();
        let kept = before.filter(|point| gone.next_if_eq(point).is_none());
        self.points = merge(kept, fresh.into_sorted_vec().into_iter()).collect();
    }

    /// Sets the number of points of each endpoint, and collects the points to add and to remove. Each step as in
    /// grpc-go.
    fn count(&mut self, fresh: &mut BinaryHeap<(u64, SubConn)>, gone: &mut BinaryHeap<(u64, SubConn)>) {
        let weights = || self.places.iter().map(|place| place.weight);
        let sum: f64 = weights().map(f64::from).sum();
        let Some(lightest) = weights().min() else { return };
        let lightest = f64::from(lightest) / sum;
        let scale = ((lightest * f64::from(self.least)).ceil() / lightest).min(f64::from(self.most));
        let (mut target, mut made) = (0.0, 0u32);
        for place in self.places.iter() {
            target += scale * (f64::from(place.weight) / sum);
            let first = made;
            while f64::from(made) < target {
                made += 1;
            }
            let count = made - first;
            let before = self.counts.insert(place.id, count).unwrap_or(0);
            fresh.extend((before..count).map(|number| (place.point(number), place.id)));
            gone.extend((count..before).map(|number| (place.point(number), place.id)));
        }
    }

    /// Returns the endpoints of the ring.
    #[must_use]
    pub const fn places(&self) -> &Places {
        &self.places
    }

    /// Returns the owners of the points from a hash on, once around. An endpoint occurs once for each of its points.
    pub fn from(&self, hash: u64) -> impl Iterator<Item = SubConn> {
        let first = self.points.partition_point(|(point, _)| *point < hash);
        let (before, after) = self.points.split_at(first);
        after.iter().chain(before).map(|(_, owner)| *owner)
    }

    /// Returns the number of points.
    #[must_use]
    pub fn len(&self) -> usize {
        self.points.len()
    }

    /// Returns whether the ring has no points.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }
}

impl Place {
    /// Returns the hash of a point.
    fn point(&self, number: u32) -> u64 {
        let mut name = String::with_capacity(self.key.len() + 6);
        name.push_str(&self.key);
        name.push('_');
        push_number(&mut name, number.into());
        hash(name.as_bytes())
    }
}

/// Merges two ascending lists.
fn merge<T: Ord>(one: impl Iterator<Item = T>, other: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
    let (mut one, mut other) = (one.peekable(), other.peekable());
    std::iter::from_fn(move || match (one.peek(), other.peek()) {
        (Some(next), Some(others)) if others < next => other.next(),
        (None, _) => other.next(),
        _ => one.next(),
    })
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
        let all: Vec<_> = ring.points.iter().map(|(_, owner)| *owner).collect();
        assert_eq!(ring.from(0).collect::<Vec<_>>(), all);
        assert_eq!(ring.from(ring.points[3].0).next(), Some(ring.points[3].1));
        assert_eq!(ring.from(ring.points[3].0 + 1).collect::<Vec<_>>(), all);
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
            changes in prop::collection::vec((0u32..12, 0u32..4, any::<bool>()), 1..30),
        ) {
            let (least, most) = (sizes.0, sizes.0 + sizes.1);
            let (mut ring, mut there) = (Ring::new(least, most), std::collections::BTreeMap::new());
            for (id, weight, named) in changes {
                if weight == 0 {
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
                prop_assert_eq!(&ring.points, &model(&endpoints, least, most));
            }
        }
    }
}
