//! The paper's algorithm with Envoy's hashes and weights, implemented independently, and compared in random histories.

use std::collections::{BTreeMap, BTreeSet};

use hotpick_guest::random::Random;
use hotpick_guest::testing::{FakeHost, Rpc, endpoint, histories};
use hotpick_guest::{Endpoint, PickResult, SubConn, hash, hash_with_seed};

use super::Maglev;

const M: u64 = 31;

/// Populate, of section 3.4 of the paper. Each endpoint has a permutation of all entries.
fn populate(endpoints: &BTreeMap<SubConn, Endpoint>) -> Vec<SubConn> {
    let mut sorted: Vec<_> = endpoints.values().collect();
    sorted.sort_by(|one, other| one.hash_key().cmp(other.hash_key()));
    let permutation = |endpoint: &Endpoint| -> Vec<u64> {
        let name = endpoint.hash_key().as_bytes();
        let (offset, skip) = (hash(name) % M, hash_with_seed(1, name) % (M - 1) + 1);
        (0..M).map(|j| (offset + j * skip) % M).collect()
    };
    let permutations: Vec<_> = sorted.iter().map(|endpoint| permutation(endpoint)).collect();
    let sum: f64 = sorted.iter().map(|endpoint| f64::from(endpoint.weight)).sum();
    let weights: Vec<_> = sorted.iter().map(|endpoint| f64::from(endpoint.weight) / sum).collect();
    let most = weights.iter().copied().fold(0.0, f64::max);
    let mut targets = vec![0.0; sorted.len()];
    let mut table = BTreeMap::new();
    let mut iteration = 1.0;
    while (table.len() as u64) < M {
        for (at, endpoint) in sorted.iter().enumerate() {
            if table.len() as u64 == M || iteration * weights[at] < targets[at] {
                continue;
            }
            targets[at] += most;
            let free = permutations[at].iter().find(|entry| !table.contains_key(*entry));
            table.insert(*free.expect("a free entry"), endpoint.id);
        }
        iteration += 1.0;
    }
    table.into_values().collect()
}

fn history(mut random: Random) {
    let mut host = FakeHost::<Maglev>::start(&format!(r#"{{"tableSize":{M}}}"#)).expect("started");
    let (mut endpoints, mut ready): (BTreeMap<_, Endpoint>, BTreeSet<_>) = Default::default();
    let mut last = 0;
    for _ in 0..25 {
        match random.below(5) {
            0 | 1 => {
                last += u32::from(random.below(3) > 0 || last == 0);
                let weight = u32::try_from(1 + random.below(4)).expect("small");
                let endpoint = Endpoint { weight, ..endpoint(last, &[]) };
                host.change(std::slice::from_ref(&endpoint), &[]);
                endpoints.insert(last, endpoint);
            }
            2 if !endpoints.is_empty() => {
                let id = *endpoints.keys().nth(random.below(endpoints.len())).expect("some");
                host.change(&[], &[id]);
                endpoints.remove(&id);
                ready.remove(&id);
            }
            _ => {
                for id in endpoints.keys() {
                    if random.below(2) == 0 {
                        ready.insert(*id);
                    } else {
                        ready.remove(id);
                    }
                }
            }
        }
        host.ready(&ready.iter().copied().collect::<Vec<_>>());
        if endpoints.is_empty() {
            continue;
        }
        let table = populate(&endpoints);
        for _ in 0..10 {
            let key = format!("key-{}", random.below(1_000));
            let first = usize::try_from(hash(key.as_bytes()) % M).expect("small");
            // Not in the paper: an entry whose endpoint is not ready belongs to the owner of the next one.
            let around = table[first..].iter().chain(&table[..first]);
            let expected: Vec<_> = around.copied().filter(|id| ready.contains(id)).collect();
            let mut rpc = Rpc::with_metadata("hash-key", &key);
            match (host.pick(&rpc), expected.first()) {
                (PickResult::Pick(picked), Some(expected)) => assert_eq!(picked, *expected, "{endpoints:?}"),
                // The only ready endpoints have no entry.
                (PickResult::Pick(picked), None) => assert!(ready.contains(&picked)),
                (answer, _) => assert_eq!((answer, ready.len()), (PickResult::Queue, 0)),
            }
            // A retry goes to the next owner.
            let Some(owner) = expected.first() else { continue };
            rpc.tried.push(*owner);
            if let Some(other) = expected.iter().find(|id| *id != owner) {
                let PickResult::Pick(picked) = host.pick(&rpc) else { panic!("no endpoint") };
                assert!(picked == *other, "{picked} for {other}");
            }
        }
    }
}

#[test]
fn it_is_as_the_paper_and_envoy_in_random_histories() {
    histories(&[], history);
}
