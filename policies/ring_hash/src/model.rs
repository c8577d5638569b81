//! gRFCs A42, A61 and A76, implemented independently as in their texts, and compared with the policy in random
//! histories.

use std::collections::BTreeMap;

use hotpick_guest::ConnectivityState::{Connecting, Idle, Ready, TransientFailure};
use hotpick_guest::random::Random;
use hotpick_guest::testing::{FakeHost, LazyHost, Rpc, endpoint, histories};
use hotpick_guest::{ConnectivityState, Endpoint, FailCode, PickResult, SubConn, hash};

use super::RingHash;

/// Least and greatest number of points of the tested rings. Some rings have fewer points than endpoints.
const LEAST: f64 = 16.0;
const MOST: f64 = 24.0;

struct Model {
    endpoints: BTreeMap<SubConn, Endpoint>,
    /// A failed subconn counts as failed until it is ready.
    states: BTreeMap<SubConn, ConnectivityState>,
}

impl Model {
    /// Returns the ring of gRFC A42.
    fn ring(&self) -> Vec<(u64, SubConn)> {
        let mut sorted: Vec<_> = self.endpoints.values().collect();
        sorted.sort_by(|one, other| one.hash_key().cmp(other.hash_key()));
        let sum: f64 = sorted.iter().map(|endpoint| f64::from(endpoint.weight)).sum();
        let part = |endpoint: &Endpoint| f64::from(endpoint.weight) / sum;
        let least = sorted.iter().map(|endpoint| part(endpoint)).fold(1.0, f64::min);
        let scale = f64::min((least * LEAST).ceil() / least, MOST);
        let (mut ring, mut target) = (Vec::new(), 0.0);
        for endpoint in sorted {
            target += scale * part(endpoint);
            let mut number = 0;
            while (ring.len() as f64) < target {
                ring.push((hash(format!("{}_{number}", endpoint.hash_key()).as_bytes()), endpoint.id));
                number += 1;
            }
        }
        ring.sort_unstable();
        ring
    }

    fn state(&self, id: SubConn) -> ConnectivityState {
        self.states.get(&id).copied().unwrap_or(Idle)
    }

    /// Returns the pick of gRFC A61 for a hash: the first endpoint from there on that has not failed. An idle one is
    /// connected.
    fn pick(&self, hash: u64, tried: &[SubConn]) -> PickResult {
        if self.endpoints.keys().all(|id| self.state(*id) == TransientFailure) {
            return PickResult::Fail(FailCode::Unavailable);
        }
        let ring = self.ring();
        let first = ring.iter().position(|(point, _)| *point >= hash).unwrap_or(0);
        let around = || ring[first..].iter().chain(&ring[..first]).map(|(_, id)| *id);
        let mut good = around().filter(|id| self.state(*id) != TransientFailure);
        // Not in A61: a retry goes to the next endpoint.
        let untried = around().find(|id| self.state(*id) != TransientFailure && !tried.contains(id));
        untried.or_else(|| good.next()).map_or(PickResult::Fail(FailCode::Unavailable), PickResult::Pick)
    }
}

fn history(mut random: Random) {
    let config = format!(r#"{{"minRingSize":{LEAST},"maxRingSize":{MOST}}}"#);
    let mut host = LazyHost::<RingHash>::new(FakeHost::start(&config).expect("started"));
    let mut model = Model { endpoints: BTreeMap::new(), states: BTreeMap::new() };
    let mut last = 0;
    for _ in 0..40 {
        match random.below(8) {
            0 | 1 => {
                // An endpoint that is new, or has another weight or name.
                let known = random.below(3) == 0 && last > 0;
                last += u32::from(!known);
                let weight = u32::try_from(1 + random.below(3)).expect("small");
                let name = format!("name-{last}");
                let attributes: &[_] = match random.below(4) {
                    0 => &[("hash_key", name.as_str())],
                    1 => &[("hash_key", "")],
                    _ => &[],
                };
                let endpoint = Endpoint { weight, ..endpoint(last, attributes) };
                host.change(std::slice::from_ref(&endpoint), &[]);
                model.endpoints.insert(last, endpoint);
            }
            2 if !host.all().is_empty() => {
                let id = host.all()[random.below(host.all().len())];
                host.change(&[], &[id]);
                model.endpoints.remove(&id);
                model.states.remove(&id);
            }
            _ => {
                if let Some((id, next)) = host.next(&mut random) {
                    host.becomes(id, next);
                    if model.state(id) != TransientFailure || next == Ready {
                        model.states.insert(id, next);
                    }
                }
            }
        }
        let key = format!("key-{}", random.below(1_000));
        let mut rpc = Rpc::with_metadata("hash-key", &key);
        if random.below(4) == 0 {
            rpc.tried.extend(host.all().iter().copied().filter(|id| id % 2 == 0));
        }
        let expected = model.pick(hash(key.as_bytes()), &rpc.tried);
        assert_eq!(host.policy().pick(&rpc), expected, "{host:?}");
        if let PickResult::Pick(id) = expected {
            // The host connects what is picked.
            if host.state(id) == Idle {
                host.becomes(id, Connecting);
                model.states.insert(id, Connecting);
            }
        }
        // gRFC A76: without the key, a ready endpoint if there is one. Otherwise the RPC waits, or fails if all have
        // failed.
        let connects = model.endpoints.keys().any(|id| model.state(*id) == Connecting);
        let answer = host.policy().pick(&Rpc::default());
        let asked = host.policy().take_connects();
        assert!(asked.len() <= usize::from(!connects), "{asked:?}, {host:?}");
        match answer {
            PickResult::Pick(id) if !host.ready().is_empty() => assert_eq!(host.state(id), Ready),
            PickResult::Pick(id) => assert!(host.state(id) == Idle && !connects, "{host:?}"),
            PickResult::Queue => assert!(host.ready().is_empty(), "{host:?}"),
            _ => assert!(host.all().iter().all(|id| model.state(*id) == TransientFailure), "{host:?}"),
        }
        for (id, _) in asked {
            assert_eq!(host.state(id), Idle);
            host.becomes(id, Connecting);
            model.states.insert(id, Connecting);
        }
    }
}

#[test]
fn it_is_as_its_grfcs_in_random_histories() {
    histories(&[], history);
}
