//! Zone-aware routing, implemented independently and without optimization, and compared with the policy's shares.

use std::collections::BTreeMap;

use hotpick_guest::Endpoint;
use hotpick_guest::random::Random;
use hotpick_guest::testing::{FakeHost, chi_square, endpoint, histories};

use super::Zone;

/// Returns the share of the RPCs of a client in `own` for each zone, from the weights of its endpoints and the clients.
///
/// A zone with a part `u` of the capacity and `c` of the clients has `max(0, u - c)` to spare. A client keeps
/// `min(1, u / c)` of its RPCs in its zone, and spreads the rest in proportion to the spare capacity, or to the whole
/// capacity if no zone has any to spare.
fn shares(
    own: &str,
    capacity: &BTreeMap<String, f64>,
    clients: &BTreeMap<String, f64>,
) -> BTreeMap<String, f64> {
    let total: f64 = capacity.values().sum();
    let part = |zone: &str| capacity.get(zone).copied().unwrap_or(0.0) / total;
    let all: f64 = clients.values().sum();
    let due = |zone: &str| clients.get(zone).copied().unwrap_or(0.0) / all;
    let local = if due(own) > 0.0 { f64::min(1.0, part(own) / due(own)) } else { 1.0 };
    let others = || capacity.keys().filter(|zone| *zone != own);
    let spare = |zone: &String| f64::max(0.0, part(zone) - due(zone));
    // What the own zone cannot take does not go to its own spare capacity.
    let (sum, by_capacity) = (others().map(spare).sum::<f64>(), others().map(|zone| part(zone)).sum::<f64>());
    let to = |zone: &String| if sum > 1e-9 { spare(zone) / sum } else { part(zone) / by_capacity };
    let mut shares: BTreeMap<_, _> = others().map(|zone| (zone.clone(), (1.0 - local) * to(zone))).collect();
    if part(own) > 0.0 {
        shares.insert(own.to_owned(), if by_capacity > 0.0 { local } else { 1.0 });
    }
    shares
}

fn history(mut random: Random) {
    let zones = 1 + random.below(6);
    let (mut endpoints, mut capacity) = (Vec::new(), BTreeMap::<String, f64>::new());
    for id in 0..u32::try_from(1 + random.below(20)).expect("small") {
        let zone = format!("z{}", random.below(zones));
        let weight = u32::try_from(1 + random.below(3)).expect("small");
        *capacity.entry(zone.clone()).or_default() += f64::from(weight);
        endpoints.push(Endpoint { weight, ..endpoint(id, &[("zone", &zone)]) });
    }
    let own = format!("z{}", random.below(zones));
    let mut clients = BTreeMap::new();
    let config = if random.below(2) == 0 {
        clients.insert(own.clone(), 1.0 + random.below(5) as f64);
        for zone in capacity.keys() {
            clients.entry(zone.clone()).or_insert_with(|| random.below(5) as f64);
        }
        let given: Vec<_> = clients.iter().map(|(zone, number)| format!(r#""{zone}":{number}"#)).collect();
        format!(r#"{{"zone":"{own}","clients":{{{}}}}}"#, given.join(","))
    } else {
        clients.extend(capacity.keys().chain([&own]).map(|zone| (zone.clone(), 1.0)));
        format!(r#"{{"zone":"{own}"}}"#)
    };
    let mut host = FakeHost::<Zone>::start_with_seed(&config, random.next()).expect("started");
    host.endpoints(&endpoints);
    let expected = shares(&own, &capacity, &clients);
    // By weight within a zone.
    let share = |endpoint: &Endpoint| {
        let zone = endpoint.attribute("zone").expect("a zone");
        expected[zone] * f64::from(endpoint.weight) / capacity[zone]
    };
    let expected: Vec<_> = endpoints.iter().map(share).collect();
    let ids: Vec<_> = endpoints.iter().map(|endpoint| endpoint.id).collect();
    let counts = host.counts(&ids, 2_000);
    // Ten of 10,000 histories are as unlikely as once in a thousand. Chance alone does not exceed this bound in any.
    let seen = chi_square(&counts, &expected);
    assert!(
        seen.is_likely() || seen.value < 50.0 + 4.0 * f64::from(seen.freedom),
        "{counts:?}, {expected:?}, {config}"
    );
}

#[test]
fn shares_are_those_of_zone_aware_routing_for_random_zones() {
    histories(&[], history);
}
