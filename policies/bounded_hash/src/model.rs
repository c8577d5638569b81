//! The paper's algorithm, implemented independently, and compared with the policy in random histories.

use std::collections::BTreeMap;

use hotpick_guest::random::Random;
use hotpick_guest::testing::{FakeHost, Rpc, endpoint, histories, outcome};
use hotpick_guest::{Duration, Endpoint, PickResult, StatusCode, SubConn, hash};

use super::BoundedHash;

struct Server {
    endpoint: Endpoint,
    is_ready: bool,
    load: u32,
}

/// Returns the points of the ring, in proportion to the weights of the endpoints.
fn ring(servers: &BTreeMap<SubConn, Server>) -> Vec<(u64, SubConn)> {
    let mut sorted: Vec<_> = servers.values().map(|server| &server.endpoint).collect();
    sorted.sort_by(|one, other| one.hash_key().cmp(other.hash_key()));
    let sum: f64 = sorted.iter().map(|endpoint| f64::from(endpoint.weight)).sum();
    let least = sorted.iter().map(|endpoint| f64::from(endpoint.weight) / sum).fold(1.0, f64::min);
    let scale = f64::min((least * 32.0).ceil() / least, 64.0);
    let (mut ring, mut target) = (Vec::new(), 0.0);
    for endpoint in sorted {
        target += scale * (f64::from(endpoint.weight) / sum);
        let mut number = 0;
        while (ring.len() as f64) < target {
            ring.push((hash(format!("{}_{number}", endpoint.hash_key()).as_bytes()), endpoint.id));
            number += 1;
        }
    }
    ring.sort_unstable();
    ring
}

/// Returns the first ready endpoint from the owner on with fewer RPCs than its bound: (1 + epsilon) times its share, by
/// weight, of all RPCs in flight including this one, rounded up.
fn place(servers: &BTreeMap<SubConn, Server>, epsilon: f64, key: u64, tried: &[SubConn]) -> Option<SubConn> {
    let ready = || servers.values().filter(|server| server.is_ready);
    let (total, weights) = (
        ready().map(|server| server.load).sum::<u32>() + 1,
        ready().map(|server| f64::from(server.endpoint.weight)).sum::<f64>(),
    );
    let has_room = |server: &Server| {
        let share = f64::from(total) * f64::from(server.endpoint.weight) / weights;
        server.is_ready && f64::from(server.load + 1) <= ((1.0 + epsilon) * share - 1e-9).ceil()
    };
    let ring = ring(servers);
    let first = ring.iter().position(|(point, _)| *point >= key).unwrap_or(0);
    let around = || ring[first..].iter().chain(&ring[..first]).map(|(_, id)| *id);
    let with_room = || around().filter(|id| has_room(&servers[id]));
    let untried = with_room().find(|id| !tried.contains(id));
    untried
        .or_else(|| with_room().next())
        .or_else(|| ready().min_by_key(|server| server.load).map(|server| server.endpoint.id))
}

fn history(mut random: Random) {
    let epsilon = [0.1, 0.25, 1.0][random.below(3)];
    let config = format!(r#"{{"epsilon":{epsilon},"minRingSize":32,"maxRingSize":64}}"#);
    let mut host = FakeHost::<BoundedHash>::start(&config).expect("started");
    let mut servers = BTreeMap::<SubConn, Server>::new();
    let mut last = 0;
    for _ in 0..60 {
        match random.below(10) {
            0 => {
                last += u32::from(random.below(3) > 0 || last == 0);
                let weight = u32::try_from(1 + random.below(3)).expect("small");
                let endpoint = Endpoint { weight, ..endpoint(last, &[]) };
                host.change(std::slice::from_ref(&endpoint), &[]);
                let (is_ready, load) =
                    servers.get(&last).map_or((true, 0), |known| (known.is_ready, known.load));
                servers.insert(last, Server { endpoint, is_ready, load });
            }
            1 if !servers.is_empty() => {
                let id = *servers.keys().nth(random.below(servers.len())).expect("some");
                if random.below(2) == 0 {
                    host.change(&[], &[id]);
                    servers.remove(&id);
                } else if let Some(server) = servers.get_mut(&id) {
                    server.is_ready ^= true;
                }
            }
            2..=4 => {
                // Some RPCs end.
                for (id, server) in &mut servers {
                    if server.load > 0 && random.below(2) == 0 {
                        server.load -= 1;
                        host.done(&[outcome(*id, StatusCode::Ok, Duration::ZERO)]);
                    }
                }
            }
            _ => {}
        }
        let ready: Vec<_> = servers.iter().filter(|(_, server)| server.is_ready).map(|(id, _)| *id).collect();
        host.ready(&ready);
        // A few keys, so that some are hot.
        let key = format!("key-{}", random.below(8));
        let mut rpc = Rpc::with_metadata("hash-key", &key);
        if random.below(5) == 0 {
            rpc.tried.extend(ready.first());
        }
        let expected = place(&servers, epsilon, hash(key.as_bytes()), &rpc.tried);
        assert_eq!(host.pick(&rpc), expected.map_or(PickResult::Queue, PickResult::Pick), "{config}");
        if let Some(server) = expected.and_then(|id| servers.get_mut(&id)) {
            server.load += 1;
        }
    }
}

#[test]
fn it_is_as_the_paper_in_random_histories() {
    histories(&[], history);
}
