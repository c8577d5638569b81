//! The optional parts and capabilities of the contract, tested with a policy that uses all of them.

use hotpick::Channel;
use hotpick::connectivity::ConnectivityState;
use hotpick::directory::PolicyStatus;
use hotpick::policy::{Metric, MetricValue, digest};
use hotpick_echo::EchoRequest;
use hotpick_tests::raw::RawServer;
use hotpick_tests::wat::Wat;
use hotpick_tests::{Caller, Cluster, Load, Policies, probe, soon};
use serde_json::json;
use tonic::{Code, Request};

/// Returns a policy directory with the probe and this configuration.
fn probing(config: &str) -> Policies {
    let settings = format!("[config]\n{config}\n");
    Policies::with(&[("probe.wasm", &probe()), ("probe.toml", settings.as_bytes())])
}

async fn channel_with(cluster: &Cluster, policies: &Policies) -> (Channel, Caller) {
    let channel = cluster.channel().policies(&policies.followed).policy("probe").connect_lazy();
    let channel = channel.expect("a channel");
    let caller = Caller::ready(&channel, Some("probe")).await;
    (channel, caller)
}

fn counter(status: &PolicyStatus, name: &str) -> u64 {
    match &find(status, name).value {
        MetricValue::Counter(value) => *value,
        other => panic!("{name}: {other:?}"),
    }
}

fn gauge(status: &PolicyStatus, name: &str) -> f64 {
    match &find(status, name).value {
        MetricValue::Gauge(value) => *value,
        other => panic!("{name}: {other:?}"),
    }
}

fn find<'a>(status: &'a PolicyStatus, name: &str) -> &'a Metric {
    status.metrics.iter().find(|metric| metric.name == name).unwrap_or_else(|| panic!("{name}"))
}

#[tokio::test]
async fn each_outcome_is_delivered_once() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let policies = probing("");
    let (_channel, caller) = channel_with(&cluster, &policies).await;
    caller.tally(50).await;
    for _ in 0..7 {
        let failing = Request::new(EchoRequest::new("fail"));
        // The method does not exist.
        let path = http::uri::PathAndQuery::from_static("/nowhere.None/At");
        let mut client = tonic::client::Grpc::new(caller.channel().clone());
        client.ready().await.expect("always");
        let codec = tonic_prost::ProstCodec::<EchoRequest, EchoRequest>::default();
        let answer = client.unary(failing, path, codec).await;
        assert_eq!(answer.expect_err("no such method").code(), Code::Unimplemented);
    }
    let all = |status: &PolicyStatus| counter(status, "probe_done") == 57;
    let status = policies.wait_for("probe", all).await;
    assert_eq!(counter(&status, "probe_failed"), 7);
    assert_eq!(counter(&status, "probe_not_sent"), 0);
    let MetricValue::Histogram { count, sum, buckets } = &find(&status, "probe_latency").value else {
        panic!("{status:?}")
    };
    assert_eq!((*count, buckets.len()), (57, 4));
    assert!(*sum > 0.0 && *sum < 57.0, "{sum}");
}

/// A load report with `cpu_utilization: 0.75`, encoded by hand.
const REPORT: &str = "CQAAAAAAAOg/";

#[tokio::test]
async fn load_reports_of_servers_come_with_the_outcomes() {
    let server = RawServer::bind().await;
    let policies = probing("");
    let target = format!("static:///{}", server.address());
    let channel = Channel::builder(target).policies(&policies.followed).policy("probe").connect_lazy();
    let channel = channel.expect("a channel");
    let mut peer = server.accept(&[]).await;
    let answering = tokio::spawn(async move {
        for report in ["not a report", REPORT] {
            let stream = peer.request().await;
            peer.answer_with(stream, "raw", &[("endpoint-load-metrics-bin", report)]).await;
        }
        peer.closed().await;
    });
    let caller = Caller::ready(&channel, Some("probe")).await;
    caller.tally(2).await;
    let status = policies.wait_for("probe", |status| counter(status, "probe_done") == 2).await;
    assert!((gauge(&status, "probe_cpu") - 0.75).abs() < 1e-9);
    drop((channel, caller));
    soon("the end", answering).await.expect("no panic");
}

#[tokio::test]
async fn timers_are_delivered_again_and_again() {
    let cluster = Cluster::start(&["a"]).await;
    let policies = probing("");
    let (channel, _caller) = channel_with(&cluster, &policies).await;
    // No RPC is needed.
    policies.wait_for("probe", |status| counter(status, "probe_alarms") >= 5).await;
    assert_eq!(channel.status().faults.count, 0);
}

