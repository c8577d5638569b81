//! What supervisors do to a sidecar: they ask for its health, and send signals.

use std::time::Duration;

use hotpick_echo::EchoRequest;
use hotpick_tests::{Cluster, soon};
use tokio::net::TcpStream;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{Sidecar, until};

fn health_of(sidecar: &Sidecar) -> HealthClient<hotpick::Channel> {
    let channel = hotpick::Channel::builder(format!("static:///{}", sidecar.listens)).connect_lazy();
    HealthClient::new(channel.expect("a channel"))
}

fn service(name: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: name.to_owned() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_service_may_become_known() {
    let cluster = Cluster::start(&["a"]).await;
    let sidecar = Sidecar::start(&cluster, "", "health = true");
    let mut health = health_of(&sidecar);
    let checked = soon("an answer", health.check(service("shop.Cart"))).await.expect_err("unknown");
    assert_eq!(checked.code(), Code::NotFound);
    let mut watch =
        soon("a stream", health.watch(service("shop.Cart"))).await.expect("a stream").into_inner();
    let status = soon("a status", watch.message()).await.expect("a status").expect("a status").status();
    assert_eq!(status, ServingStatus::ServiceUnknown);
}

/// Someone who watches the sidecar's health does not keep it from ending.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_health_watch_ends_with_the_sidecar() {
    let cluster = Cluster::start(&["a"]).await;
    let mut sidecar = Sidecar::start(&cluster, "", "health = true");
    let mut health = health_of(&sidecar);
    let mut watch = soon("a stream", health.watch(service(""))).await.expect("a stream").into_inner();
    soon("a status", watch.message()).await.expect("a status").expect("a status");
    sidecar.process.terminate();
    let ended = soon("the end", async {
        loop {
            if let Err(status) = watch.message().await {
                return status;
            }
        }
    })
    .await;
    assert_eq!(ended.code(), Code::Unavailable, "{ended}");
    assert_eq!(soon("an exit", async { sidecar.process.end() }).await, Some(0));
}

/// A sidecar that is busy is not ill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_answered_at_the_limit_of_rpcs() {
    let servers = hotpick_tests::attempts::Attempts::start(1).await;
    let sidecar = Sidecar::to(&servers.target(), "", "health = true\nmax_rpcs = 1");
    let mut client = sidecar.caller().await.client.clone();
    let mut second = client.clone();
    let mut hangs = Request::new(EchoRequest::new("hello"));
    hangs.metadata_mut().insert("call", "first".parse().expect("a value"));
    hangs.metadata_mut().insert("script", "hang".parse().expect("a value"));
    let busy = tokio::spawn(async move { client.unary(hangs).await });
    let is_busy = async || sidecar.json("/channels").await["channels"][0]["calls"]["in_flight"] == 1;
    until("an RPC is in flight", is_busy).await;
    let refused = second.unary(EchoRequest::new("hello")).await.expect_err("at the limit");
    assert!(refused.message().contains("max_rpcs"), "{refused}");
    let checked = soon("an answer", health_of(&sidecar).check(service(""))).await.expect("an answer");
    assert_eq!(checked.into_inner().status(), ServingStatus::Serving);
    busy.abort();
}

/// A probe is answered although others hold connections on which they ask nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_do_not_keep_probes_out() {
    let cluster = Cluster::start(&["a"]).await;
    let sidecar = Sidecar::start(&cluster, "", "");
    let mut idle = Vec::new();
    for _ in 0..10 {
        for _ in 0..80 {
            idle.push(TcpStream::connect(&sidecar.admin).await.expect("connected"));
        }
        // Long before any of them is given up for its silence.
        let answered = tokio::time::timeout(Duration::from_secs(2), sidecar.get("/healthz")).await;
        assert_eq!(answered.expect("an answer"), (200, "ok\n".to_owned()));
    }
}

/// Tools that rotate logs send SIGHUP to all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hangup_does_not_end_a_sidecar_without_a_log() {
    let cluster = Cluster::start(&["a"]).await;
    let mut sidecar = Sidecar::start(&cluster, "", "");
    let caller = sidecar.caller().await;
    sidecar.process.signal("HUP");
    caller.tally(10).await;
    sidecar.process.terminate();
    assert_eq!(soon("an exit", async { sidecar.process.end() }).await, Some(0));
}

/// A FIFO that nobody reads neither keeps the sidecar from starting nor from ending.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_reads_is_not_waited_for() {
    let cluster = Cluster::start(&["a"]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let fifo = folder.path().join("access");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().expect("it runs").success());
    let mut sidecar = Sidecar::start(&cluster, &format!("access_log = {{ path = {fifo:?} }}"), "");
    sidecar.caller().await.tally(1000).await;
    until("lines are dropped", async || {
        sidecar.caller().await.tally(1000).await;
        sidecar.metric("hotpick_access_log_dropped_total").await > Some(0.0)
    })
    .await;
    sidecar.process.terminate();
    assert_eq!(soon("an exit", async { sidecar.process.end() }).await, Some(0));
}
