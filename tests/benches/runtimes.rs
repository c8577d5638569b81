//! Cost of each policy language: size, loading, memory and picks of the policies in `examples/policies`, and latency of
//! RPCs while one of them is loaded.
//!
//! `cargo bench --workspace --bench runtimes` prints two tables in Markdown and takes about four minutes. It runs
//! `.ci/languages` first.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hdrhistogram::Histogram;
use hotpick::PolicyDir;
use hotpick::connectivity::ConnectivityState;
use hotpick::directory::{self, PolicyDirOptions};
use hotpick::picker::PickInfo;
use hotpick::policy::Placement;
use hotpick::policy::TestChannel;
use hotpick::resolver::{Address, Endpoint};
use hotpick_tests::bench::{Servers, load};
use hotpick_tests::languages::{LANGUAGES, build, examples, install};
use hotpick_tests::table::{Table, median, ratio};
use hotpick_tests::{Caller, standard};
use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

/// Turns of each policy.
const TURNS: usize = 61;
/// Picks in one turn of a policy.
const PICKS: u32 = 2_000;
/// Interval between the starts of consecutive RPCs.
const PACE: Duration = Duration::from_millis(1);
/// Time before a file is put in.
const QUIET: Duration = Duration::from_secs(3);

fn main() {
    if Servers::serve_if_asked() {
        return;
    }
    install();
    measure();
}

#[tokio::main]
async fn measure() {
    let folder = tempfile::tempdir().expect("a folder");
    let built = |language: &'static str| {
        let out = folder.path().join(language);
        assert!(build(&examples(language), &out), "the tools of {language} are missing");
        (language, out)
    };
    let built: Vec<_> = LANGUAGES.into_iter().map(built).collect();
    println!("{}\n", load());
    tokio::task::block_in_place(|| costs(&built, &folder.path().join("cache")));
    println!();
    loading(&built, folder.path()).await;
    println!("\n{}", load());
}

/// Running policies of a language, with the times of their picks (nanoseconds).
struct Measured {
    language: &'static str,
    cells: Vec<String>,
    trials: Vec<(TestChannel, HeaderMap, Vec<f64>)>,
}

fn options(cache: Option<PathBuf>) -> PolicyDirOptions {
    let mut options = PolicyDirOptions::default();
    options.compile.cache = cache;
    options
}