#[tokio::test]
async fn least_in_flight_is_what_the_host_counts() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let policies = probing("mode = 'least'");
    let (_channel, caller) = channel_with(&cluster, &policies).await;
    // While a stream is open on one endpoint, all other RPCs go to the other endpoint.
    let (send, receive) = tokio::sync::mpsc::channel(1);
    let requests = tokio_stream::wrappers::ReceiverStream::new(receive);
    let mut stream = caller.client.clone().bidi(requests).await.expect("a stream").into_inner();
    send.send(EchoRequest::new("hello")).await.expect("sent");
    let busy = soon("an answer", stream.message()).await.expect("answered").expect("a message").backend;
    let tally = caller.tally(20).await;
    assert_eq!((tally.len(), tally.get(&busy)), (1, None), "{tally:?}");
    drop(send);
}

/// Serves one connection: resets the first stream with REFUSED_STREAM, answers the others with PERMISSION_DENIED, and
/// reports `x-probe` of each request.
async fn refuses_once(listener: tokio::net::TcpListener, probes: tokio::sync::mpsc::UnboundedSender<String>) {
    let (stream, _) = listener.accept().await.expect("accepted");
    let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
    let mut refuse = true;
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let probe = request.headers().get("x-probe").expect("the policy adds it");
        probes.send(probe.to_str().expect("text").to_owned()).expect("the test waits");
        if std::mem::take(&mut refuse) {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
            continue;
        }
        let response = http::Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "7")
            .body(())
            .expect("a response");
        respond.send_response(response, true).expect("sent");
    }
}

#[tokio::test]
async fn a_pick_may_add_metadata_and_knows_the_attempts_and_the_deadline() {
    let mut addresses = Vec::new();
    let (probes, mut received) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..2 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        addresses.push(listener.local_addr().expect("an address").to_string());
        tokio::spawn(refuses_once(listener, probes.clone()));
    }
    let policies = probing("mode = 'tell'");
    let target = format!("static:///{}", addresses.join(","));
    let channel = Channel::builder(target).policies(&policies.followed).policy("probe").connect_lazy();
    let channel = channel.expect("a channel");
    let caller = Caller::ready(&channel, Some("probe")).await;
    let mut request = Request::new(EchoRequest::new("hello"));
    request.set_timeout(std::time::Duration::from_secs(30));
    let status = soon("an answer", caller.request(request)).await.expect_err("refused twice");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    // The second attempt went to the other server, because each server refuses only its first stream.
    let mut attempts = Vec::new();
    for _ in 0..2 {
        attempts.push(soon("a request", received.recv()).await.expect("a value"));
    }
    assert_eq!(
        attempts,
        ["attempt=0 deadline=true in-flight=[0, 0]", "attempt=1 deadline=true in-flight=[0, 0]"]
    );
    assert_eq!(caller.call().await.expect_err("permission is denied").code(), Code::PermissionDenied);
    assert_eq!(received.recv().await.expect("a value"), "attempt=0 deadline=false in-flight=[0, 0]");
    let picked = |id: usize| channel.status().subconns[id].stats().picked;
    assert_eq!(channel.status().faults.count, 0);
    assert_eq!(picked(0) + picked(1), 1, "refused streams must not be counted");
}

#[tokio::test]
async fn a_policy_may_decide_when_to_connect() {
    let cluster = Cluster::start(&["a", "b", "c"]).await;
    let policies = probing("mode = 'pick_first'");
    let channel = cluster.channel().policies(&policies.followed).policy("probe").connect_lazy();
    let channel = channel.expect("a channel");
    soon(
        "the policy",
        channel.wait_for(|status| status.policy.name == "probe" && status.policy.generation > 0),
    )
    .await;
    assert_eq!(channel.state(), ConnectivityState::Idle);
    assert_eq!(cluster.accepted(), 0, "an endpoint was connected before the first RPC");
    let caller = Caller::of(&channel);
    assert_eq!(caller.tally(20).await.get("a"), Some(&20));
    assert_eq!(cluster.accepted(), 1, "more than one endpoint was connected");
    // When the first endpoint is gone, the second one is connected.
    let mut cluster = cluster;
    let first = cluster.backends.remove(0);
    first.leave();
    first.left().await;
    drop(first);
    loop {
        match caller.call().await {
            Ok(backend) if backend == "b" => break,
            Ok(_) => {}
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
        }
    }
    assert_eq!(caller.tally(20).await.get("b"), Some(&20));
    assert_eq!(channel.status().faults.count, 0);
}

