//! The standard policies with real servers.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine as _;
use hotpick::Channel;
use hotpick::connectivity::ConnectivityState;
use hotpick::resolver::{Endpoint, ResolverUpdate};
use hotpick::subconn::SubConn;
use hotpick_echo::{Backend, EchoRequest, EchoResponse};
use hotpick_guest::testing::chi_square;
use hotpick_tests::raw::RawServer;
use hotpick_tests::{Caller, Cluster, Policies, Tally, soon, standard};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Request, Status, Streaming};

/// Servers and a channel to them with a standard policy.
struct Stage {
    cluster: Cluster,
    policies: Policies,
    name: &'static str,
    caller: Caller,
}

impl Stage {
    /// Starts servers with these names. `endpoint` adds weights and attributes to their endpoints by name.
    async fn set(
        name: &'static str,
        config: Value,
        servers: &[&str],
        endpoint: impl Fn(&str, Endpoint) -> Endpoint,
    ) -> Self {
        let cluster = Cluster::start(servers).await;
        let endpoints = cluster
            .backends
            .iter()
            .map(|backend| endpoint(backend.name(), Endpoint::new(backend.address().into())));
        cluster.resolver.update(ResolverUpdate::endpoints(endpoints.collect::<Vec<_>>()));
        let file = format!("{name}.wasm");
        let policies = Policies::with(&[(&file, &standard(name))]);
        let channel = cluster.channel().policies(&policies.followed).policy(name).policy_config(config);
        let caller = Caller::of(&channel.connect_lazy().expect("a channel"));
        let stage = Self { cluster, policies, name, caller };
        stage.settled().await;
        stage
    }

    async fn plain(name: &'static str, config: Value, servers: &[&str]) -> Self {
        Self::set(name, config, servers, |_, endpoint| endpoint).await
    }

    fn channel(&self) -> &Channel {
        self.caller.channel()
    }

    /// Waits until the policy is active and its connections are established.
    async fn settled(&self) {
        let calm = |state| matches!(state, ConnectivityState::Ready | ConnectivityState::Idle);
        let settled = self.channel().wait_for(|status| {
            status.policy.name == self.name
                && status.policy.generation > 0
                && status.subconns.iter().all(|subconn| status.ready.state(subconn.id()).is_some_and(calm))
                // ring_hash connects an endpoint only when it picks it.
                && (!status.ready.ready().is_empty() || self.name == "ring_hash")
        });
        soon("the policy", settled).await;
    }

    async fn call_with(&self, key: &'static str, value: &str) -> Result<String, Status> {
        let mut request = Request::new(EchoRequest::new("hello"));
        request.metadata_mut().insert(key, AsciiMetadataValue::try_from(value).expect("a value"));
        self.caller.request(request).await
    }

    /// Returns the servers that answer RPCs with these metadata values, in order.
    async fn homes(&self, key: &'static str, values: std::ops::Range<usize>) -> Vec<String> {
        let mut homes = Vec::new();
        for value in values {
            homes.push(self.call_with(key, &format!("v{value}")).await.expect("no RPC fails"));
        }
        homes
    }

    /// Shuts down a backend gracefully.
    async fn stop(&mut self, name: &str) {
        let at =
            self.cluster.backends.iter().position(|backend| backend.name() == name).expect("a known name");
        let backend = self.cluster.backends.remove(at);
        backend.leave();
        backend.left().await;
    }

    /// Sends RPCs until this server answers one. Until then they may fail with UNAVAILABLE.
    async fn until_answered_by(&self, name: &str) {
        let answered = async {
            loop {
                match self.caller.call().await {
                    Ok(backend) if backend == name => return,
                    Ok(_) => {}
                    Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
                }
            }
        };
        soon(&format!("{name} to answer"), answered).await;
    }

    /// Returns the number of subconns that the policy knows as READY.
    fn connected(&self) -> usize {
        self.caller.status().ready.ready().len()
    }

    fn backend(&self, name: &str) -> &Backend {
        self.cluster.backends.iter().find(|backend| backend.name() == name).expect("a known name")
    }

    /// Checks that the policy had no faults.
    fn assert_no_faults(&self) {
        let faults = self.caller.status().faults;
        assert_eq!((faults.count, faults.fallback_picks), (0, 0), "{faults:?}");
    }
}

/// An open stream and the server that answers it.
struct Open {
    server: String,
    _send: mpsc::Sender<EchoRequest>,
    _receive: Streaming<EchoResponse>,
}

