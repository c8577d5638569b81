//! gRFC A68 and this policy's additions, implemented independently, and compared with the policy in random histories.

use std::collections::{BTreeMap, BTreeSet};

use hotpick_guest::ConnectivityState::{Ready, TransientFailure};
use hotpick_guest::random::{Random, mix};
use hotpick_guest::testing::{FakeHost, LazyHost, Rpc, endpoint, histories};
use hotpick_guest::{Duration, PickResult, SubConn, hash};

use super::Subset;

const WANTED: usize = 4;
const RETENTION: u64 = 60;

/// Returns the first endpoints by the hash of their name and the client's, until four of them have not failed, and at
/// most eight.
fn ranked(client: u64, endpoints: &BTreeSet<SubConn>) -> Vec<SubConn> {
    let mut ranked: Vec<_> = endpoints
        .iter()
        .map(|id| (mix(hash(format!("10.0.0.{id}:80").as_bytes()) ^ mix(client)), *id))
        .collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, id)| id).collect()
}

fn needed(ranked: &[SubConn], failed: &BTreeSet<SubConn>) -> usize {
    let most = ranked.len().min(2 * WANTED);
    let enough = |size: &usize| ranked[..*size].iter().filter(|id| !failed.contains(id)).count() >= WANTED;
    (0..most).find(enough).unwrap_or(most)
}

fn history(mut random: Random) {
    let client = random.next();
    let config = r#"{"subsetSize":4}"#;
    let mut host = LazyHost::<Subset>::new(FakeHost::start_with_seed(config, client).expect("started"));
    let (mut endpoints, mut failed) = (BTreeSet::new(), BTreeSet::new());
    // Number of connected endpoints, and until when more than the needed ones stay connected.
    let (mut connected, mut until, mut now, mut last) = (0, None, 0, 0);
    for _ in 0..60 {
        let mut changed = false;
        let mut passed = 0;
        match random.below(10) {
            0..=1 => {
                let more: Vec<_> = (0..random.below(4))
                    .map(|_| {
                        last += 1;
                        last
                    })
                    .collect();
                endpoints.extend(&more);
                host.change(&more.iter().map(|id| endpoint(*id, &[])).collect::<Vec<_>>(), &[]);
                changed = true;
            }
            2 if !host.all().is_empty() => {
                let id = host.all()[random.below(host.all().len())];
                endpoints.remove(&id);
                failed.remove(&id);
                host.change(&[], &[id]);
                changed = true;
            }
            3 => {
                passed = [0, 1, 30, 90][random.below(4)];
                host.policy().run(Duration::from_secs(passed));
                host.settle();
            }
            _ => {
                let Some((id, next)) = host.next(&mut random) else { continue };
                host.becomes(id, next);
                match next {
                    TransientFailure => drop(failed.insert(id)),
                    Ready => drop(failed.remove(&id)),
                    _ => {}
                }
            }
        }
        let order = ranked(client, &endpoints);
        // Unneeded connections are closed by a change of the list, or after the retention time.
        let due = until.is_some_and(|until| now + passed >= until);
        now += passed;
        loop {
            let size = needed(&order, &failed);
            let most = order.len().min(2 * WANTED);
            connected = if changed || due { size } else { connected.clamp(size, most.max(size)) };
            until = if connected > size { until.or(Some(now + RETENTION)) } else { None };
            // Whether an unconnected endpoint can be reached is unknown.
            let before = failed.len();
            failed.retain(|id| order[..connected].contains(id));
            if failed.len() == before {
                break;
            }
        }
        let used: BTreeMap<_, _> = order[..needed(&order, &failed)].iter().map(|id| (*id, ())).collect();
        let ready: BTreeSet<_> = host.ready().into_iter().filter(|id| used.contains_key(id)).collect();
        let picked: Vec<_> = (0..ready.len().max(1)).map(|_| host.policy().pick(&Rpc::default())).collect();
        if ready.is_empty() {
            let all_failed = !used.is_empty() && used.keys().all(|id| failed.contains(id));
            assert_eq!(matches!(picked[0], PickResult::Fail(_)), all_failed, "{host:?}");
        } else {
            let picked: BTreeSet<_> =
                picked.iter().map(|pick| if let PickResult::Pick(id) = pick { *id } else { 0 }).collect();
            assert_eq!(picked, ready, "{host:?}");
        }
        for id in host.all() {
            let is_connected = host.wanted().contains(id) || host.state(*id) == TransientFailure;
            assert!(is_connected || !order[..connected].contains(id), "{id} is to be connected: {host:?}");
            let is_wanted = host.wanted().contains(id);
            assert!(!is_wanted || order[..connected].contains(id), "{id} is to be given up: {host:?}");
        }
    }
}

#[test]
fn it_is_as_grfc_a68_in_random_histories() {
    histories(&[], history);
}
