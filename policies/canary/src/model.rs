//! The policy's documentation, implemented independently and without optimization, and compared in random histories.

use std::collections::BTreeMap;

use hotpick_guest::random::{Random, mix};
use hotpick_guest::testing::{FakeHost, Rpc, endpoint, histories};
use hotpick_guest::{PickResult, SubConn, hash};

use super::Canary;

const VERSIONS: [&str; 4] = ["v1", "v2", "v3", "v4"];

/// Returns the side of a key: the share that its number, of a thousand, falls into. Beyond all shares it is the rest.
fn drawn(split: &[(&str, u64)], key: &str) -> String {
    let number = (u128::from(mix(hash(key.as_bytes()))) * 1_000) >> 64;
    let mut up_to = 0;
    for (version, share) in split {
        up_to += u128::from(*share);
        if number < up_to {
            return (*version).to_owned();
        }
    }
    "rest".to_owned()
}

fn history(mut random: Random) {
    // Two of the versions have a share.
    let split = [("v2", random.below(500) as u64), ("v3", random.below(500) as u64)];
    let config = format!(
        r#"{{"split":{{"version=v2":{},"version=v3":{}}},"stableOn":"metadata:user"}}"#,
        split[0].1, split[1].1
    );
    let mut host = FakeHost::<Canary>::start_with_seed(&config, random.next()).expect("started");
    let mut versions = BTreeMap::<SubConn, &str>::new();
    for _ in 0..30 {
        let id = SubConn::try_from(random.below(8)).expect("small");
        if random.below(4) == 0 {
            host.change(&[], &[id]);
            versions.remove(&id);
        } else {
            let version = VERSIONS[random.below(VERSIONS.len())];
            host.change(&[endpoint(id, &[("version", version)])], &[]);
            versions.insert(id, version);
        }
        let ready: Vec<_> = versions.keys().copied().filter(|_| random.below(3) > 0).collect();
        host.ready(&ready);
        let user = format!("u{}", random.below(100));
        let mut rpc = Rpc::with_metadata("user", &user);
        let mut side = drawn(&split, &user);
        match random.below(5) {
            0 => {
                let chosen = ["version=v2", "version=v3", "rest"][random.below(3)];
                chosen.trim_start_matches("version=").clone_into(&mut side);
                rpc = rpc.and_metadata("hotpick-canary", chosen);
            }
            // An unknown side is ignored.
            1 => rpc = rpc.and_metadata("hotpick-canary", "version=v4"),
            _ => {}
        }
        let of = |side: &str| -> Vec<SubConn> {
            let is_on = |version: &str| match side {
                "rest" => version != "v2" && version != "v3",
                side => version == side,
            };
            ready.iter().copied().filter(|id| is_on(versions[id])).collect()
        };
        // A side without a ready endpoint takes no RPCs: the rest is used first, then the other sides.
        let expected = [of(&side), of("rest"), of("v3"), of("v2")].into_iter().find(|some| !some.is_empty());
        match (host.pick(&rpc), expected) {
            (PickResult::Pick(picked), Some(expected)) => {
                assert!(expected.contains(&picked), "{picked} for {expected:?}, {side}, {config}");
            }
            (answer, expected) => assert_eq!((answer, expected), (PickResult::Queue, None)),
        }
    }
}

#[test]
fn it_is_as_its_page_says_in_random_histories() {
    histories(&[], history);
}
