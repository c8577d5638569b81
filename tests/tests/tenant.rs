//! The policy `tenant` of `examples/policies`, which is written in each language: what it does with real servers. It has a
//! configuration with all kinds of settings, outcomes, a timer, two instruments and a handover.

use std::collections::BTreeMap;

use hotpick::directory::PolicyStatus;
use hotpick::policy::{MetricValue, seal};
use hotpick_tests::{Caller, Cluster, Policies, soon};
use serde_json::json;
use tonic::Code;

/// Serves with a component of this policy. Endpoints have the attribute `color`: the first part of their names.
pub(crate) async fn serves(component: &[u8]) {
    let cluster = Cluster::start(&["fast-1", "fast-2", "slow-1", "slow-2"]).await;
    let policies = Policies::cached();
    policies.put("tenant.wasm", component);
    let caller = start(&cluster, &policies, 3600.0).await;

    // A pool by the beginning of the metadata; all endpoints for others.
    // About evenly: a caller may have its answer while the RPC still counts as in flight; the other endpoint is picked then.
    assert!(is_about_even(&tally(&caller, "gold-7", 20).await, &["fast-1", "fast-2"], 20));
    assert!(is_about_even(&tally(&caller, "golf", 40).await, &["fast-1", "fast-2", "slow-1", "slow-2"], 40));
    let refused = caller.call_color("iron-1").await.expect_err("the pool is empty, and the policy is strict");
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::Unavailable, "no endpoint is in the pool of this tenant")
    );

    // One that fails is paused after three failures in a row.
    backend(&cluster, "fast-1").set_failing(true);
    let paused = async {
        let mut served = 0;
        while served < 20 {
            served =
                if caller.call_color("gold-7").await.is_ok_and(|by| by == "fast-2") { served + 1 } else { 0 };
        }
    };
    soon("the pause", paused).await;
    let has = |status: &PolicyStatus, name: &str, value: &MetricValue| {
        status.metrics.iter().any(|metric| metric.name == name && metric.value == *value)
    };
    policies
        .wait_for("tenant", |status| {
            has(status, "tenant_pauses", &MetricValue::Counter(1))
                && has(status, "tenant_paused", &MetricValue::Gauge(1.0))
        })
        .await;

    // The next version of the file takes over.
    let before = caller.status().policy.generation;
    policies.put("tenant.wasm", &seal(component, "the next version").expect("a component"));
    soon("the swap", caller.channel().wait_for(|status| status.policy.generation > before)).await;
    assert_eq!(tally(&caller, "gold-7", 20).await, shares(&[("fast-2", 20)]));
    assert_eq!(caller.status().faults, Default::default());

    // A pause ends by a timer. If the endpoint is well then, it serves again.
    let caller = start(&cluster, &policies, 0.05).await;
    while caller.call_color("gold-7").await.is_ok() {}
    backend(&cluster, "fast-1").set_failing(false);
    let back =
        async { while !is_about_even(&tally_any(&caller, "gold-7", 20).await, &["fast-1", "fast-2"], 20) {} };
    soon("the end of the pause", back).await;
    assert_eq!(caller.status().faults, Default::default());
}

async fn start(cluster: &Cluster, policies: &Policies, pause_seconds: f64) -> Caller {
    let config = json!({
        "metadata": "color",
        "attribute": "color",
        "routes": [{"prefix": "gold-", "pool": "fast"}, {"prefix": "iron-", "pool": "none"}],
        "failures": 3,
        "pauseSeconds": pause_seconds,
        "strict": true,
    });
    let channel = cluster.channel().policies(&policies.followed).policy("tenant").policy_config(config);
    let caller = Caller::of(&channel.connect_lazy().expect("a channel"));
    // The subconns' own states may be newer than what the policy knows.
    let active = caller.channel().wait_for(|status| {
        status.policy.name == "tenant" && status.policy.generation > 0 && status.ready.ready().len() == 4
    });
    tokio::time::timeout(std::time::Duration::from_secs(300), active)
        .await
        .expect("the policy becomes active");
    caller
}

fn backend<'a>(cluster: &'a Cluster, name: &str) -> &'a hotpick_echo::Backend {
    cluster.backends.iter().find(|backend| backend.name() == name).expect("a backend")
}

/// Returns whether exactly these have got RPCs, each at least half of its share.
fn is_about_even(tally: &BTreeMap<String, usize>, names: &[&str], count: usize) -> bool {
    tally.keys().map(String::as_str).eq(names.iter().copied())
        && tally.values().all(|its| its * names.len() * 2 >= count)
}

fn shares(all: &[(&str, usize)]) -> BTreeMap<String, usize> {
    all.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

async fn tally(caller: &Caller, tenant: &'static str, count: usize) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for _ in 0..count {
        *tally.entry(caller.call_color(tenant).await.expect("answered")).or_default() += 1;
    }
    tally
}

/// Like [`tally`], without the RPCs that fail.
async fn tally_any(caller: &Caller, tenant: &'static str, count: usize) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for _ in 0..count {
        if let Ok(by) = caller.call_color(tenant).await {
            *tally.entry(by).or_default() += 1;
        }
    }
    tally
}

/// Every kind of wrong configuration is refused by the name of its setting.
pub(crate) fn refuses(component: &hotpick::policy::WasmPolicy) {
    for (config, names) in [
        (json!({"metadta": "x"}), "metadta"),
        (json!({"metadata": 1}), "metadata"),
        (json!({"failures": "3"}), "failures"),
        (json!({"failures": 1.5}), "failures"),
        (json!({"failures": 0}), "failures"),
        (json!({"pauseSeconds": true}), "pauseSeconds"),
        (json!({"pauseSeconds": 0}), "pauseSeconds"),
        (json!({"strict": "no"}), "strict"),
        (json!({"routes": {}}), "routes"),
        (json!({"routes": ["gold"]}), "routes"),
        (json!({"routes": [{"prefix": "a", "pool": 1}]}), "pool"),
        (json!({"routes": [{"prefix": "a", "pool": "b", "extra": null}]}), "extra"),
        (json!({"routes": [{"prefix": "", "pool": "b"}]}), "prefix"),
        (json!({"routes": [{"prefix": "a"}]}), "pool"),
        (json!({"routes": [{"pool": "b"}]}), "prefix"),
    ] {
        let refused = component.check(&config.to_string(), 1).expect_err(&config.to_string());
        assert!(refused.is_refusal(), "{config}: {refused}");
        assert!(refused.to_string().contains(names), "{config}: {refused}");
    }
    let all = json!({
        "metadata": "x-tenant",
        "attribute": "caf\u{e9} \u{1f600} \"quoted\" \\ \n",
        "routes": [{"prefix": "a", "pool": "b"}, {"pool": "d", "prefix": "c"}],
        "failures": 7.0,
        "pauseSeconds": 1e-1,
        "strict": false,
    });
    component.check(&all.to_string(), 3).unwrap_or_else(|error| panic!("{all}: {error}"));
}
