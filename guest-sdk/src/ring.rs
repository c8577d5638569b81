//! A ring of hashes, for consistent hashing (Karger et al., 1997), built as gRFC A42 and Envoy do.

use std::collections::BinaryHeap;

use crate::json::push_number;
use crate::{Endpoint, SubConn, hash};

/// What consistent hashing knows of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place {
    /// The subconn.
    pub id: SubConn,
    /// The [hash key](Endpoint::hash_key).
    pub key: String,
    /// The weight, at least 1.
    pub weight: u32,
}

impl Place {
    /// Of this endpoint.
    #[must_use]
    pub fn of(endpoint: &Endpoint) -> Self {
        Self { id: endpoint.id, key: endpoint.hash_key().to_owned(), weight: endpoint.weight }
    }
}

/// Points on a circle of 64-bit hashes, each of an endpoint: an RPC goes to the first one from its own hash on.
#[derive(Clone, Debug, Default)]
pub struct Ring {
    /// Ascending.
    points: Vec<(u64, SubConn)>,
}

impl Ring {
    /// Places endpoints by their hash keys, each as often as its weight says: the one
    /// with the least weight as often as to have `least` points in all, if that is not more than `most`.
    ///
    /// The order of the endpoints makes no difference.
    #[must_use]
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "some million points")]
    #[expect(clippy::cast_sign_loss, reason = "not negative")]
    pub fn new<'a>(endpoints: impl Iterator<Item = &'a Place>, least: u32, most: u32) -> Self {
        let endpoints: Vec<_> = endpoints.collect();
        // Sorted by heaps: a quicksort is faster, and 4 KB of code for each type.
        let named = endpoints.iter().zip(0..).map(|(place, at)| (place.key.as_str(), at));
        let order = named.collect::<BinaryHeap<(&str, usize)>>().into_sorted_vec();
        let sum: f64 = endpoints.iter().map(|endpoint| f64::from(endpoint.weight)).sum();
        let Some(lightest) = endpoints.iter().map(|endpoint| endpoint.weight).min() else {
            return Self::default();
        };
        // Each step as in grpc-go, so that clients of both have the same ring.
        let lightest = f64::from(lightest) / sum;
        let scale = ((lightest * f64::from(least)).ceil() / lightest).min(f64::from(most));
        let mut points = Vec::with_capacity(scale.ceil() as usize);
        let (mut target, mut name) = (0.0, String::new());
        for (key, at) in order {
            let (id, weight) = (endpoints[at].id, endpoints[at].weight);
            target += scale * (f64::from(weight) / sum);
            let mut number = 0;
            while (points.len() as f64) < target {
                name.clear();
                name.push_str(key);
                name.push('_');
                push_number(&mut name, number);
                points.push((hash(name.as_bytes()), id));
                number += 1;
            }
        }
        Self { points: BinaryHeap::from(points).into_sorted_vec() }
    }

    /// The owners of the points from a hash on, once around; an endpoint comes as often as it has points.
    pub fn from(&self, hash: u64) -> impl Iterator<Item = SubConn> {
        let first = self.points.partition_point(|(point, _)| *point < hash);
        let (before, after) = self.points.split_at(first);
        after.iter().chain(before).map(|(_, owner)| *owner)
    }

    /// How many points it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.points.len()
    }

    /// It has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::endpoint;

    #[test]
    fn sizes_are_those_of_grfc_a42() {
        let size = |weights: &[u32], least, most| {
            let endpoints: Vec<_> = weights
                .iter()
                .zip(0..)
                .map(|(weight, id)| Place { weight: *weight, ..Place::of(&endpoint(id, &[])) })
                .collect();
            Ring::new(endpoints.iter(), least, most).len()
        };
        assert_eq!(size(&[1, 1, 1], 1, 4_096), 3);
        // A least ring of 1,024 for three has 342 points each.
        assert_eq!(size(&[1, 1, 1], 1_024, 4_096), 1_026);
        assert_eq!(size(&[1, 2, 5], 8, 4_096), 8);
        assert_eq!(size(&[1, 99], 1_024, 4_096), 1_100);
        assert_eq!(size(&[1, 99], 1_024, 512), 512);
        assert_eq!(size(&[], 1_024, 512), 0);
    }

    #[test]
    fn it_goes_around_and_the_order_of_endpoints_makes_no_difference() {
        let (a, b) = (Place::of(&endpoint(1, &[])), Place::of(&endpoint(2, &[])));
        let (ring, turned) = (Ring::new([&a, &b].into_iter(), 4, 4), Ring::new([&b, &a].into_iter(), 4, 4));
        assert_eq!(ring.points, turned.points);
        let all: Vec<_> = ring.points.iter().map(|(_, owner)| *owner).collect();
        assert_eq!(ring.from(0).collect::<Vec<_>>(), all);
        assert_eq!(ring.from(ring.points[3].0).next(), Some(ring.points[3].1));
        assert_eq!(ring.from(ring.points[3].0 + 1).collect::<Vec<_>>(), all);
    }
}