#[tokio::test]
async fn a_lazy_policy_of_which_every_endpoint_has_failed_says_so() {
    let policies = probing("mode = 'pick_first'");
    let channel = Channel::builder("static:///127.0.0.1:1").policies(&policies.followed).policy("probe");
    let channel = channel.connect_lazy().expect("a channel");
    let caller = Caller::of(&channel);
    let status = soon("a failure", caller.call()).await.expect_err("nothing listens there");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("every endpoint has failed"), "{status:?}");
}

/// State is handed over when the code or the configuration changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_is_handed_over() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let policies = probing("");
    let (channel, caller) = channel_with(&cluster, &policies).await;
    caller.tally(100).await;
    policies.put("probe.toml", b"[config]\nmode = 'least'\n");
    soon("the swap", channel.wait_for(|status| status.swaps == 1)).await;
    let status = policies.wait_for("probe", |status| gauge(status, "probe_restored") > 0.0).await;
    assert!((gauge(&status, "probe_restored") - 100.0).abs() < 0.5, "{}", gauge(&status, "probe_restored"));
    caller.tally(11).await;
    // Swap to a policy that cannot take over state, and back.
    policies.put("probe.wasm", &Wat::first());
    soon("the swap", channel.wait_for(|status| status.policy.digest == digest(&Wat::first()))).await;
    policies.put("probe.wasm", &probe());
    soon("the swap", channel.wait_for(|status| status.policy.digest == digest(&probe()))).await;
    caller.tally(1).await;
    let picked = |id: usize| channel.status().subconns[id].stats().picked;
    assert_eq!(picked(0) + picked(1), 112, "the host's counts did not survive the swaps");
    assert_eq!(caller.dials(), 2);
}

/// The next instance gets the last saved state, which is at most five seconds old.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_outlives_a_fault() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let policies = probing("trapAt = 1500");
    let (channel, caller) = channel_with(&cluster, &policies).await;
    caller.tally(1000).await;
    policies.wait_for("probe", |status| counter(status, "probe_saves") > 0).await;
    let before = channel.status().faults.count;
    while channel.status().faults.count == before {
        caller.call().await.expect("no RPC fails");
    }
    let status = policies.wait_for("probe", |status| gauge(status, "probe_restored") > 0.0).await;
    let restored = gauge(&status, "probe_restored");
    assert!((1000.0..1500.0).contains(&restored), "{restored}");
    assert!(status.last_fault.is_some_and(|fault| fault.contains("unreachable")));
}

/// The policy leaks 30 KB per pick. An instance has 32 MiB, which last for about 800 picks, and is replaced before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_is_replaced_before_its_memory_is_used_up_and_its_state_goes_on() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let policies = probing("leak = 30000");
    let (channel, caller) = channel_with(&cluster, &policies).await;
    let load = Load::start(&caller, 4, 1);
    let status = policies.wait_for("probe", |status| status.totals.renewals >= 3).await;
    let (calls, failed) = load.stop().await;
    assert!(failed.is_empty(), "{} of {calls} failed: {:?}", failed.len(), failed[0]);
    assert_eq!(channel.status().faults.count, 0, "{:?}", channel.status().faults);
    assert_eq!(status.totals.fallback_picks, 0);
    assert!(gauge(&status, "probe_restored") > 500.0, "{}", gauge(&status, "probe_restored"));
}

#[tokio::test]
async fn two_channels_of_a_policy_are_counted_together() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let policies = probing("");
    let (one, first) = channel_with(&cluster, &policies).await;
    let other = cluster.channel().policies(&policies.followed).policy("probe");
    let other = other.policy_config(json!({"mode": "tell"})).connect_lazy().expect("a channel");
    let second = Caller::ready(&other, Some("probe")).await;
    first.tally(30).await;
    second.tally(12).await;
    let status = policies.wait_for("probe", |status| counter(status, "probe_done") == 42).await;
    assert_eq!((status.totals.picks, status.channels.len()), (42, 2));
    drop((one, first));
    // The counts of a closed channel are kept.
    let status = policies.wait_for("probe", |status| status.channels.len() == 1).await;
    assert_eq!(status.totals.picks, 42);
}