impl Open {
    async fn stream(caller: &Caller, metadata: Option<(&'static str, &'static str)>) -> Self {
        let (send, receive) = mpsc::channel(1);
        send.send(EchoRequest::new("hello")).await.expect("sent");
        let mut request = Request::new(tokio_stream::wrappers::ReceiverStream::new(receive));
        if let Some((key, value)) = metadata {
            request.metadata_mut().insert(key, AsciiMetadataValue::from_static(value));
        }
        let mut answers = caller.client.clone().bidi(request).await.expect("a stream").into_inner();
        let server = answers.message().await.expect("answered").expect("a message").backend;
        Self { server, _send: send, _receive: answers }
    }
}

fn counts(tally: &Tally) -> Vec<usize> {
    tally.values().copied().collect()
}

#[tokio::test]
async fn pick_first_has_one_connection_and_goes_on_to_the_next() {
    let mut stage = Stage::plain("pick_first", json!({}), &["a", "b", "c"]).await;
    assert_eq!(stage.caller.tally(20).await, Tally::from([("a".to_owned(), 20)]));
    assert_eq!(stage.cluster.accepted(), 1);
    stage.stop("a").await;
    stage.until_answered_by("b").await;
    assert_eq!(stage.caller.tally(20).await, Tally::from([("b".to_owned(), 20)]));
    assert_eq!(stage.connected(), 1);
    stage.assert_no_faults();
}

#[tokio::test]
async fn pick_first_after_round_robin_gives_the_other_connections_up() {
    let cluster = Cluster::start(&["a", "b", "c"]).await;
    let policies = Policies::with(&[("p.wasm", &standard("round_robin"))]);
    let channel =
        cluster.channel().policies(&policies.followed).policy("p").connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, Some("p")).await;
    policies.put("p.wasm", &standard("pick_first"));
    let one = channel.wait_for(|status| status.swaps == 1 && status.ready.ready().len() == 1);
    soon("one connection", one).await;
    assert_eq!(caller.tally(20).await.get("a"), Some(&20));
    policies.put("p.wasm", &standard("round_robin"));
    soon("the swap", channel.wait_for(|status| status.swaps == 2)).await;
    Caller::ready(&channel, Some("p")).await;
    assert_eq!(counts(&caller.tally(30).await), [10, 10, 10]);
}

#[tokio::test]
async fn weighted_round_robin_goes_by_the_weights_of_the_endpoints() {
    let weigh = |name: &str, endpoint: Endpoint| endpoint.with_weight(if name == "b" { 3 } else { 1 });
    let stage = Stage::set("weighted_round_robin", json!({}), &["a", "b", "c"], weigh).await;
    let tally = stage.caller.tally(500).await;
    for (count, expected) in counts(&tally).into_iter().zip([100usize, 300, 100]) {
        assert!(count.abs_diff(expected) <= 2, "{tally:?}");
    }
    stage.assert_no_faults();
}

/// Encodes an `OrcaLoadReport` with `cpu_utilization` (field 1) and `rps_fractional` (field 6) in base64.
fn report(cpu: f64, rps: f64) -> String {
    let mut bytes = vec![(1 << 3) | 1];
    bytes.extend(cpu.to_le_bytes());
    bytes.push((6 << 3) | 1);
    bytes.extend(rps.to_le_bytes());
    base64::engine::general_purpose::STANDARD_NO_PAD.encode(bytes)
}

#[tokio::test]
async fn weighted_round_robin_goes_by_the_load_that_servers_report() {
    let (lazy, busy) = (RawServer::bind().await, RawServer::bind().await);
    let target = format!("static:///{},{}", lazy.address(), busy.address());
    let policies = Policies::with(&[("weighted_round_robin.wasm", &standard("weighted_round_robin"))]);
    let config = json!({"blackoutPeriod": "0s", "weightUpdatePeriod": "0.1s"});
    let channel = Channel::builder(target).policies(&policies.followed).policy("weighted_round_robin");
    let channel = channel.policy_config(config).connect_lazy().expect("a channel");
    let mut servers = tokio::task::JoinSet::new();
    for (server, name, cpu) in [(lazy, "lazy", 0.2), (busy, "busy", 0.8)] {
        let mut peer = server.accept(&[]).await;
        servers.spawn(async move {
            loop {
                let stream = peer.request().await;
                peer.answer_with(stream, name, &[("endpoint-load-metrics-bin", &report(cpu, 100.0))]).await;
            }
        });
    }
    let caller = Caller::ready(&channel, Some("weighted_round_robin")).await;
    let weighted = async {
        loop {
            let tally = caller.tally(50).await;
            // Weights 100 / 0.2 and 100 / 0.8. The schedule is exact, and restarts every 100 ms.
            if counts(&tally)[0].abs_diff(10) <= 1 {
                return;
            }
        }
    };
    soon("four of five RPCs on the less busy server", weighted).await;
}

