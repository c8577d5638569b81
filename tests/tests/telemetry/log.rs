//! The access log.

use std::collections::BTreeSet;

use hotpick_echo::EchoRequest;
use hotpick_tests::Cluster;
use serde_json::Value;

use super::{Sidecar, until};

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_rpc_is_a_line_and_the_file_is_opened_again_on_sighup() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let sidecar = Sidecar::start(&cluster, "access_log = { path = \"FOLDER/access.log\" }", "");
    let caller = sidecar.caller().await;
    caller.tally(10).await;
    let read = |file: &str| std::fs::read_to_string(sidecar.path(file)).unwrap_or_default();
    until("ten lines", async || read("access.log").lines().count() == 10).await;
    let all = lines(&read("access.log"));
    let endpoints: BTreeSet<_> =
        all.iter().map(|line| line["attempts"][0]["endpoint"].as_str().expect("text").to_owned()).collect();
    assert_eq!(endpoints, cluster.backends.iter().map(|backend| backend.address().to_string()).collect());
    let names: Vec<_> =
        read("access.log").split('"').skip(1).step_by(4).take(2).map(ToOwned::to_owned).collect();
    assert_eq!(names, ["time", "target"], "in the order in which people read them");
    assert!(all.iter().all(|line| line["code"] == "OK" && line["ms"].as_f64().is_some_and(|ms| ms > 0.0)));

    std::fs::rename(sidecar.path("access.log"), sidecar.path("access.1")).expect("renamed");
    sidecar.process.signal("HUP");
    until("a new file", async || {
        caller.call().await.expect("an answer");
        sidecar.path("access.log").exists()
    })
    .await;
    until("lines in the new file", async || {
        caller.call().await.expect("an answer");
        !read("access.log").is_empty()
    })
    .await;
}

/// RPCs that fail are logged whatever the sample, also those that never reach a server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sample_has_all_failures() {
    let cluster = Cluster::start(&["a"]).await;
    let log = "access_log = { path = \"FOLDER/access.log\", sample = 0.0 }";
    let sidecar = Sidecar::start(&cluster, log, "max_metadata = 1024");
    let caller = sidecar.caller().await;
    caller.tally(10).await;
    let mut large = tonic::Request::new(EchoRequest::new("hello"));
    large.metadata_mut().insert("large", "x".repeat(2000).parse().expect("a value"));
    caller.request(large).await.expect_err("too large");
    let read = || std::fs::read_to_string(sidecar.path("access.log")).unwrap_or_default();
    until("a line", async || !read().is_empty()).await;
    let all = lines(&read());
    assert_eq!(all.len(), 1);
    assert_eq!(
        (&all[0]["code"], &all[0]["attempts"]),
        (&"RESOURCE_EXHAUSTED".into(), &Value::Array(Vec::new()))
    );
    assert!(all[0]["message"].as_str().is_some_and(|message| message.contains("max_metadata")));
}

/// A full disk costs lines, which are counted, and no RPC.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_costs_no_rpc() {
    let cluster = Cluster::start(&["a"]).await;
    let sidecar = Sidecar::start(&cluster, "access_log = { path = \"/dev/full\" }", "");
    let caller = sidecar.caller().await;
    caller.tally(300).await;
    until("the lines are counted", async || {
        sidecar.metric("hotpick_access_log_dropped_total").await == Some(300.0)
    })
    .await;
    // By the target that the docs name, whatever crate the line is from.
    let warnings = sidecar.stderr().matches("hotpick::proxy: the access log cannot be written").count();
    assert_eq!(warnings, 1);
}
