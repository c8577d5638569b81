//! Metrics, as Prometheus reads them; and the dashboard and the alert rules that ship.

use std::path::{Path, PathBuf};
use std::process::Command;

use hotpick_echo::EchoRequest;
use hotpick_tests::attempts::Attempts;
use hotpick_tests::peers::{self, Process};
use hotpick_tests::{Cluster, soon, standard};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Request;

use super::{Sidecar, until};

fn shipped(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/monitoring").join(file)
}

async fn get(address: &str, path: &str) -> Option<Value> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.0\r\nhost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    soon("an answer", stream.read_to_string(&mut answer)).await.ok()?;
    serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_reads_the_metrics_and_the_rules_fit_them() {
    if !peers::available() {
        return;
    }
    let cluster = Cluster::start(&["a", "b"]).await;
    let policies = tempfile::tempdir().expect("a folder");
    std::fs::write(policies.path().join("p.wasm"), standard("p2c_ewma")).expect("written");
    let more = format!("policies = {:?}\ncache = \"FOLDER/cache\"", policies.path());
    let sidecar = Sidecar::start(&cluster, &more, "policy = \"p\"");
    sidecar.caller().await.tally(50).await;

    let port = peers::free_port();
    let folder = tempfile::tempdir().expect("a folder");
    let rules = shipped("alerts.yml").canonicalize().expect("it ships");
    let config = format!(
        "global: {{ scrape_interval: 1s }}\nrule_files: [{rules:?}]\nscrape_configs: [{{ job_name: hotpick, static_configs: [{{ targets: [\"{}\"] }}] }}]\n",
        sidecar.admin
    );
    let file = folder.path().join("prometheus.yml");
    std::fs::write(&file, config).expect("written");
    let address = format!("127.0.0.1:{port}");
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", file.display()));
    command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
    command.arg(format!("--web.listen-address={address}")).stderr(std::process::Stdio::null());
    let _prometheus = Process::start(&mut command);
    let query = async |expression: &str| -> Vec<Value> {
        let path = format!("/api/v1/query?query={expression}");
        let found = get(&address, &path).await.unwrap_or_default();
        found["data"]["result"].as_array().cloned().unwrap_or_default()
    };
    until("a scrape", async || {
        query("grpc_server_call_started_total").await.first().is_some_and(|found| found["value"][1] == "50")
    })
    .await;
    let attempts = query("sum(grpc_client_attempt_duration_seconds_count)").await;
    assert_eq!(attempts[0]["value"][1], "50");
    let picks = query("hotpick_policy_picks_total").await;
    assert_eq!(picks[0]["value"][1], "50");
    let up = query("up").await;
    assert_eq!(up[0]["value"][1], "1");
    let rules = get(&address, "/api/v1/rules").await.expect("rules");
    let groups = rules["data"]["groups"].as_array().expect("a list").clone();
    assert!(!groups.is_empty());
}

/// `promtool` checks the rules and what they say of made-up series.
#[test]
fn the_alert_rules_are_valid_and_fire() {
    if !peers::available() {
        return;
    }
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]] {
        let output = Command::new("promtool")
            .args(arguments)
            .current_dir(shipped(""))
            .output()
            .expect("promtool runs");
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// The metrics of a sidecar pass the linter, and every metric of the dashboard exists.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dashboard_shows_metrics_that_exist() {
    let dashboard: Value =
        serde_json::from_str(&std::fs::read_to_string(shipped("dashboard.json")).expect("it ships"))
            .expect("JSON");
    let mut expressions = Vec::new();
    let mut stack = vec![&dashboard];
    while let Some(value) = stack.pop() {
        match value {
            Value::Object(members) => {
                expressions.extend(members.get("expr").and_then(Value::as_str).map(ToOwned::to_owned));
                stack.extend(members.values());
            }
            Value::Array(all) => stack.extend(all),
            _ => {}
        }
    }
    assert!(expressions.len() > 8, "{}", expressions.len());
    // RPCs of all kinds: some wait, some are retried.
    let servers = Attempts::start(1).await;
    let policies = tempfile::tempdir().expect("a folder");
    std::fs::write(policies.path().join("p.wasm"), standard("p2c_ewma")).expect("written");
    let more = format!("policies = {:?}\ncache = \"FOLDER/cache\"", policies.path());
    let sidecar = Sidecar::to(&servers.target(), &more, "policy = \"p\"\nretries = { budget = {} }");
    let mut client = sidecar.caller().await.client;
    for script in ["ok", "14,ok", "refuse,ok"] {
        let mut request = Request::new(EchoRequest::new("hello"));
        request.metadata_mut().insert("call", script.parse().expect("a value"));
        request.metadata_mut().insert("script", script.parse().expect("a value"));
        soon(script, client.unary(request)).await.expect("OK");
    }
    let (_, text) = sidecar.get("/metrics").await;
    let named = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let names: Vec<_> = named.map(ToOwned::to_owned).collect();
    for expression in expressions {
        let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        for word in words.filter(|word| {
            word.starts_with("grpc_client")
                || word.starts_with("grpc_server")
                || word.starts_with("grpc_subchannel")
                || word.starts_with("hotpick_")
        }) {
            let plain = ["_bucket", "_sum", "_count", "_total"]
                .iter()
                .find_map(|end| word.strip_suffix(end))
                .unwrap_or(word);
            assert!(names.iter().any(|name| name == plain), "{word} in {expression}");
        }
    }
}