#[tokio::test]
async fn random_goes_by_the_weights_of_the_endpoints() {
    let weigh = |name: &str, endpoint: Endpoint| endpoint.with_weight(if name == "b" { 3 } else { 1 });
    let stage = Stage::set("random", json!({}), &["a", "b", "c"], weigh).await;
    let tally = stage.caller.tally(1_000).await;
    // The seed differs in each run: a correct policy fails once in 10^9 runs.
    let deviation = chi_square(&counts(&tally), &[1.0, 3.0, 1.0]).value;
    assert!(deviation < 41.0, "{tally:?}");
    stage.assert_no_faults();
}

#[tokio::test]
async fn least_request_avoids_those_that_are_busy() {
    let stage =
        Stage::plain("least_request", json!({"selectionMethod": "full_scan"}), &["a", "b", "c"]).await;
    let open = [Open::stream(&stage.caller, None).await, Open::stream(&stage.caller, None).await];
    let busy: BTreeSet<_> = open.iter().map(|open| open.server.as_str()).collect();
    assert_eq!(busy.len(), 2);
    let tally = stage.caller.tally(20).await;
    assert!(tally.len() == 1 && tally.keys().all(|name| !busy.contains(name.as_str())), "{tally:?}");
    stage.assert_no_faults();
}

#[tokio::test]
async fn least_request_has_rpcs_wait_for_a_free_stream_on_any_connection() {
    let (one, other) = (RawServer::bind().await, RawServer::bind().await);
    let target = format!("static:///{},{}", one.address(), other.address());
    let policies = Policies::with(&[("least_request.wasm", &standard("least_request"))]);
    let channel = Channel::builder(target).policies(&policies.followed).policy("least_request");
    let channel = channel.connect_lazy().expect("a channel");
    // MAX_CONCURRENT_STREAMS: 1.
    let (mut one, mut other) = (one.accept(&[(3, 1)]).await, other.accept(&[(3, 1)]).await);
    let caller = Caller::ready(&channel, Some("least_request")).await;
    let call = || {
        tokio::spawn({
            let caller = caller.clone();
            async move { caller.call().await }
        })
    };
    let first = [call(), call()];
    let (at_one, at_other) =
        (soon("a request", one.request()).await, soon("a request", other.request()).await);
    // Both connections are full: the first one with a free stream gets the third RPC.
    let third = call();
    other.answer(at_other, "other").await;
    let again = soon("the third", other.request()).await;
    other.answer(again, "other").await;
    one.answer(at_one, "one").await;
    assert_eq!(soon("the third", third).await.expect("no panic").expect("answered"), "other");
    for first in first {
        soon("an answer", first).await.expect("no panic").expect("answered");
    }
}

#[tokio::test]
async fn p2c_ewma_leaves_a_slow_server_alone() {
    let stage = Stage::plain("p2c_ewma", json!({}), &["a", "b", "slow"]).await;
    stage.backend("slow").set_delay(Duration::from_millis(50));
    stage.caller.tally(30).await;
    let tally = stage.caller.tally(300).await;
    // The policy still probes the slow server.
    assert!(tally.get("slow").copied().unwrap_or(0) < 20, "{tally:?}");
    stage.assert_no_faults();
}

/// Sends 300 RPCs with a deadline of 100 ms. Returns how many missed it.
async fn late_of_300(stage: &Stage) -> usize {
    let call = || async {
        let mut request = Request::new(EchoRequest::new("hello"));
        request.set_timeout(Duration::from_millis(100));
        match stage.caller.request(request).await {
            Ok(_) => false,
            Err(status) => {
                assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
                true
            }
        }
    };
    let mut late = 0;
    for _ in 0..300 {
        late += usize::from(call().await);
    }
    late
}

