//! The admin listener: health, status, metrics of RPCs, the tap.

use std::process::Command;
use std::time::Duration;

use hotpick_echo::{EchoClient, EchoRequest};
use hotpick_tests::peers;
use hotpick_tests::raw::{RawPeer, RawServer};
use hotpick_tests::{Cluster, soon, standard};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{Sidecar, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_is_ready_when_it_can_pick() {
    let server = RawServer::bind().await;
    let sidecar = Sidecar::to(&format!("static:///{}", server.address()), "", "health = true");
    assert_eq!(sidecar.get("/healthz").await, (200, "ok\n".to_owned()));
    let target = format!("static:///{}", server.address());
    // Before, its target is not resolved.
    let connecting = (503, format!("{target} is CONNECTING: none of its 1 endpoints is ready\n"));
    until("the sidecar says what it lacks", async || sidecar.get("/readyz").await == connecting).await;
    let channel = hotpick::Channel::builder(format!("static:///{}", sidecar.listens)).connect_lazy();
    let mut health = HealthClient::new(channel.expect("a channel"));
    let mut check = async || {
        let answer = health.check(HealthCheckRequest { service: String::new() }).await;
        answer.expect("an answer").into_inner().status()
    };
    assert_eq!(check().await, ServingStatus::NotServing);
    let _peer = server.accept(&[]).await;
    until("the sidecar is ready", async || sidecar.get("/readyz").await == (200, "ready\n".to_owned())).await;
    until("the health service says so", async || check().await == ServingStatus::Serving).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channels_and_metrics_say_the_same() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let sidecar = Sidecar::start(&cluster, "", "");
    let caller = sidecar.caller().await;
    caller.tally(20).await;
    let mut late = Request::new(EchoRequest::new("sleep"));
    late.set_timeout(Duration::from_millis(1));
    let _ = caller.client.clone().unary(late).await;
    let _ = caller.client.clone().unary(EchoRequest::new("fail")).await;
    until("all have ended", async || {
        sidecar.json("/channels").await["channels"][0]["calls"]["in_flight"] == 0
    })
    .await;
    let channels = sidecar.json("/channels").await;
    let channel = &channels["channels"][0];
    assert_eq!((&channel["state"], &channel["policy"]["name"]), (&"READY".into(), &"round_robin".into()));
    let picked: u64 = channel["endpoints"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|endpoint| endpoint["picked"].as_u64())
        .sum();
    let target = channel["target"].as_str().expect("text");
    let method = "grpc_method=\"hotpick.echo.Echo/Unary\"";
    let started = sidecar
        .metric(&format!("grpc_client_attempt_started_total{{{method},grpc_target=\"{target}\",grpc_attempt_type=\"original\"}}"))
        .await;
    #[expect(clippy::cast_precision_loss, reason = "small")]
    let as_float = |number: u64| number as f64;
    assert_eq!(started, Some(as_float(picked)));
    let ended = sidecar
        .metric(&format!("grpc_server_call_duration_seconds_count{{{method},grpc_status=\"OK\"}}"))
        .await;
    assert!(ended.is_some_and(|ended| ended >= 20.0), "{ended:?}");
    let calls = &channel["calls"];
    assert_eq!(started, calls["started"].as_u64().map(as_float));
}

/// A client can make up methods, and a scraper can hang.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_methods_are_two_hundred_and_other() {
    let cluster = Cluster::start(&["a"]).await;
    let sidecar = Sidecar::start(&cluster, "[metrics]\nmax_methods = 3", "");
    let _hangs = sidecar.ask("/metrics", "x: y").await;
    let mut client = RawPeer::connect(sidecar.listens.parse().expect("an address")).await;
    for number in 0..1000_u32 {
        client.rpc(2 * number + 1, &format!("/made.Up/{number}"), &[]).await;
        let _ = client.answer_on(2 * number + 1).await;
    }
    let (_, text) = sidecar.get("/metrics").await;
    let named: Vec<_> =
        text.lines().filter(|line| line.starts_with("grpc_server_call_started_total")).collect();
    assert_eq!(named.len(), 4, "{named:#?}");
    let other = sidecar.metric("grpc_server_call_started_total{grpc_method=\"other\"}").await;
    assert_eq!(other, Some(997.0));
}

