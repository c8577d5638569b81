//! Tests of loaded policies: routing, configuration, faults, swaps.

use hotpick::Channel;
use hotpick::connectivity::ConnectivityState;
use hotpick::picker::PickInfo;
use hotpick::policy::Placement;
use hotpick::policy::{Limits, TestChannel, WasmPolicy};
use hotpick::resolver::Endpoint;
use hotpick_echo::{EchoClient, EchoRequest};
use hotpick_tests::wat::Wat;
use hotpick_tests::{Caller, Cluster, Load, Policies, soon, standard};
use serde_json::json;
use tonic::Code;
use tower::ServiceExt as _;

async fn channel_with(cluster: &Cluster, policies: &Policies, name: &str) -> (Channel, Caller) {
    let channel = cluster.channel().policies(&policies.followed).policy(name);
    let channel = channel.connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, Some(name)).await;
    (channel, caller)
}

#[tokio::test]
async fn round_robin_spreads_exactly() {
    let cluster = Cluster::start(&["a", "b", "c"]).await;
    let policies = Policies::with(&[("round_robin.wasm", &standard("round_robin"))]);
    let (_channel, caller) = channel_with(&cluster, &policies, "round_robin").await;
    let tally = caller.tally(300).await;
    assert_eq!(tally.into_values().collect::<Vec<_>>(), [100, 100, 100]);
    assert_eq!(caller.status().faults.fallback_picks, 0);
}

#[tokio::test]
async fn random_reaches_every_backend() {
    let cluster = Cluster::start(&["a", "b", "c"]).await;
    let policies = Policies::with(&[("random.wasm", &standard("random"))]);
    let (_channel, caller) = channel_with(&cluster, &policies, "random").await;
    let tally = caller.tally(300).await;
    // Each count is binomial with mean 100 and standard deviation 8.2. The probability of less than 50 is 1 in 10^9.
    assert_eq!(tally.len(), 3);
    assert!(tally.values().all(|count| *count > 50), "{tally:?}");
    assert_eq!(caller.status().faults.fallback_picks, 0);
}

#[tokio::test]
async fn color_routes_by_metadata() {
    let cluster = Cluster::start(&["red-1", "blue-1", "red-2"]).await;
    let policies = Policies::with(&[("color.wasm", &standard("color"))]);
    let (_channel, caller) = channel_with(&cluster, &policies, "color").await;
    let mut red = Vec::new();
    for _ in 0..10 {
        red.push(caller.call_color("red").await.expect("a red endpoint"));
        assert_eq!(caller.call_color("blue").await.expect("a blue endpoint"), "blue-1");
    }
    red.sort();
    assert_eq!(red, [["red-1"; 5], ["red-2"; 5]].concat());

    let status = caller.call_color("green").await.expect_err("no green endpoint");
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "no ready endpoint has color=green"));
    // RPCs without the key go to any endpoint.
    assert_eq!(caller.tally(9).await.len(), 3);
}

/// The policy sees metadata that a layer around the channel adds.
#[tokio::test]
async fn a_tower_layer_around_the_channel_can_steer_the_policy() {
    let cluster = Cluster::start(&["red-1", "blue-1"]).await;
    let policies = Policies::with(&[("color.wasm", &standard("color"))]);
    let (channel, _) = channel_with(&cluster, &policies, "color").await;
    let blue = channel.map_request(|mut request: http::Request<tonic::body::Body>| {
        request.headers_mut().insert("color", http::HeaderValue::from_static("blue"));
        request
    });
    let mut client = EchoClient::new(blue);
    for _ in 0..4 {
        let answer = client.unary(EchoRequest::new("hello")).await.expect("a blue endpoint").into_inner();
        assert_eq!(answer.backend, "blue-1");
    }
}

#[tokio::test]
async fn the_channels_configuration_reaches_the_policy() {
    let cluster = Cluster::start(&["red-1", "blue-1"]).await;
    let policies = Policies::with(&[("color.wasm", &standard("color"))]);
    let channel = cluster
        .channel()
        .policies(&policies.followed)
        .policy("color")
        .policy_config(json!({"unmatched": "any"}))
        .connect_lazy()
        .expect("a channel");
    let caller = Caller::ready(&channel, Some("color")).await;
    caller.call_color("green").await.expect("served by any endpoint");
}