/// One of three servers accepts RPCs and never answers.
#[tokio::test]
async fn load_aware_policies_avoid_a_server_that_hangs() {
    for (name, config) in [
        ("p2c_ewma", json!({})),
        ("least_request", json!({})),
        ("zone", json!({"balance": "p2c"})),
        ("priority", json!({"balance": "p2c"})),
        ("outlier", json!({"balance": "least_request"})),
        ("sticky", json!({})),
    ] {
        let stage = Stage::plain(name, config, &["a", "b", "hangs"]).await;
        stage.caller.tally(60).await;
        stage.backend("hangs").set_delay(Duration::from_secs(3_600));
        // The policy first has to see some RPCs fail.
        late_of_300(&stage).await;
        let late = late_of_300(&stage).await;
        assert!(late <= 6, "{name}: {late} of 300");
        stage.backend("hangs").set_delay(Duration::ZERO);
        stage.assert_no_faults();
    }
}

#[tokio::test]
async fn an_empty_key_is_ignored_and_several_values_are_joined() {
    for (name, plans) in [("ring_hash", false), ("maglev", false), ("maglev", true)] {
        let cluster = Cluster::start(&["a", "b", "c", "d"]).await;
        let settings = format!("plans = {plans}");
        let policies = Policies::with(&[
            (&format!("{name}.wasm"), &standard(name)),
            (&format!("{name}.toml"), settings.as_bytes()),
        ]);
        let channel = cluster.channel().policies(&policies.followed).policy(name).connect_lazy();
        let caller = Caller::of(&channel.expect("a channel"));
        let active =
            caller.channel().wait_for(|status| status.policy.name == name && status.policy.generation > 0);
        soon("the policy", active).await;
        let call = async |values: &[&'static str]| {
            let mut request = Request::new(EchoRequest::new("hello"));
            for value in values {
                request.metadata_mut().append("hash-key", AsciiMetadataValue::from_static(value));
            }
            caller.request(request).await.expect("answered")
        };
        let mut anywhere = BTreeSet::new();
        for _ in 0..60 {
            anywhere.insert(call(&[""]).await);
        }
        assert!(anywhere.len() > 2, "{name}, {plans}: {anywhere:?}");
        for (several, joined) in [(&["a", "b"][..], "a,b"), (&["b", "a"], "b,a"), (&["1", "2", "3"], "1,2,3")]
        {
            assert_eq!(call(several).await, call(&[joined]).await, "{name}, {plans}: {several:?}");
        }
    }
}

#[tokio::test]
async fn ring_hash_keeps_keys_together_and_connects_who_has_them() {
    let mut stage = Stage::plain("ring_hash", json!({"hashOn": "metadata:user"}), &["a", "b", "c"]).await;
    assert_eq!(stage.cluster.accepted(), 0);
    let owner = stage.call_with("user", "u1").await.expect("answered");
    assert_eq!(stage.cluster.accepted(), 1, "only the owner of the key is connected");
    let before = stage.homes("user", 0..60).await;
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 3);
    assert_eq!(stage.homes("user", 0..60).await, before);
    stage.stop(&owner).await;
    let moved = async { while stage.call_with("user", "u1").await.is_err() {} };
    soon("the next server on the ring", moved).await;
    let after = stage.homes("user", 0..60).await;
    assert!(before.iter().zip(&after).all(|(before, after)| before == after || *before == owner));
    stage.assert_no_faults();
}

#[tokio::test]
async fn maglev_keeps_keys_together() {
    let mut stage = Stage::plain("maglev", json!({"hashOn": "metadata:user"}), &["a", "b", "c"]).await;
    let before = stage.homes("user", 0..60).await;
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 3);
    stage.stop("b").await;
    let gone = stage
        .channel()
        .wait_for(|status| status.subconns.iter().any(|subconn| subconn.state() != ConnectivityState::Ready));
    soon("the loss", gone).await;
    let after = stage.homes("user", 0..60).await;
    assert!(before.iter().zip(&after).all(|(before, after)| before == after || before == "b"));
    stage.assert_no_faults();
}

#[tokio::test]
async fn bounded_hash_does_not_let_one_key_have_more_than_its_bound() {
    let config = json!({"hashOn": "metadata:user", "epsilon": 0.5});
    let stage = Stage::plain("bounded_hash", config, &["a", "b", "c", "d"]).await;
    let (mut open, mut held) = (Vec::new(), Tally::new());
    for count in 1..=16usize {
        open.push(Open::stream(&stage.caller, Some(("user", "u1"))).await);
        *held.entry(open[count - 1].server.clone()).or_default() += 1;
        let bound = (count * 3).div_ceil(2 * 4);
        assert!(held.values().all(|held| *held <= bound), "{held:?} of {count}");
    }
    // The owner of the key is filled up to the bound.
    assert_eq!(held.values().max(), Some(&6), "{held:?}");
    stage.assert_no_faults();
}

