//! Runs storms one after the other and checks that they leak nothing.
//!
//! `cargo bench --workspace --bench stress -- 3600` runs storms of 20 s for the given number of seconds (default: 60).
//! Each prints its random seed first, which `HOTPICK_SEED=...` reuses. File descriptors and memory are recorded after
//! each storm: from the second storm on they must not grow.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use hotpick_tests::hostile::Run;
use hotpick_tests::stress;
use hotpick_tests::table::Table;

const STORM: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let seconds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(60);
    let (begin, time) = (Instant::now(), Duration::from_secs(seconds));
    let mut table =
        Table::new(["storm", "RPCs", "cancelled", "channels", "files", "findings", "descriptors", "KiB"]);
    let (mut findings, mut descriptors) = (Vec::new(), Vec::new());
    let mut number = 0;
    while begin.elapsed() < time {
        number += 1;
        let report = stress::storm(Run::new(STORM));
        println!("{report}");
        descriptors.push(std::fs::read_dir("/proc/self/fd").expect("Linux").count());
        table.row([
            number.to_string(),
            report.served.to_string(),
            report.cancelled.to_string(),
            report.channels.to_string(),
            report.files.to_string(),
            report.findings.len().to_string(),
            descriptors[descriptors.len() - 1].to_string(),
            hotpick_tests::resident("self").to_string(),
        ]);
        findings.extend(report.findings);
    }
    println!("\n{table}");
    if let [_, second, .., last] = descriptors[..]
        && last > second
    {
        findings.push(format!("{second} descriptors after the second storm, {last} after the last"));
    }
    findings.iter().take(50).for_each(|finding| println!("{finding}"));
    if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
