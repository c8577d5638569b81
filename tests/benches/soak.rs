//! A channel whose policy directory changes continuously: many swaps, many bad files, the duration of a swap, and the
//! latency of RPCs meanwhile. Prints a table; `HOTPICK_SOAK=quick` does a tenth of it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use hotpick::directory::PolicyDirOptions;
use hotpick::policy::digest;
use hotpick::{Channel, PolicyDir};
use hotpick_tests::corpus::{File, corpus};
use hotpick_tests::wat::Wat;
use hotpick_tests::{Caller, Cluster, Load, standard};
use tokio::task::JoinSet;

const CALLERS: usize = 16;
const STREAMS: usize = 4;

/// A channel with the policy `p`, the directory that `p` comes from, and backends.
struct Subject {
    cluster: Cluster,
    directory: tempfile::TempDir,
    followed: PolicyDir,
    channel: Channel,
    caller: Caller,
}

impl Subject {
    async fn new(options: PolicyDirOptions) -> Self {
        let cluster = Cluster::start(&["red-1", "blue-1", "red-2"]).await;
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("p.wasm"), standard("round_robin")).expect("written");
        let followed = PolicyDir::open_with(directory.path(), options).expect("a directory");
        let channel = cluster.channel().policies(&followed).policy("p").wait_for_ready(true);
        let channel = channel.connect_lazy().expect("a channel");
        let caller = Caller::ready(&channel, Some("p")).await;
        Self { cluster, directory, followed, channel, caller }
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("p.wasm")
    }

    /// Writes a valid policy and waits until it is active. Returns the time since the file was closed.
    async fn swap(&self, bytes: &[u8]) -> Duration {
        fs::write(self.path(), bytes).expect("written");
        let (closed, wanted) = (Instant::now(), digest(bytes));
        let swapped = self.channel.wait_for(|status| status.policy.digest == wanted);
        hotpick_tests::soon("the swap", swapped).await;
        closed.elapsed()
    }
}

fn row(what: &str, measured: &str, goal: &str) {
    println!("| {what} | {measured} | {goal} |");
}

fn median<T: Ord + Copy>(values: &mut [T]) -> T {
    values.sort_unstable();
    values[values.len() / 2]
}

/// Returns the same policy as a file with new content, which is not in the cache.
fn unseen(bytes: &[u8], number: u32) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    // A custom section: id, size, and size of an empty name.
    bytes.extend([0, 5, 0]);
    bytes.extend(number.to_le_bytes());
    bytes
}

async fn many_swaps(swaps: usize) {
    let mut options = PolicyDirOptions::default();
    options.quiet = Duration::from_millis(2);
    let subject = Subject::new(options).await;
    let versions = [standard("random"), Wat::first(), standard("color"), standard("round_robin")];
    let load = Load::start(&subject.caller, CALLERS, STREAMS);
    let mut resident = Vec::new();
    let begin = Instant::now();
    for swap in 0..swaps {
        subject.swap(&versions[swap % versions.len()]).await;
        if swap % (swaps / 100) == 0 {
            resident.push(hotpick_tests::resident("self"));
        }
    }
    let took = begin.elapsed();
    let (calls, failed) = load.stop().await;
    let tenth = resident.len() / 10;
    let second = median(&mut resident[tenth..2 * tenth].to_vec());
    let last = median(&mut resident[9 * tenth..].to_vec());
    let faults = subject.channel.status().faults.count;
    row(
        &format!("{swaps} swaps, {CALLERS} callers, {STREAMS} streams open, in {} s", took.as_secs()),
        &format!("{} of {calls} RPCs failed, {faults} faults", failed.len()),
        "0",
    );
    let dials = subject.cluster.accepted() - subject.cluster.backends.len();
    row("connections made for them", &dials.to_string(), "0");
    row(
        "memory, second tenth and last tenth",
        &format!("{second} KiB, {last} KiB: {:+.1} %", (last as f64 / second as f64 - 1.0) * 100.0),
        "within 10 %",
    );
}