#[tokio::test]
async fn sticky_sessions_stay_through_swaps_and_move_when_their_server_is_gone() {
    let mut stage = Stage::plain("sticky", json!({}), &["a", "b", "c"]).await;
    let before = stage.homes("session-id", 0..60).await;
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 3);
    assert_eq!(stage.homes("session-id", 0..60).await, before);
    // New settings make a new version of the policy.
    stage.policies.put("sticky.toml", b"[limits]\npick-ms = 3\n");
    soon("the swap", stage.channel().wait_for(|status| status.swaps == 1)).await;
    assert_eq!(stage.homes("session-id", 0..60).await, before);
    stage.stop("b").await;
    let left: Vec<_> =
        stage.cluster.backends.iter().map(|backend| Endpoint::new(backend.address().into())).collect();
    stage.cluster.resolver.update(ResolverUpdate::endpoints(left));
    soon("two endpoints", stage.channel().wait_for(|status| status.subconns.len() == 2)).await;
    let after = stage.homes("session-id", 0..60).await;
    assert!(before.iter().zip(&after).all(|(before, after)| before == after || before == "b"));
    assert_eq!(stage.homes("session-id", 0..60).await, after, "sessions move only once");
    stage.assert_no_faults();
}

#[tokio::test]
async fn canary_divides_and_can_be_chosen() {
    let version = |name: &str, endpoint: Endpoint| {
        endpoint.with_attribute("version", if name == "new" { "v2" } else { "v1" })
    };
    let config = json!({"split": {"version=v2": 200}, "stableOn": "metadata:user"});
    let stage = Stage::set("canary", config, &["old-1", "old-2", "new"], version).await;
    let homes = stage.homes("user", 0..200).await;
    let new: Vec<bool> = homes.iter().map(|home| home == "new").collect();
    // The split is by hash, so it is the same each time. 40 are expected.
    let share = new.iter().filter(|new| **new).count();
    assert!((20..60).contains(&share), "{share}");
    let again = stage.homes("user", 0..200).await;
    assert!(again.iter().zip(&new).all(|(home, new)| (home == "new") == *new));
    assert_eq!(stage.call_with("hotpick-canary", "version=v2").await.expect("answered"), "new");
    assert_ne!(stage.call_with("hotpick-canary", "rest").await.expect("answered"), "new");
    stage.assert_no_faults();
}

#[tokio::test]
async fn zone_stays_at_home_and_spills_what_it_must() {
    let zone = |name: &str, endpoint: Endpoint| endpoint.with_attribute("zone", &name[..1]);
    let stage = Stage::set("zone", json!({"zone": "a"}), &["a-1", "a-2", "b-1", "b-2"], zone).await;
    assert_eq!(counts(&stage.caller.tally(40).await), [20, 20]);
    stage.assert_no_faults();
    // The zone has half of the clients and a quarter of the endpoints.
    let stage = Stage::set("zone", json!({"zone": "a"}), &["a-1", "b-1", "b-2", "b-3"], zone).await;
    let tally = stage.caller.tally(600).await;
    let home = tally["a-1"];
    assert!((240..360).contains(&home), "{tally:?}");
    stage.assert_no_faults();
}

#[tokio::test]
async fn priority_connects_the_next_tier_when_it_is_needed() {
    let tier = |name: &str, endpoint: Endpoint| {
        endpoint.with_attribute("priority", if name == "spare" { "1" } else { "0" })
    };
    let mut stage = Stage::set("priority", json!({}), &["a", "b", "spare"], tier).await;
    let both = stage.channel().wait_for(|status| status.ready.ready().len() == 2);
    soon("the first tier", both).await;
    assert_eq!(counts(&stage.caller.tally(20).await), [10, 10]);
    assert_eq!(stage.backend("spare").accepted(), 0);
    let address = stage.backend("a").address();
    stage.stop("a").await;
    stage.stop("b").await;
    stage.until_answered_by("spare").await;
    assert_eq!(stage.caller.tally(20).await.get("spare"), Some(&20));
    let _back = Backend::start("a", address).await.expect("its port");
    stage.until_answered_by("a").await;
    assert_eq!(stage.caller.tally(20).await.get("a"), Some(&20));
    stage.assert_no_faults();
}

