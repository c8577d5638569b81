//! The same scripts on the same servers, by this channel and by gRPC's other implementations.

use std::io::Write as _;
use std::process::Command;

use hotpick_tests::peers::{self, Process};
use serde_json::{Value, json};

use super::Scripts;

/// Runs scripts with another implementation. Returns what [`Outcome::summary`](super::Outcome::summary) returns.
async fn with_peer(mut command: Command, scripts: &Scripts, config: &Value, all: &[&str]) -> Vec<String> {
    let address = scripts.servers.addresses()[0].to_string();
    command.args([&address, &config.to_string()]);
    let (mut process, mut input) = Process::start_with_input(&mut command);
    let mut names = Vec::new();
    for script in all {
        let (name, _) = Scripts::request(script);
        writeln!(input, "{name} {script}").expect("it reads");
        names.push(name);
    }
    drop(input);
    let codes = tokio::task::spawn_blocking(move || process.rest()).await.expect("no panic");
    assert_eq!(codes.len(), all.len(), "{codes:?}");
    let summary = |(name, code): (&String, String)| {
        format!("{} after {}", code.replace('_', ""), scripts.servers.previous(name).join(" "))
    };
    names.iter().zip(codes).map(summary).collect()
}

async fn compare(what: &str, config: Value, all: &[&str], peers: &[&str]) {
    let scripts = Scripts::start(1, config.clone()).await;
    let mut ours = Vec::new();
    for script in all {
        ours.push(scripts.call(script).await.summary().to_uppercase());
    }
    for peer in peers {
        let command = match *peer {
            "grpcio" => peers::python_command("attempts.py"),
            _ => peers::node_command("attempts.cjs"),
        };
        let theirs = with_peer(command, &scripts, &config, all).await;
        for ((script, ours), theirs) in all.iter().zip(&ours).zip(&theirs) {
            assert_eq!(*ours, theirs.to_uppercase(), "{what}, {script}: ours and that of {peer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_are_those_of_grpcio_and_grpc_js() {
    if !peers::available() {
        return;
    }
    let retry = json!({
        "maxAttempts": 3, "initialBackoff": "0.01s", "maxBackoff": "0.1s", "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]
    });
    let config = json!({"methodConfig": [{"name": [{}], "retryPolicy": retry}]});
    let scripts = [
        "ok",
        "14",
        "14,ok",
        "14,8,ok",
        "8,14,14,ok",
        "13",
        "14,13",
        "h14,ok",
        "14/20,ok",
        "14/-1,ok",
        "14,14/5,ok",
        "14,h14",
    ];
    compare("retries", config.clone(), &scripts, &["grpcio", "grpc-js"]).await;
    // grpcio retries a refused stream transparently only most of the time. Not compared is a malformed pushback, which
    // by A6 ends the retries: to grpcio it is a broken response, and grpc-js retries at once.
    compare("retries", config, &["refuse,ok"], &["grpc-js"]).await;
    // A success gives a tenth of a token. After five failures no retry is made.
    let config = json!({
        "methodConfig": [{"name": [{}], "retryPolicy": retry}],
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1}
    });
    let scripts = ["14", "14,ok", "14", "14,ok", "ok", "14,ok", "14", "14"];
    compare("throttling", config.clone(), &scripts, &["grpcio", "grpc-js"]).await;
    // A failure after the response has begun takes a token as well. grpc-js does not count it.
    let scripts = ["h14", "h14", "14,ok", "h14", "h14", "h14", "14,ok", "h13", "14,ok"];
    compare("throttling", config, &scripts, &["grpcio"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hedging_is_that_of_grpc_js() {
    if !peers::available() {
        return;
    }
    let config = json!({"methodConfig": [{"name": [{}], "hedgingPolicy": {
        "maxAttempts": 3, "hedgingDelay": "0.2s", "nonFatalStatusCodes": ["UNAVAILABLE"]
    }}]});
    let scripts = [
        "ok",
        "hang,ok",
        "hang,hang,ok",
        "14,ok",
        "14,14,ok",
        "14",
        "13",
        "14,13",
        "300:ok,hang",
        "14/50,ok",
        "14/-1,ok",
    ];
    compare("hedging", config, &scripts, &["grpc-js"]).await;
}
