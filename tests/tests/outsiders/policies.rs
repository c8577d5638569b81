//! Values that a client chooses and a policy sees.

use hotpick::policy::PolicyVersion;
use hotpick_tests::{Caller, Cluster, Policies, soon, standard};
use http::uri::PathAndQuery;
use tonic::Code;
use tonic::client::Grpc;

use super::*;

/// Calls a method that may not exist.
async fn call(channel: &Channel, path: &str) -> Result<(), tonic::Status> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.expect("always ready");
    let codec = tonic_prost::ProstCodec::<hotpick_echo::EchoRequest, hotpick_echo::EchoResponse>::default();
    let path = PathAndQuery::try_from(path).expect("a path");
    let request = tonic::Request::new(hotpick_echo::EchoRequest::new("hello"));
    client.unary(request, path, codec).await.map(drop)
}

/// 4,300 made-up paths. The policy numbers at most 4,096 of them, and continues to pick.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_number_of_methods_takes_a_policy_down() {
    let cluster = Cluster::start(&["a", "b", "c"]).await;
    for (policy, config) in [
        ("maglev", r#"{"hashOn":"method"}"#),
        ("ring_hash", r#"{"hashOn":"method"}"#),
        ("bounded_hash", r#"{"hashOn":"method"}"#),
        ("canary", r#"{"stableOn":"method","split":{"color=a":100}}"#),
    ] {
        let policies = Policies::with(&[(&format!("{policy}.wasm"), &standard(policy))]);
        let config: serde_json::Value = serde_json::from_str(config).expect("JSON");
        let channel = cluster.channel().policies(&policies.followed).policy(policy).policy_config(config);
        let channel = channel.connect_lazy().expect("a channel");
        // Do not wait for READY: some policies connect only the endpoints that they pick.
        let active = |status: &hotpick::channel::ChannelStatus| status.policy.name == policy;
        soon("the policy", channel.wait_for(active)).await;
        let caller = Caller::of(&channel);
        let paths: Vec<_> = (0..4_300).map(|n| format!("/made.Up/Method{n}")).collect();
        for some in paths.chunks(100) {
            let calls = some.iter().map(|path| call(&channel, path));
            for ended in futures_util::future::join_all(calls).await {
                assert_eq!(ended.map_err(|status| status.code()), Err(Code::Unimplemented), "{policy}");
            }
        }
        let PolicyVersion { name, generation, .. } = channel.status().policy;
        assert_eq!((&name[..], generation), (policy, 1));
        let status = policies.wait_for(policy, |_| true).await;
        assert_eq!(status.faults.values().sum::<u64>(), 0, "{policy}: {:?}", status.last_fault);
        assert_eq!(status.totals.fallback_picks, 0, "{policy}");
        caller.call().await.expect("served");
    }
}

/// The value has the same XXH64 as "red". It must not be routed to red endpoints, nor replace their group.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_colour_with_the_hash_of_another_is_another_colour() {
    let cluster = Cluster::start(&["red-1", "red-2", "blue-1"]).await;
    let policies = Policies::with(&[("color.wasm", &standard("color"))]);
    let channel =
        cluster.channel().policies(&policies.followed).policy("color").connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, Some("color")).await;
    let other = r#"zpaaytlf].!d2U"L"#;
    for _ in 0..2 {
        let status = caller.call_color(other).await.expect_err("no endpoint has this colour");
        assert_eq!(status.code(), Code::Unavailable);
        for _ in 0..4 {
            let served = soon("a red endpoint", caller.call_color("red")).await.expect("served");
            assert!(served.starts_with("red"), "{served}");
        }
    }
}