#[tokio::test]
async fn outlier_leaves_out_the_one_that_fails() {
    let config = json!({
        "interval": "0.1s",
        "failurePercentageEjection": {"threshold": 50, "minimumHosts": 3, "requestVolume": 5},
        "maxEjectionPercent": 50,
    });
    let stage = Stage::plain("outlier", config, &["a", "b", "ill"]).await;
    stage.backend("ill").set_failing(true);
    let ejected = async {
        loop {
            let mut failures = 0;
            for _ in 0..60 {
                failures += usize::from(stage.caller.call().await.is_err());
            }
            if failures == 0 {
                return;
            }
        }
    };
    soon("the ejection", ejected).await;
    let status = stage
        .policies
        .wait_for("outlier", |status| status.metrics.iter().any(|metric| metric.name == "ejected"))
        .await;
    assert!(format!("{:?}", status.metrics).contains("Gauge(1.0)"), "{:?}", status.metrics);
    stage.assert_no_faults();
}

#[tokio::test]
async fn subset_connects_only_its_own() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let config = json!({"subsetSize": 2, "clientId": "me"});
    let stage = Stage::plain("subset", config, &names).await;
    let both = stage.channel().wait_for(|status| status.ready.ready().len() == 2);
    soon("the subset", both).await;
    let tally = stage.caller.tally(20).await;
    assert_eq!(counts(&tally), [10, 10]);
    assert_eq!(stage.cluster.accepted(), 2);
    // Another endpoint replaces one that is lost.
    let mut stage = stage;
    let gone = tally.keys().next().expect("two").clone();
    let address = stage.backend(&gone).address().to_string();
    stage.stop(&gone).await;
    let replaced = stage.channel().wait_for(|status| {
        let ready = status.ready.ready();
        let is_gone = |subconn: &SubConn| subconn.endpoint().addresses()[0].to_string() == address;
        ready.len() == 2 && !ready.iter().any(is_gone)
    });
    soon("a replacement", replaced).await;
    let tally = stage.caller.tally(20).await;
    assert!(tally.len() == 2 && !tally.contains_key(&gone), "{tally:?}");
    stage.assert_no_faults();
}

/// pick_first has connected one of six endpoints, which is probably not in the subset.
#[tokio::test]
async fn subset_after_pick_first_is_taken_and_connects_its_own() {
    let cluster = Cluster::start(&["a", "b", "c", "d", "e", "f"]).await;
    let policies = Policies::with(&[("p.wasm", &standard("pick_first"))]);
    let config = b"[config]\nsubsetSize = 2\n";
    let channel =
        cluster.channel().policies(&policies.followed).policy("p").connect_lazy().expect("a channel");
    let caller = Caller::of(&channel);
    assert_eq!(caller.tally(5).await.get("a"), Some(&5));
    // Both files change together: the settings belong to the new code.
    policies.put("p.toml", config);
    policies.put("p.wasm", &standard("subset"));
    let digest = hotpick::policy::digest(&standard("subset"));
    let two = channel.wait_for(|status| status.policy.digest == digest && status.ready.ready().len() == 2);
    soon("the subset", two).await;
    assert_eq!(counts(&caller.tally(20).await), [10, 10]);
    assert_eq!(channel.status().faults.count, 0);
}

/// A lazy policy does not keep a channel from going idle, and reconnects when the channel wakes.
#[tokio::test]
async fn priority_lets_an_idle_channel_rest() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let policies = Policies::with(&[("priority.wasm", &standard("priority"))]);
    let channel = cluster.channel().policies(&policies.followed).policy("priority");
    let channel = channel.idle_timeout(Duration::from_millis(300)).connect_lazy().expect("a channel");
    let caller = Caller::of(&channel);
    caller.call().await.expect("answered");
    let idle = |status: &hotpick::channel::ChannelStatus| {
        status.state == ConnectivityState::Idle
            && status.subconns.iter().all(|subconn| subconn.state() == ConnectivityState::Idle)
    };
    soon("the channel to go idle", channel.wait_for(idle)).await;
    let dialled = cluster.accepted();
    // Loading another policy takes longer than a wrong reconnect would.
    policies.put("other.wasm", &standard("round_robin"));
    policies.wait_for("other", |status| status.version.is_some()).await;
    assert_eq!(cluster.accepted(), dialled);
    assert!(idle(&channel.status()), "{:?}", channel.status());
    caller.call().await.expect("answered");
    assert!(cluster.accepted() > dialled);
    assert_eq!(channel.status().faults.count, 0);
}