fn costs(built: &[(&'static str, PathBuf)], cache: &Path) {
    let mut all: Vec<_> =
        built.iter().map(|(language, folder)| Measured::start(language, folder, cache)).collect();
    for _ in 0..TURNS {
        for measured in &mut all {
            for (trial, metadata, times) in &mut measured.trials {
                let begin = std::time::Instant::now();
                for _ in 0..PICKS {
                    drop(trial.pick(&PickInfo::new("/echo.Echo/Unary", metadata)).expect("a pick"));
                }
                times.push(begin.elapsed().as_secs_f64() * 1e9 / f64::from(PICKS));
            }
        }
    }
    let mut table = Table::new([
        "language",
        "size, KB",
        "compile",
        "from the cache",
        "start",
        "memory, KiB",
        "WASI",
        "round_robin, ns",
        "x Rust",
        "color, ns",
        "x Rust",
    ]);
    let rust: Vec<_> = all[0].trials.iter().map(|(_, _, times)| times.clone()).collect();
    for measured in &mut all {
        let mut cells = vec![measured.language.to_owned()];
        cells.append(&mut measured.cells);
        for ((_, _, times), rust) in measured.trials.iter().zip(&rust) {
            let ratios = times.iter().zip(rust).map(|(its, rust)| its / rust);
            cells.push(format!("{:.0}", median(times.iter().copied())));
            cells.push(ratio(ratios, 2));
        }
        cells.resize(11, "-".to_owned());
        table.row(cells);
    }
    println!("{table}");
}

impl Measured {
    fn start(language: &'static str, folder: &Path, cache: &Path) -> Self {
        let (mut cells, mut trials) = (Vec::new(), Vec::new());
        for name in ["round_robin", "color"] {
            let file = folder.join(format!("{name}.wasm"));
            let Ok(bytes) = std::fs::read(&file) else { continue };
            let timed = |cache: Option<&Path>| {
                let begin = std::time::Instant::now();
                let policy = directory::load(&file, &options(cache.map(Path::to_owned))).expect("a policy");
                (policy, begin.elapsed())
            };
            let (policy, compiled) = timed(None);
            drop(timed(Some(cache)));
            let (_, cached) = timed(Some(cache));
            let placement = Placement::new("bench:///", "{}");
            let start = || {
                let begin = std::time::Instant::now();
                let trial = TestChannel::start(&policy, &placement).expect("the policy starts");
                (trial, begin.elapsed().as_secs_f64())
            };
            let started = median((0..9).map(|_| start().1));
            let (mut trial, _) = start();
            trial.update(endpoints()).expect("endpoints accepted");
            let mut metadata = HeaderMap::new();
            if name == "color" {
                metadata.insert("color", HeaderValue::from_static("red"));
            }
            for _ in 0..10_000 {
                drop(trial.pick(&PickInfo::new("/echo.Echo/Unary", &metadata)).expect("a pick"));
            }
            if name == "round_robin" {
                let has_wasi = policy.imports().iter().any(|import| import == "wasi");
                cells = vec![
                    format!("{:.0}", bytes.len() as f64 / 1e3),
                    time(compiled),
                    time(cached),
                    time(Duration::from_secs_f64(started)),
                    (trial.memory() / 1024).to_string(),
                    if has_wasi { "yes" } else { "none" }.to_owned(),
                ];
            }
            trials.push((trial, metadata, Vec::new()));
        }
        Self { language, cells, trials }
    }
}

/// Ten endpoints, half of them red.
fn endpoints() -> impl Iterator<Item = (Endpoint, ConnectivityState)> {
    (0..10).map(|number| {
        let address = std::net::SocketAddr::from(([198, 18, 0, number], 80));
        let color = if number % 2 == 0 { "red" } else { "blue" };
        let endpoint = Endpoint::new(Address::from(address)).with_attribute("color", color);
        (endpoint, ConnectivityState::Ready)
    })
}

fn time(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds >= 1.0 => format!("{seconds:.1} s"),
        seconds if seconds >= 0.001 => format!("{:.1} ms", seconds * 1e3),
        seconds => format!("{:.0} us", seconds * 1e6),
    }
}

/// Measures one RPC each millisecond: while nothing changes, and from putting in a file until its policy picks.
async fn loading(built: &[(&'static str, PathBuf)], folder: &Path) {
    let servers = Servers::start(3);
    let mut table = Table::new([
        "language",
        "active after",
        "RPCs meanwhile",
        "p99 / p99 before",
        "longest",
        "longest before",
        "again, from the cache",
        "failed",
    ]);
    for (language, policies) in built {
        let file = policies.join("round_robin.wasm");
        let cache = folder.join(format!("cache-{language}"));
        let first = replace(&servers, &file, cache.clone()).await;
        let again = replace(&servers, &file, cache).await;
        let us = |of: &Histogram<u64>| time(Duration::from_nanos(of.max()));
        let p99 = |of: &Histogram<u64>| of.value_at_quantile(0.99) as f64;
        table.row([
            (*language).to_owned(),
            time(first.active_after),
            first.meanwhile.len().to_string(),
            format!("{:.2}", p99(&first.meanwhile) / p99(&first.before)),
            us(&first.meanwhile),
            us(&first.before),
            time(again.active_after),
            (first.failed + again.failed).to_string(),
        ]);
    }
    println!("{table}");
}

struct Loaded {
    active_after: Duration,
    before: Histogram<u64>,
    meanwhile: Histogram<u64>,
    failed: u64,
}

/// Starts a channel with a policy in Rust, and replaces its file by another policy.
async fn replace(servers: &Servers, file: &Path, cache: PathBuf) -> Loaded {
    let directory = tempfile::tempdir().expect("a folder");
    let active = directory.path().join("active.wasm");
    std::fs::write(&active, standard("random")).expect("written");
    let followed = PolicyDir::open_with(directory.path(), options(Some(cache))).expect("a directory");
    let addresses: Vec<_> = servers.addresses.iter().map(ToString::to_string).collect();
    let target = format!("ipv4:{}", addresses.join(","));
    let channel = hotpick::Channel::builder(target).policies(&followed).policy("active").connect_lazy();
    let channel = channel.expect("a channel");
    let caller = Caller::ready(&channel, Some("active")).await;
    let generation = channel.status().policy.generation;

    let histogram = || Histogram::new(3).expect("three digits");
    let (mut before, mut meanwhile, mut failed) = (histogram(), histogram(), 0);
    let mut ticks = tokio::time::interval(PACE);
    let (begin, mut replaced) = (Instant::now(), None);
    let active_after = loop {
        let due = ticks.tick().await;
        match replaced {
            None if begin.elapsed() > QUIET => {
                let (from, to) = (file.to_owned(), active.clone());
                replaced = Some(Instant::now());
                // Writes in place, like `cp`.
                let copied = tokio::task::spawn_blocking(move || std::fs::copy(from, to)).await;
                copied.expect("no panic").expect("copied");
                ticks.reset();
                continue;
            }
            Some(at) if channel.status().policy.generation > generation => break at.elapsed(),
            _ => {}
        }
        failed += u64::from(caller.call().await.is_err());
        // Counts from the scheduled start: a delayed RPC delays those after it.
        let latency = u64::try_from(due.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let _ = if replaced.is_some() { &mut meanwhile } else { &mut before }.record(latency);
    };
    // Includes RPCs that the swap may have delayed.
    for _ in 0..100 {
        let due = ticks.tick().await;
        failed += u64::from(caller.call().await.is_err());
        let _ = meanwhile.record(u64::try_from(due.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    Loaded { active_after, before, meanwhile, failed }
}
