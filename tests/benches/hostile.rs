//! Runs hostile clients and servers, and checks that other clients lose no RPCs.
//!
//! `cargo bench --workspace --bench hostile -- 600` does three runs of the given number of seconds (default: 60). Each
//! prints its random seed first; `HOTPICK_SEED=...` reproduces the run.

use std::process::ExitCode;
use std::time::Duration;

use hotpick_tests::hostile::{self, Run, Sidecar};
use hotpick_tests::table::Table;

fn main() -> ExitCode {
    let seconds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(60);
    let time = Duration::from_secs(seconds);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let reports = runtime.block_on(async {
        let sidecar = Sidecar::start(&hotpick_tests::museum::languages()).await;
        let rpcs = hostile::rpcs(Run::new(time), &sidecar).await;
        let frames = hostile::frames(Run::new(time), &sidecar).await;
        let answers = hostile::answers(Run::new(time)).await;
        [
            ("RPCs of clients", rpcs),
            ("connections of clients with mutated frames", frames),
            ("RPCs to a server with odd and mutated answers", answers),
        ]
    });
    let mut table = Table::new(["hostile", "sent", "RPCs of others", "findings", "memory early, at the end"]);
    for (what, report) in &reports {
        let memory =
            report.memory.map_or_else(String::new, |(early, late)| format!("{early} KiB, {late} KiB"));
        table.row([
            (*what).to_owned(),
            report.sent.to_string(),
            report.others.to_string(),
            report.findings.len().to_string(),
            memory,
        ]);
    }
    println!("{seconds} s each\n\n{table}");
    let findings: Vec<_> = reports.iter().flat_map(|(_, report)| &report.findings).collect();
    findings.iter().take(50).for_each(|finding| println!("{finding}"));
    if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
