//! Metrics and traces by OTLP, at a collector on grpcio.

use std::collections::HashMap;
use std::io::BufRead as _;
use std::sync::{Arc, Mutex};

use hotpick_tests::attempts::Attempts;
use hotpick_tests::peers;
use hotpick_tests::{Cluster, soon, standard};
use serde_json::Value;
use tonic::Request;

use super::{Sidecar, until};

/// A collector, and what it has got.
struct Collector {
    _process: std::process::Child,
    endpoint: String,
    lines: Arc<Mutex<Vec<Value>>>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self._process.kill();
        let _ = self._process.wait();
    }
}

impl Collector {
    fn start() -> Self {
        let mut command = peers::collector_command();
        let mut process = command.stdout(std::process::Stdio::piped()).spawn().expect("python runs");
        let mut output = std::io::BufReader::new(process.stdout.take().expect("piped"));
        let mut port = String::new();
        output.read_line(&mut port).expect("a port");
        let lines = Arc::<Mutex<Vec<Value>>>::default();
        let theirs = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                theirs.lock().expect("no panic").push(serde_json::from_str(&line).expect("JSON"));
            }
        });
        Self { _process: process, endpoint: format!("http://127.0.0.1:{}", port.trim()), lines }
    }

    fn lines(&self) -> Vec<Value> {
        self.lines.lock().expect("no panic").clone()
    }

    /// Waits for spans that fulfil the condition, by their names.
    async fn spans(&self, condition: impl Fn(&HashMap<String, Value>) -> bool) -> HashMap<String, Value> {
        let mut found = HashMap::new();
        let named = || {
            let spans = self.lines().into_iter().filter(|line| line["span"].is_string());
            spans
                .map(|span| (span["span"].as_str().expect("text").to_owned(), span))
                .collect::<HashMap<_, _>>()
        };
        until("the spans", async || condition(&named())).await;
        found.extend(named());
        found
    }
}

/// A client's trace goes on through the sidecar, to the server: `Recv`, `Sent`, and each attempt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_goes_through_the_sidecar() {
    if !peers::available() {
        return;
    }
    let collector = Collector::start();
    let servers = Attempts::start(1).await;
    let more = format!("otlp = {{ endpoint = \"{}\", traces = 0.0, interval = 1 }}", collector.endpoint);
    let sidecar = Sidecar::to(&servers.target(), &more, "retries = { budget = {} }");
    let caller = sidecar.caller().await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let mut request = Request::new(hotpick_echo::EchoRequest::new("hello"));
    let metadata = request.metadata_mut();
    metadata.insert("call", "traced".parse().expect("a value"));
    metadata.insert("script", "14,ok".parse().expect("a value"));
    metadata.insert("traceparent", format!("00-{trace}-b7ad6b7169203331-01").parse().expect("a value"));
    soon("an answer", caller.client.clone().unary(request)).await.expect("OK");

    let spans = collector.spans(|spans| spans.contains_key("Recv.hotpick.echo.Echo.Unary")).await;
    let of = |name: &str| spans[&format!("{name}.hotpick.echo.Echo.Unary")].clone();
    let (received, sent, attempt) = (of("Recv"), of("Sent"), of("Attempt"));
    assert_eq!((&received["trace"], &received["parent"]), (&trace.into(), &"b7ad6b7169203331".into()));
    assert_eq!((&sent["parent"], &sent["trace"]), (&received["id"], &trace.into()));
    assert_eq!(attempt["parent"], sent["id"]);
    assert_eq!((&received["service"], &received["status"]), (&"hotpick".into(), &1.into()));
    let attempts: Vec<_> =
        collector.lines().into_iter().filter(|line| line["parent"] == sent["id"]).collect();
    let previous: Vec<_> =
        attempts.iter().map(|attempt| attempt["attributes"]["previous-rpc-attempts"].as_i64()).collect();
    assert_eq!(previous, [Some(0), Some(1)]);
    let last = attempts.last().expect("two");
    assert_eq!(last["events"], serde_json::json!(["Outbound message", "Inbound message"]));
    // The server has the context of the attempt that it got.
    let seen =
        servers.of("traced").last().and_then(|attempt| attempt.traceparent.clone()).expect("a context");
    assert_eq!(seen, format!("00-{trace}-{}-01", last["id"].as_str().expect("text")));

    until("metrics", async || {
        collector.lines().iter().any(|line| {
            line["metric"] == "grpc.client.call.retries"
                && line["labels"]["grpc.method"] == "hotpick.echo.Echo/Unary"
        })
    })
    .await;
    let has = |name: &str, unit: &str| {
        collector.lines().iter().any(|line| line["metric"] == name && line["unit"] == unit)
    };
    for (name, unit) in [
        ("grpc.client.attempt.started", "{attempt}"),
        ("grpc.client.attempt.duration", "s"),
        ("grpc.client.attempt.sent_total_compressed_message_size", "By"),
        ("grpc.client.attempt.rcvd_total_compressed_message_size", "By"),
        ("grpc.client.call.duration", "s"),
        ("grpc.client.call.retry_delay", "s"),
        ("grpc.server.call.started", "{call}"),
        ("grpc.server.call.duration", "s"),
        ("grpc.subchannel.open_connections", "{connection}"),
    ] {
        assert!(has(name, unit), "no {name} in {unit}");
    }
    // Without a client that asks for it, nothing is traced, and the server is told so.
    let untraced = collector.lines().iter().filter(|line| line["span"].is_string()).count();
    let mut request = Request::new(hotpick_echo::EchoRequest::new("hello"));
    request.metadata_mut().insert("call", "untraced".parse().expect("a value"));
    request.metadata_mut().insert("script", "ok".parse().expect("a value"));
    soon("an answer", caller.client.clone().unary(request)).await.expect("OK");
    let seen = servers.of("untraced").pop().and_then(|attempt| attempt.traceparent).expect("a context");
    assert!(seen.starts_with("00-") && seen.ends_with("-00") && seen.len() == 55, "{seen}");
    assert_eq!(collector.lines().iter().filter(|line| line["span"].is_string()).count(), untraced);
}