#[tokio::test]
async fn a_refused_configuration_leaves_round_robin() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let policies = Policies::with(&[("color.wasm", &standard("color"))]);
    let channel = cluster
        .channel()
        .policies(&policies.followed)
        .policy("color")
        .policy_config(json!({"colour": "red"}))
        .connect_lazy()
        .expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    assert_eq!(caller.tally(10).await.into_values().collect::<Vec<_>>(), [5, 5]);
    assert_eq!(caller.status().policy.generation, 0);
}

#[tokio::test]
async fn an_unknown_policy_is_served_by_round_robin_until_it_is_there() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let policies = Policies::with(&[]);
    let channel =
        cluster.channel().policies(&policies.followed).policy("first").connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    assert_eq!(caller.tally(10).await.into_values().collect::<Vec<_>>(), [5, 5]);
    policies.put("first.wasm", &Wat::first());
    let caller = Caller::ready(&channel, Some("first")).await;
    assert_eq!(caller.tally(10).await.get("a"), Some(&10));
}

/// Settings that prevent quarantine, so that the instance is replaced after each fault.
const PATIENT: &[u8] = b"[limits]\nfaults-per-minute = 1000\n";

/// Each case is the code that every tenth pick runs, and the expected description of the fault.
#[tokio::test]
async fn a_pick_that_goes_wrong_costs_no_rpc_and_the_instance_is_replaced() {
    for (what, fault) in [
        ("unreachable", "trapped: wasm trap: wasm `unreachable` instruction executed"),
        ("(loop (br 0))", "ran past its limit of time"),
        ("(return (call $picked (i32.const 77)))", "picked subconn 77, which does not exist"),
        (
            "(if (i32.eq (memory.grow (i32.const 60000)) (i32.const -1)) (then unreachable))",
            "asked for more memory",
        ),
        ("(i32.store8 (i32.const 16) (i32.const 9)) (return (i32.const 16))", "trapped: "),
        ("(return (i32.const -1))", "trapped: "),
    ] {
        let cluster = Cluster::start(&["a", "b"]).await;
        let policies = Policies::with(&[("bad.wasm", &Wat::every(10, what)), ("bad.toml", PATIENT)]);
        let channel = cluster.channel().policies(&policies.followed).policy("bad").wait_for_ready(true);
        let channel = channel.connect_lazy().expect("a channel");
        let caller = Caller::ready(&channel, Some("bad")).await;
        for _ in 0..3 {
            let before = caller.status().faults.count;
            while caller.status().faults.count == before {
                caller.call().await.expect("no RPC fails");
            }
            // The new instance always picks the first endpoint.
            let mut streak = 0;
            while streak < 5 {
                streak = if caller.call().await.expect("no RPC fails") == "a" { streak + 1 } else { 0 };
            }
        }
        let faults = channel.status().faults;
        assert!(faults.fallback_picks >= 3, "{what}: {faults:?}");
        assert!(faults.last.as_deref().is_some_and(|last| last.contains(fault)), "{what}: {faults:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_always_traps_is_round_robin_under_load() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let policies = Policies::with(&[("bad.wasm", &Wat::every(1, "unreachable")), ("bad.toml", PATIENT)]);
    let channel = cluster.channel().policies(&policies.followed).policy("bad").wait_for_ready(true);
    let channel = channel.connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, Some("bad")).await;
    let load = Load::start(&caller, 8, 2);
    while channel.status().faults.count < 5 {
        tokio::task::yield_now().await;
    }
    let (calls, failed) = load.stop().await;
    assert!(failed.is_empty(), "{} of {calls} failed: {:?}", failed.len(), failed[0]);
}

#[tokio::test]
async fn a_policy_that_fails_to_start_is_not_taken() {
    let traps = |init, changed| Wat { init, changed, ..Wat::default() }.component();
    for bad in [
        traps("unreachable", ""),
        traps("(loop (br 0)) (i32.const 0)", ""),
        traps("(i32.const 0)", "unreachable"),
        traps("(i32.const 0)", "(loop (br 0))"),
    ] {
        let cluster = Cluster::start(&["a", "b"]).await;
        let policies = Policies::with(&[("p.wasm", &Wat::first())]);
        let (channel, caller) = channel_with(&cluster, &policies, "p").await;
        policies.put("p.wasm", &bad);
        // The directory accepts the file: only a channel has the endpoints and the configuration to start it.
        let status = soon("the refusal", channel.wait_for(|status| status.refused.is_some())).await;
        let refused = status.refused.expect("a reason").to_string();
        assert!(refused.starts_with("policy p #2 ") && refused.contains("failed to start: "), "{refused}");
        assert_eq!(status.policy.generation, 1);
        assert_eq!(caller.tally(10).await.get("a"), Some(&10));
        policies.put("p.wasm", &standard("round_robin"));
        soon("the third version", channel.wait_for(|status| status.policy.generation == 3)).await;
        assert_eq!(channel.status().swaps, 1);
        assert!(channel.status().refused.is_none());
        assert_eq!(caller.tally(10).await.into_values().collect::<Vec<_>>(), [5, 5]);
    }
}

#[test]
fn what_a_policy_imports_and_which_optional_parts_it_has_is_known() {
    let text = Wat {
        imports: r#"(import "hotpick:policy/env@0.1.0" "random" (func $random (result i64)))
                    (import "hotpick:policy/call@0.1.0" "tried" (func $tried (param i32) (result i32)))"#,
        exports: r#"(func (export "hotpick:policy/handover@0.1.0#save") (result i32) unreachable)
                    (func (export "hotpick:policy/handover@0.1.0#restore") (param i32 i32) (result i32) unreachable)
                    (func (export "hotpick:policy/alarms@0.1.0#fired") (param i32 i64))"#,
        pick: "(drop (call $random)) (call $picked (call $tried (i32.const 0)))",
        ..Wat::default()
    };
    let policy = WasmPolicy::compile("p", 1, &text.component(), Limits::default()).expect("a policy");
    let sorted = |parts: &[String]| {
        let mut parts = parts.to_vec();
        parts.sort();
        parts.join(" ")
    };
    assert_eq!(sorted(policy.imports()), "call env");
    assert_eq!(sorted(policy.optional_parts()), "alarms handover");
}

/// RPCs queued by a policy are picked again by the next version.
#[tokio::test]
async fn a_queued_rpc_goes_on_with_the_next_version() {
    let cluster = Cluster::start(&["a"]).await;
    let policies = Policies::with(&[("p.wasm", &Wat::every(1, "(return (call $picked (i32.const -1)))"))]);
    let channel = cluster.channel().policies(&policies.followed).policy("p").wait_for_ready(true);
    let channel = channel.connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, Some("p")).await;
    let queued = tokio::spawn({
        let caller = caller.clone();
        async move { caller.call().await }
    });
    policies.put("p.wasm", &Wat::first());
    assert_eq!(soon("the queued RPC", queued).await.expect("no panic").expect("served"), "a");
}