/// A client can choose the codes of its RPCs as well: the text that a scraper gets stays within a few megabytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_text_of_metrics_is_bounded() {
    let servers = hotpick_tests::attempts::Attempts::start(1).await;
    let sidecar = Sidecar::to(&servers.target(), "", "");
    let mut client = RawPeer::connect(sidecar.listens.parse().expect("an address")).await;
    let name = "x".repeat(110);
    let mut stream = 1;
    for code in ["ok", "1", "3", "5", "8", "9", "10", "13", "14"] {
        for number in 0..150 {
            let headers = [("script", code), ("call", "any")];
            client.rpc(stream, &format!("/made.Up/{number}{name}"), &headers).await;
            let _ = client.answer_on(stream).await;
            stream += 2;
        }
    }
    let (status, text) = sidecar.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(text.len() < 10_000_000, "{} bytes", text.len());
    // Nothing is lost: what has no place of its own is counted as another method's.
    let ended = text.lines().filter(|line| line.starts_with("grpc_server_call_duration_seconds_count{"));
    let ended: f64 = ended.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
    assert_eq!(ended, 1350.0);
    let others = text
        .lines()
        .filter(|line| line.starts_with("grpc_server_call_duration_seconds_count{grpc_method=\"other\""));
    assert!(others.count() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rpcs_are_shown_only_if_that_is_allowed() {
    let cluster = Cluster::start(&["a"]).await;
    let sidecar = Sidecar::start(&cluster, "", "");
    let (status, text) = sidecar.get("/tap").await;
    assert_eq!(
        (status, text.as_str()),
        (403, "tap is off: set tap = true in [admin] of the sidecar's configuration\n")
    );
    let folder = tempfile::tempdir().expect("a folder");
    let token = folder.path().join("token");
    std::fs::write(&token, "secret\n").expect("written");
    let admin = format!("[admin]\nlisten = \"127.0.0.1:0\"\ntap = true\ntoken_file = {token:?}");
    let sidecar = Sidecar::start(&cluster, &admin, "");
    assert_eq!(sidecar.get("/tap").await.0, 401);
    assert_eq!(sidecar.get_with("/tap", "authorization: Bearer wrong\r\n").await.0, 401);
    let authorized = "authorization: Bearer secret\r\n";
    assert_eq!(sidecar.get_with("/tap?share=2", authorized).await.0, 400);
    // Without a token, a page of another site could read it in the browser of someone on this machine.
    let open = Sidecar::start(&cluster, "[admin]\nlisten = \"127.0.0.1:0\"\ntap = true", "");
    let (status, text) = open.get("/tap?share=2").await;
    assert_eq!((status, text.as_str()), (403, "tap without a token is for localhost or an IP address\n"));
    let tap = sidecar.ask("/tap?method=Unary", authorized).await;
    let mut lines = BufReader::new(tap).lines();
    while !soon("a head", lines.next_line()).await.expect("open").expect("a line").is_empty() {}
    let caller = sidecar.caller().await;
    caller.call().await.expect("an answer");
    // Chunked: a length, then the line.
    let line = loop {
        let line = soon("an RPC", lines.next_line()).await.expect("open").expect("a line");
        if line.starts_with('{') {
            break line;
        }
    };
    let rpc: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((&rpc["method"], &rpc["code"]), (&"hotpick.echo.Echo/Unary".into(), &"OK".into()));
    assert_eq!(rpc["attempts"][0]["endpoint"], cluster.backends[0].address().to_string());
    assert!(rpc["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{line}");
}

/// The page's data: the whole state first, then numbers, and events as they happen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_is_told_of_a_swap() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let policy = folder.path().join("p.wasm");
    std::fs::write(&policy, standard("random")).expect("written");
    let sidecar = Sidecar::start(
        &cluster,
        &format!("policies = {:?}\ncache = \"FOLDER/cache\"", folder.path()),
        "policy = \"p\"",
    );
    until("the policy is active", async || {
        sidecar.json("/channels").await["channels"][0]["policy"]["name"] == "p"
    })
    .await;
    let (status, page) = sidecar.get("/").await;
    assert_eq!(status, 200);
    assert!(page.len() < 150_000 && page.contains("<title>"), "{} bytes", page.len());
    let live = sidecar.ask("/live", "").await;
    let mut lines = BufReader::new(live).lines();
    let mut next = async || {
        loop {
            let line = soon("an event", lines.next_line()).await.expect("open").expect("a line");
            if let Some(data) = line.strip_prefix("data: ") {
                return serde_json::from_str::<Value>(data).expect("JSON");
            }
        }
    };
    let snapshot = next().await;
    assert_eq!(snapshot["channels"][0]["endpoints"].as_array().map(Vec::len), Some(2));
    assert!(snapshot["policies"][0]["name"] == "p", "{snapshot}");
    std::fs::write(&policy, standard("round_robin")).expect("written");
    loop {
        let event = next().await;
        if event["kind"] == "swap" && event["text"].as_str().is_some_and(|text| text.contains("p #2")) {
            break;
        }
    }
    std::fs::write(&policy, b"junk").expect("written");
    loop {
        let event = next().await;
        if event["kind"] == "rejected" {
            assert_eq!(event["text"], "policy p: the file is rejected: is not WebAssembly");
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channelz_is_served_on_the_same_port() {
    if !peers::available() {
        return;
    }
    let cluster = Cluster::start(&["a", "b"]).await;
    let sidecar = Sidecar::start(&cluster, "", "");
    // The sidecar may have a client before it has connected to both.
    until("both endpoints", async || {
        let channels = sidecar.json("/channels").await;
        let endpoints = channels["channels"][0]["endpoints"].as_array().cloned().unwrap_or_default();
        endpoints.len() == 2 && endpoints.iter().all(|endpoint| endpoint["state"] == "READY")
    })
    .await;
    sidecar.caller().await.tally(10).await;
    let mut seen = peers::python("channelz.py", &[&sidecar.admin]).rest();
    let backends: Vec<_> = cluster.backends.iter().map(|backend| backend.address()).collect();
    let target = format!("static:///{},{}", backends[0], backends[1]);
    let calls = |line: &String| {
        line.split(' ').next_back().and_then(|calls| calls.parse::<u32>().ok()).expect("a number")
    };
    assert!(seen[0].starts_with(&format!("channel 1 {target} READY ")), "{seen:#?}");
    assert!(calls(&seen[0]) >= 10);
    seen.remove(0);
    for (line, backend) in seen.iter().zip(&backends) {
        assert!(line.starts_with(&format!("subchannel {backend} READY ")), "{line}");
        assert!(calls(line) >= 5, "{line}");
    }
    assert_eq!(seen.len(), 2);
}

fn said(config: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("proxy.toml");
    std::fs::write(&file, config).expect("written");
    let mut command: Command = peers::built("hotpick");
    let output = command.arg("proxy").arg("--config").arg(&file).output().expect("it runs");
    assert!(!output.status.success());
    let started = String::from_utf8_lossy(&output.stdout);
    assert!(!started.contains("listening on"), "a supervisor takes this for a proxy that is up: {started}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_cannot_be_configured_is_said_in_one_sentence() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("an address");
    let listener = "[[listeners]]\nlisten = \"127.0.0.1:0\"\ntarget = \"static:///127.0.0.1:1\"\n";
    for (config, sentence) in [
        (format!("admin = \"{taken}\"\n{listener}"), format!("admin listener: cannot listen on {taken}: ")),
        (
            format!("admin = {{ listen = \"0.0.0.0:0\", tap = true }}\n{listener}"),
            "is not a loopback address: set token_file".to_owned(),
        ),
        (
            format!("admin = {{ listen = \"127.0.0.1:0\", control = true }}\n{listener}"),
            "admin: control needs token_file, or use control_socket".to_owned(),
        ),
        (
            format!("record = {{ directory = \"x\", share = 0.0 }}\npolicies = \"/nonexistent\"\n{listener}"),
            "record.share is 0: use a number above 0 and at most 1".to_owned(),
        ),
        (
            format!("access_log = {{ path = \"/nonexistent/x\" }}\n{listener}"),
            "access_log: cannot open".to_owned(),
        ),
        (
            format!("otlp = {{ endpoint = \"collector\" }}\n{listener}"),
            "expected http://HOST:PORT".to_owned(),
        ),
        (
            format!("metrics = {{ max_methods = 20000 }}\n{listener}"),
            "max_methods is 20000: set 0 to 10000".to_owned(),
        ),
        (format!("{listener}max_waiting = 0"), "max_waiting is 0".to_owned()),
        (format!("{listener}max_wait = 0.0"), "max_wait is 0 seconds".to_owned()),
        (
            format!("{listener}max_requests_per_endpoint = 0"),
            "max_requests_per_endpoint is 0, so every RPC would fail".to_owned(),
        ),
        (format!("{listener}retries = {{}}"), "retries is empty: set budget = {}".to_owned()),
        (format!("{listener}retries = {{ max_attempts = 1 }}"), "set at least 2".to_owned()),
        (
            format!("admin = {{ listen = \"127.0.0.1:0\", tapp = true }}\n{listener}"),
            "unknown field `tapp`, expected one of `listen`, `tap`, `control`, `token_file`, `control_socket`".to_owned(),
        ),
        (
            format!("metrics = {{ max_methods = -1 }}\n{listener}"),
            "integer `-1`, expected a whole number, not negative".to_owned(),
        ),
        (
            format!("otlp = {{ endpoint = \"http://127.0.0.1\" }}\n{listener}"),
            "expected http://HOST:PORT".to_owned(),
        ),
        (
            format!("otlp = {{ endpoint = \"http://127.0.0.1:99999\" }}\n{listener}"),
            "expected http://HOST:PORT".to_owned(),
        ),
        (
            format!("otlp = {{ endpoint = \"http://u:p@127.0.0.1:4317\" }}\n{listener}"),
            "expected http://HOST:PORT".to_owned(),
        ),
        (format!("{listener}max_wait = -1.0"), "max_wait is -1.0: expected seconds".to_owned()),
        (
            format!("{listener}retries = {{ budget = {{ ratio = -1.0 }} }}"),
            "retry option ratio is -1: expected 0 to 1000".to_owned(),
        ),
        (
            format!("{listener}retries = {{ policy = {{ maxAttempts = 1 }} }}"),
            "retryPolicy lacks initialBackoff".to_owned(),
        ),
    ] {
        let text = said(&config);
        assert!(text.contains(&sentence), "{config}\n{text}");
        assert!(text.trim_end().lines().count() <= 1, "{text}");
    }
}

/// Retries of the sidecar, by its configuration.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sidecar_retries_within_its_budget() {
    let servers = hotpick_tests::attempts::Attempts::start(1).await;
    let sidecar = Sidecar::to(&servers.target(), "", "retries = { budget = { min_per_second = 100 } }");
    let channel = hotpick::Channel::builder(format!("static:///{}", sidecar.listens)).connect_lazy();
    let mut client = EchoClient::new(channel.expect("a channel"));
    let mut call = async |name: &'static str, script: &'static str| {
        let mut request = Request::new(EchoRequest::new("hello"));
        request.metadata_mut().insert("call", name.parse().expect("a value"));
        request.metadata_mut().insert("script", script.parse().expect("a value"));
        soon(script, client.unary(request)).await.map_or_else(|status| status.code(), |_| Code::Ok)
    };
    assert_eq!(call("a", "14,14,ok").await, Code::Ok);
    assert_eq!(servers.previous("a"), ["-", "1", "2"]);
    assert_eq!(call("b", "13,ok").await, Code::Internal);
    let retries = sidecar.metric("grpc_client_call_retries_sum").await;
    assert_eq!(retries, Some(2.0));
}