/// What a client sends by mistake does not decide what is traced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_context_is_none() {
    if !peers::available() {
        return;
    }
    let collector = Collector::start();
    let servers = Attempts::start(1).await;
    let more = format!("otlp = {{ endpoint = \"{}\", traces = 0.0, interval = 1 }}", collector.endpoint);
    let sidecar = Sidecar::to(&servers.target(), &more, "");
    let caller = sidecar.caller().await;
    let zeros = "00-00000000000000000000000000000000-0000000000000000-01";
    for header in
        [("traceparent", "00-abc"), ("traceparent", "x"), ("traceparent", zeros), ("tracestate", "a=1")]
    {
        let mut request = Request::new(hotpick_echo::EchoRequest::new("hello"));
        request.metadata_mut().insert(header.0, header.1.parse().expect("a value"));
        request.metadata_mut().insert("call", header.1.parse().expect("a value"));
        request.metadata_mut().insert("script", "ok".parse().expect("a value"));
        soon("an answer", caller.client.clone().unary(request)).await.expect("OK");
        let seen = servers.of(header.1).pop().and_then(|attempt| attempt.traceparent).expect("a context");
        assert!(seen.starts_with("00-") && seen.ends_with("-00") && seen.len() == 55, "{header:?}: {seen}");
        assert!(!seen.contains("00000000000000000000000000000000"), "{seen}");
    }
    until("metrics", async || collector.lines().iter().any(|line| line["metric"].is_string())).await;
    assert!(!collector.lines().iter().any(|line| line["span"].is_string()));
}

/// Those of the host, and the instruments of a policy under gRPC's name or their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_are_reported_to_the_collector() {
    if !peers::available() {
        return;
    }
    let collector = Collector::start();
    let cluster = Cluster::start(&["a", "b"]).await;
    let policies = tempfile::tempdir().expect("a folder");
    std::fs::write(policies.path().join("p.wasm"), standard("outlier")).expect("written");
    let more = format!(
        "policies = {:?}\ncache = \"FOLDER/cache\"\notlp = {{ endpoint = \"{}\", interval = 1 }}",
        policies.path(),
        collector.endpoint
    );
    let sidecar = Sidecar::start(&cluster, &more, "policy = \"p\"");
    until("the policy is active", async || {
        sidecar.json("/channels").await["channels"][0]["policy"]["name"] == "p"
    })
    .await;
    sidecar.caller().await.tally(10).await;
    until("picks", async || {
        let is_it =
            |line: &Value| line["metric"] == "hotpick.policy.picks" && line["labels"]["policy"] == "p";
        collector.lines().iter().any(|line| is_it(line) && line["value"].as_i64() >= Some(10))
    })
    .await;
    let grpcs = "grpc.lb.outlier_detection.ejections_enforced";
    for name in ["hotpick.policy.state", "hotpick.policy.memory", "hotpick.policy.ejected", grpcs] {
        until(name, async || collector.lines().iter().any(|line| line["metric"] == name)).await;
    }
    let lines = collector.lines();
    let of_policy = lines.iter().find(|line| line["metric"] == grpcs).expect("found");
    assert!(of_policy["labels"]["grpc.target"].is_string(), "{of_policy}");
}

/// A collector that is down costs spans, which are counted, and no RPC. Memory stays bounded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_down_costs_no_rpc() {
    let cluster = Cluster::start(&["a"]).await;
    // Nothing listens there.
    let closed =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let sidecar =
        Sidecar::start(&cluster, &format!("otlp = {{ endpoint = \"http://{closed}\", traces = 1.0 }}"), "");
    let caller = sidecar.caller().await;
    caller.tally(3000).await;
    until("spans are counted", async || {
        sidecar.metric("hotpick_otlp_dropped_spans_total").await.is_some_and(|dropped| dropped > 1000.0)
    })
    .await;
    sidecar.process.terminate();
}