/// A fault includes the last error that the policy logged in the call that failed, and none from earlier calls.
#[tokio::test]
async fn a_fault_says_what_the_policy_said_last() {
    let fault_of = |pick: &str| {
        let wat = Wat {
            imports: r#"(import "hotpick:policy/env@0.1.0" "log" (func $log (param i32 i32 i32)))"#,
            exports: "(data (i32.const 512) \"no\\nidea\")",
            pick,
            ..Wat::default()
        };
        let policy = WasmPolicy::compile("bad", 0, &wat.component(), Limits::default()).expect("a policy");
        let mut trial = TestChannel::start(&policy, &Placement::new("test:///", "{}")).expect("started");
        let endpoint = Endpoint::new("10.0.0.1:80".parse().expect("an address"));
        trial.update([(endpoint, ConnectivityState::Ready)]).expect("no fault");
        let metadata = http::HeaderMap::new();
        let fault = (0..2).find_map(|_| trial.pick(&PickInfo::new("/a.A/A", &metadata)).err());
        fault.expect("a trap").to_string()
    };
    let log_error = "(call $log (i32.const 4) (i32.const 512) (i32.const 7))";
    let fault = fault_of(&format!("{log_error} unreachable"));
    assert!(fault.ends_with("`unreachable` instruction executed; it said: no idea"), "{fault}");
    // Warnings are not included.
    let fault = fault_of(&format!("{} unreachable", log_error.replace("4)", "3)")));
    assert!(fault.ends_with("`unreachable` instruction executed"), "{fault}");
    let earlier = format!(
        "(if (i64.gt_u (local.get $call) (i64.const 1)) (then unreachable)) {log_error} (call $picked (i32.const 0))"
    );
    let fault = fault_of(&earlier);
    assert!(fault.ends_with("`unreachable` instruction executed"), "{fault}");
}
