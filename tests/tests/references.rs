//! Compares the standard policies with their reference implementations, grpcio and Envoy, on the same endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hotpick::connectivity::ConnectivityState;
use hotpick::picker::{PickInfo, PickResult};
use hotpick::policy::Placement;
use hotpick::policy::{Limits, TestChannel, WasmPolicy};
use hotpick::resolver::{Endpoint, ResolverUpdate};
use hotpick_guest::stride::Stride;
use hotpick_guest::testing::chi_square;
use hotpick_tests::peers::{self, Reference};
use hotpick_tests::{Caller, Cluster, Policies, standard};
use http::HeaderMap;
use serde_json::{Value, json};

const KEYS: usize = 300;

/// Starts backends `0` to `n - 1` with weights. Their ports are in no particular order.
async fn backends(weights: &[u32]) -> (Cluster, Vec<Value>) {
    let names: Vec<_> = (0..weights.len()).map(|at| at.to_string()).collect();
    let cluster = Cluster::start(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let endpoint = |(backend, weight): (&hotpick_echo::Backend, &u32)| json!({"address": backend.address().to_string(), "weight": weight});
    let endpoints = cluster.backends.iter().zip(weights).map(endpoint).collect();
    (cluster, endpoints)
}

/// Returns the names of the backends that a policy picks for keys.
fn picked(cluster: &Cluster, weights: &[u32], name: &str, config: &str, keys: &[String]) -> Vec<String> {
    let policy = WasmPolicy::compile(name, 1, &standard(name), Limits::default()).expect("a policy");
    let mut trial =
        TestChannel::start(&policy, &Placement::new("static:///references", config)).expect("started");
    let weighted = |(backend, weight): (&hotpick_echo::Backend, &u32)| {
        let endpoint = Endpoint::new(backend.address().into()).with_weight(*weight);
        (endpoint, ConnectivityState::Ready)
    };
    trial.update(cluster.backends.iter().zip(weights).map(weighted).collect::<Vec<_>>()).expect("no fault");
    let pick = |key: &String| {
        let mut metadata = HeaderMap::new();
        metadata.insert("hash-key", key.parse().expect("a value"));
        match trial.pick(&PickInfo::new("/a.B/C", &metadata)).expect("no fault") {
            PickResult::Pick(pick) => pick.subconn.id().to_string(),
            other => panic!("{other:?}"),
        }
    };
    keys.iter().map(pick).collect()
}

fn keys() -> Vec<String> {
    (0..KEYS).map(|number| format!("user-{number}")).collect()
}

fn texts(keys: &[String]) -> Vec<Option<&str>> {
    keys.iter().map(|key| Some(key.as_str())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ring_is_that_of_grpcio_and_of_envoy() {
    if !peers::available() {
        return;
    }
    for weights in [&[1, 1, 1, 1, 1][..], &[1, 2, 3], &[7, 1, 3, 2, 5]] {
        let (cluster, endpoints) = backends(weights).await;
        let sizes = json!({"minimum_ring_size": 1024, "maximum_ring_size": 4096});
        let ours = picked(&cluster, weights, "ring_hash", "{}", &keys());
        for by in ["grpcio", "envoy"] {
            let scenario = json!({"by": by, "endpoints": endpoints, "policy": {"ring_hash": sizes}});
            let mut reference = Reference::start(&scenario);
            assert_eq!(reference.calls(&texts(&keys())), ours, "{by}, {weights:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_maglev_table_is_that_of_envoy() {
    if !peers::available() {
        return;
    }
    for weights in [&[1, 1, 1, 1, 1][..], &[1, 2, 3], &[7, 1, 3, 2, 5]] {
        let (cluster, endpoints) = backends(weights).await;
        for size in [1_021, 65_537] {
            let config = format!(r#"{{"tableSize":{size}}}"#);
            let ours = picked(&cluster, weights, "maglev", &config, &keys());
            let policy = json!({"maglev": {"table_size": size}});
            let mut envoy =
                Reference::start(&json!({"by": "envoy", "endpoints": endpoints, "policy": policy}));
            assert_eq!(envoy.calls(&texts(&keys())), ours, "{size}, {weights:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn turns_by_reported_weights_are_those_of_grpcio_pick_by_pick() {
    if !peers::available() {
        return;
    }
    for loads in [
        &[(100.0, 0.25), (100.0, 0.5), (100.0, 1.0)][..],
        &[(50.0, 0.1), (30.0, 0.1), (70.0, 0.1), (10.0, 0.1)],
    ] {
        let config = json!({"blackout_period": "0s", "weight_update_period": "0.1s"});
        let loads_of: Vec<_> = loads.iter().map(|(rps, cpu)| json!([rps, cpu])).collect();
        let policy = json!({"client_side_weighted_round_robin": config});
        let mut grpcio = Reference::start(&json!({"by": "grpcio", "loads": loads_of, "policy": policy}));
        let weights: Vec<f64> = loads.iter().map(|(rps, cpu)| rps / cpu).collect();
        let is_ours = |picks: &[usize]| {
            // The position of the reference in its schedule is not known.
            (0..65_535 * weights.len() as u64).any(|position| {
                let mut stride = Stride::new(&weights, position).expect("weights");
                stride.next() == picks[0] && picks[1..].iter().all(|pick| stride.next() == *pick)
            })
        };
        // The reference needs some RPCs to learn the weights.
        let mut picks = Vec::new();
        for _ in 0..50 {
            picks = grpcio.picks(200).iter().map(|name| name.parse().expect("a place")).collect();
            if is_ours(&picks) {
                break;
            }
        }
        assert!(is_ours(&picks), "{loads:?}: {picks:?}");
    }
}

/// Connects a channel to the cluster with a standard policy.
fn channel(cluster: &Cluster, policies: &Policies, name: &str, config: Value) -> Caller {
    let builder = cluster.channel().policies(&policies.followed).policy(name).policy_config(config);
    Caller::of(&builder.connect_lazy().expect("a channel"))
}

/// Repeats rounds of calls until exactly the expected backends answer.
async fn until_called(
    what: &str,
    expected: &BTreeSet<String>,
    mut round: impl AsyncFnMut() -> BTreeSet<String>,
) {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let called = round().await;
        if called == *expected {
            return;
        }
        assert!(Instant::now() < end, "{what} calls {called:?} instead of {expected:?}");
    }
}

/// Checks that hotpick and the reference both call exactly the expected backends.
async fn both(caller: &Caller, reference: &mut Reference, expected: &[usize]) {
    let expected = expected.iter().map(usize::to_string).collect();
    let call = async || caller.call().await.unwrap_or_else(|status| status.code().to_string());
    let round = async || {
        let mut called = BTreeSet::new();
        for _ in 0..40 {
            called.insert(call().await);
        }
        called
    };
    until_called("hotpick", &expected, round).await;
    until_called("the reference", &expected, async || reference.picks(40).into_iter().collect()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_that_fail_are_ejected_as_by_grpcio() {
    if !peers::available() {
        return;
    }
    let policies = Policies::with(&[("outlier.wasm", &standard("outlier"))]);
    let (cluster, endpoints) = backends(&[1; 10]).await;
    let detection = json!({
        "interval": "1s", "base_ejection_time": "60s", "max_ejection_percent": 30,
        "failure_percentage_threshold": 50, "enforcing_failure_percentage": 100,
        "failure_percentage_minimum_hosts": 5, "failure_percentage_request_volume": 5,
    });
    let mut grpcio = Reference::start(&json!({
        "by": "grpcio", "endpoints": endpoints, "policy": {"round_robin": {}}, "outlier_detection": detection,
    }));
    let config = json!({
        "interval": "1s", "baseEjectionTime": "60s", "maxEjectionPercent": 30,
        "failurePercentageEjection": {"threshold": 50, "minimumHosts": 5, "requestVolume": 5},
    });
    let caller = channel(&cluster, &policies, "outlier", config);
    both(&caller, &mut grpcio, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]).await;
    // 3 of 10 is the most that may be ejected.
    for at in [2, 5, 7] {
        cluster.backends[at].set_failing(true);
    }
    both(&caller, &mut grpcio, &[0, 1, 3, 4, 6, 8, 9]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tier_in_use_is_that_of_grpcio() {
    if !peers::available() {
        return;
    }
    let policies = Policies::with(&[("priority.wasm", &standard("priority"))]);
    let (cluster, mut endpoints) = backends(&[1; 4]).await;
    for (endpoint, priority) in endpoints.iter_mut().zip([0, 0, 1, 1]) {
        endpoint["priority"] = json!(priority);
    }
    let tiered = cluster
        .backends
        .iter()
        .zip(["0", "0", "1", "1"])
        .map(|(backend, tier)| Endpoint::new(backend.address().into()).with_attribute("priority", tier));
    cluster.resolver.update(ResolverUpdate::endpoints(tiered.collect::<Vec<_>>()));
    let policy = json!({"round_robin": {}});
    let mut grpcio = Reference::start(&json!({"by": "grpcio", "endpoints": endpoints, "policy": policy}));
    let caller = channel(&cluster, &policies, "priority", json!({}));
    both(&caller, &mut grpcio, &[0, 1]).await;
    // One endpoint of two keeps the tier: gRPC has no overprovisioning factor.
    cluster.backends[0].leave();
    both(&caller, &mut grpcio, &[1]).await;
    cluster.backends[1].leave();
    both(&caller, &mut grpcio, &[2, 3]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shares_of_zones_are_those_of_envoy() {
    if !peers::available() {
        return;
    }
    for (of_zones, local) in [
        ([2, 2, 2], json!({"a": 1, "b": 1, "c": 1})),
        ([1, 2, 3], json!({"a": 1, "b": 1, "c": 1})),
        ([2, 1, 4], json!({"a": 4, "b": 1, "c": 2})),
    ] {
        let names: Vec<_> =
            ["a", "b", "c"].into_iter().zip(of_zones).flat_map(|(zone, n)| vec![zone; n]).collect();
        let (cluster, mut endpoints) = backends(&vec![1; names.len()]).await;
        for (endpoint, zone) in endpoints.iter_mut().zip(&names) {
            endpoint["zone"] = json!(zone);
        }
        let mut envoy = Reference::start(&json!({
            "by": "envoy", "endpoints": endpoints, "policy": {"round_robin": {}}, "zone": "a", "local": local,
            "zone_aware": {"min_cluster_size": 1},
        }));
        let zone_of = |name: &String| names[name.parse::<usize>().expect("a place")];
        let mut counts = BTreeMap::from([("a", 0), ("b", 0), ("c", 0)]);
        envoy.picks(2_000).iter().for_each(|name| *counts.get_mut(zone_of(name)).expect("a zone") += 1);
        // Hotpick's shares, measured with many more picks.
        let policy = WasmPolicy::compile("zone", 1, &standard("zone"), Limits::default()).expect("a policy");
        let config = json!({"zone": "a", "clients": local}).to_string();
        let mut trial =
            TestChannel::start(&policy, &Placement::new("static:///references", &config)).expect("started");
        let zoned = |(backend, zone): (&hotpick_echo::Backend, &&str)| {
            (Endpoint::new(backend.address().into()).with_attribute("zone", *zone), ConnectivityState::Ready)
        };
        trial.update(cluster.backends.iter().zip(&names).map(zoned).collect::<Vec<_>>()).expect("no fault");
        let mut shares = BTreeMap::from([("a", 0.0), ("b", 0.0), ("c", 0.0)]);
        let metadata = HeaderMap::new();
        for _ in 0..100_000 {
            let PickResult::Pick(pick) = trial.pick(&PickInfo::new("/a.B/C", &metadata)).expect("no fault")
            else {
                panic!("no pick");
            };
            *shares.get_mut(names[pick.subconn.id() as usize]).expect("a zone") += 1.0;
        }
        let (counts, shares): (Vec<_>, Vec<_>) =
            (counts.into_values().collect(), shares.into_values().collect());
        assert!(
            chi_square(&counts, &shares).is_likely(),
            "Envoy {counts:?}, hotpick {shares:?}, {of_zones:?}"
        );
    }
}
