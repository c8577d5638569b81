//! Zone aware routing once more, slowly, and the shares of the policy beside it for random zones.

use std::collections::BTreeMap;

use hotpick_guest::Endpoint;
use hotpick_guest::random::Random;
use hotpick_guest::testing::{FakeHost, chi_square, endpoint, histories};

use super::Zone;

/// The part of the RPCs of a client in `own` for each zone, by the weights of the endpoints there and the clients of each.
///
/// Each zone of a part `u` of the capacity and `c` of the clients has `max(0, u - c)` to spare. A client stays with
/// `min(1, u / c)` of its RPCs, and spreads the rest by what is to spare; by capacity, if nothing is.
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
    // The own zone's spare is no place to go for what it cannot take.
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
    // Within a zone by weight.
    let share = |endpoint: &Endpoint| {
        let zone = endpoint.attribute("zone").expect("a zone");
        expected[zone] * f64::from(endpoint.weight) / capacity[zone]
    };
    let expected: Vec<_> = endpoints.iter().map(share).collect();
    let ids: Vec<_> = endpoints.iter().map(|endpoint| endpoint.id).collect();
    let counts = host.counts(&ids, 2_000);
    // Of 10,000 histories ten are as unlikely as once in a thousand: this is where none of them comes to by chance.
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