async fn bad_files(seconds: u64) {
    let mut options = PolicyDirOptions::default();
    options.quiet = Duration::from_millis(5);
    let subject = Subject::new(options).await;
    let corpus = corpus();
    let good = File::Bytes(standard("round_robin"));
    let load = Load::start(&subject.caller, CALLERS, STREAMS);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut random = fastrand::Rng::with_seed(11);
    let mut changes = 0;
    while Instant::now() < end {
        let name = ["p", "p", "p", "q", "r"][random.usize(..5)];
        let path = subject.directory.path().join(format!("{name}.wasm"));
        match random.u8(..10) {
            0 => remove(&path),
            1..3 => good.put(&path),
            _ => corpus[random.usize(..corpus.len())].file.put(&path),
        }
        changes += 1;
        tokio::time::sleep(Duration::from_millis(random.u64(1..60))).await;
    }
    good.put(&subject.path());
    let wanted = digest(&standard("round_robin"));
    let back = subject.channel.wait_for(|status| status.policy.digest == wanted);
    hotpick_tests::soon("the good policy", back).await;
    let (calls, failed) = load.stop().await;
    let status = subject.followed.status();
    let p = status.iter().find(|status| status.name == "p").expect("the policy");
    row(
        &format!("{changes} files of the corpus put in and removed at random for {seconds} s"),
        &format!("{} of {calls} RPCs failed", failed.len()),
        "0",
    );
    let faults: Vec<_> = p.faults.iter().map(|(kind, count)| format!("{count} {}", kind.name())).collect();
    let rejected: u64 = p.rejections.values().sum();
    row(
        "of these, of one policy",
        &format!("{rejected} rejected, {} active, faults: {}", p.loads, faults.join(", ")),
        "",
    );
    for status in failed.iter().take(3) {
        println!("{status:?}");
    }
}

fn remove(path: &Path) {
    let _ = fs::remove_file(path).or_else(|_| fs::remove_dir_all(path));
}

/// Measures the time from closing a file until its version is active, with the default quiet time.
async fn how_long(rounds: u32) {
    let subject = Subject::new(PolicyDirOptions::default()).await;
    let quiet = PolicyDirOptions::default().quiet;
    for (name, callers) in [("idle", 0), ("16 callers", CALLERS)] {
        let load = Load::start(&subject.caller, callers, 0);
        let (mut fresh, mut known) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let number = round + u32::try_from(callers).expect("few") * 1000;
            fresh.push(subject.swap(&unseen(&standard("color"), number)).await);
            known.push(subject.swap(&standard("round_robin")).await);
        }
        load.stop().await;
        let (fresh, known) = (median(&mut fresh), median(&mut known));
        row(
            &format!("a Rust policy of {} KB, from closed to active, {name}", standard("color").len() / 1000),
            &format!("{} ms", fresh.as_millis()),
            "at most 300 ms",
        );
        row(
            &format!("one compiled before, after the quiet time, {name}"),
            &format!("{} ms", known.saturating_sub(quiet).as_millis()),
            "at most 50 ms",
        );
    }
}

/// Measures latency with a swap every 100 ms and without swaps, in turns. Each caller pauses between its RPCs, so that
/// they do not queue behind each other.
async fn latency(rounds: usize) {
    let mut options = PolicyDirOptions::default();
    options.quiet = Duration::from_millis(5);
    let subject = Subject::new(options).await;
    let versions = [standard("random"), standard("color"), standard("round_robin")];
    let mut seen = [Histogram::<u64>::new(3).expect("bounds"), Histogram::new(3).expect("bounds")];
    let mut swaps = 0;
    for round in 0..rounds * 2 {
        let swapping = round % 2 == 1;
        let stop = Arc::new(AtomicBool::new(false));
        let mut callers = JoinSet::new();
        for _ in 0..4 {
            let (caller, stop) = (subject.caller.clone(), Arc::clone(&stop));
            callers.spawn(async move {
                let mut latencies = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    caller.call().await.expect("no RPC fails");
                    latencies.push(begin.elapsed());
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                latencies
            });
        }
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if swapping {
                subject.swap(&versions[swaps % 3]).await;
                swaps += 1;
            }
        }
        stop.store(true, Ordering::Relaxed);
        while let Some(latencies) = callers.join_next().await {
            for latency in latencies.expect("no panic") {
                let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
                seen[usize::from(swapping)].record(micros).expect("within bounds");
            }
        }
    }
    for (name, seen) in ["without swaps", "with swaps"].iter().zip(&seen) {
        let above = seen.len() - seen.count_between(0, 5_000);
        row(
            &format!("latency of {} RPCs {name}", seen.len()),
            &format!(
                "p50 {} us, p99.9 {} us, most {} us, above 5 ms: {above}",
                seen.value_at_quantile(0.5),
                seen.value_at_quantile(0.999),
                seen.max()
            ),
            if *name == "with swaps" { "as without" } else { "" },
        );
    }
    row("swaps meanwhile", &swaps.to_string(), "");
}

#[tokio::main]
async fn main() {
    let quick = std::env::var("HOTPICK_SOAK").is_ok_and(|how| how == "quick");
    let part: u16 = if quick { 10 } else { 1 };
    println!("| what | measured | goal |");
    println!("|---|---|---|");
    many_swaps(10_000 / usize::from(part)).await;
    bad_files(60 / u64::from(part)).await;
    how_long(50 / u32::from(part)).await;
    latency(10 / usize::from(part)).await;
}
