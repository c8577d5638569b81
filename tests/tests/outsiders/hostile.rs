//! Random hostile traffic for a few seconds. `cargo bench --workspace --bench hostile` runs for longer.

use std::time::Duration;

use hotpick_tests::hostile::{self, Report, Run, Sidecar};
use hotpick_tests::museum;

const TIME: Duration = Duration::from_secs(6);

fn assert_clean(what: &str, report: &Report) {
    assert!(report.findings.is_empty(), "{what}: {report}");
    assert!(report.sent > 0 && report.others > 0, "{what}: {report}");
}

/// The sidecar runs all standard policies and those of every language.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_clients_take_no_policy_no_connection_and_no_sidecar_down() {
    let sidecar = Sidecar::start(&museum::languages()).await;
    assert_clean("RPCs", &hostile::rpcs(Run::new(TIME), &sidecar).await);
    assert_clean("frames", &hostile::frames(Run::new(TIME), &sidecar).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_server_takes_no_rpc_of_another_server() {
    assert_clean("answers", &hostile::answers(Run::new(TIME)).await);
}
