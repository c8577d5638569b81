//! Cost of starting policies: a file that loops in `init` while many channels use it, the first policy of a directory
//! with many files, and a small file that is written after large ones.
//!
//! `cargo bench --workspace --bench starts -- CHANNELS FILES` (default: 600 and 1000).

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use hotpick::PolicyDir;
use hotpick::channel::ChannelStatus;
use hotpick::directory::PolicyDirOptions;
use hotpick_tests::bench::load;
use hotpick_tests::table::Table;
use hotpick_tests::wat::Wat;
use hotpick_tests::{Caller, Cluster, Policies, soon, standard};

const TIME: Duration = Duration::from_secs(8);

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let (channels, files) = (numbers.next().unwrap_or(600), numbers.next().unwrap_or(1000));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    println!("{}\n", load());
    runtime.block_on(async {
        looping(channels).await;
        many_files(files).await;
        behind_large_ones(20).await;
    });
    println!("{}", load());
}

/// Measures a small file that is written after many large ones, of the same name and of other names.
async fn behind_large_ones(count: usize) {
    let (name, large) =
        hotpick_tests::museum::languages().into_iter().max_by_key(|(_, bytes)| bytes.len()).expect("one");
    let mut table = Table::new(["a small file after large ones", "active after"]);
    for others in [false, true] {
        let cluster = Cluster::start(&["a"]).await;
        let folder = tempfile::tempdir().expect("a folder");
        let mut options = PolicyDirOptions::default();
        let hotpick = hotpick_tests::peers::built("hotpick").get_program().to_owned();
        options.compile.command = Some(vec![hotpick, "compile-policy".into()]);
        let policies = PolicyDir::open_with(folder.path(), options).expect("a directory");
        let channel = cluster.channel().policies(&policies).policy("p").connect_lazy().expect("a channel");
        for number in 0..count {
            let file = if others { format!("q{number}.wasm") } else { "p.wasm".to_owned() };
            // A custom section makes each file different.
            let mut bytes = large.clone();
            bytes.extend([0, 3, 1, b'n', u8::try_from(number).expect("few")]);
            std::fs::write(folder.path().join(file), bytes).expect("written");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let begin = Instant::now();
        std::fs::write(folder.path().join("p.wasm"), Wat::first()).expect("written");
        let digest = hotpick::policy::digest(&Wat::first());
        soon("the small policy", channel.wait_for(|status| status.policy.digest == digest)).await;
        let names = if others { "of other names" } else { "of its name" };
        let size = large.len() >> 20;
        table.row([format!("{count} {names}, {name}, {size} MiB each"), format!("{:.0?}", begin.elapsed())]);
    }
    println!("{table}");
}

async fn looping(count: usize) {
    let cluster = Cluster::start(&["a", "b"]).await;
    let policies = Policies::with(&[("p.wasm", &standard("round_robin"))]);
    let mut channels = Vec::new();
    for _ in 0..count {
        channels.push(
            cluster.channel().policies(&policies.followed).policy("p").connect_lazy().expect("a channel"),
        );
    }
    for channel in &channels {
        Caller::ready(channel, Some("p")).await;
    }
    let mut table = Table::new(["channels", "RPC/s", "p50", "p99", "max", "CPU s", "failed"]);
    let looping = Wat { init: "(loop (br 0)) (i32.const 0)", ..Wat::default() }.component();
    for (what, file) in
        [("nothing changes", None), ("a file loops in init", Some(looping)), ("nothing changes again", None)]
    {
        let cpu = cpu_time();
        let begin = Instant::now();
        if let Some(file) = file {
            policies.put("p.wasm", &file);
        }
        let callers = (0..4).map(|at| {
            let caller = Caller::of(&channels[at * count / 4]);
            tokio::spawn(async move {
                let (mut latencies, mut failed) = (Histogram::<u64>::new(3).expect("a histogram"), 0);
                let mut ticks = tokio::time::interval(Duration::from_millis(1));
                while begin.elapsed() < TIME {
                    ticks.tick().await;
                    let begin = Instant::now();
                    failed += u32::from(caller.call().await.is_err());
                    latencies
                        .saturating_record(u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX));
                }
                (latencies, failed)
            })
        });
        let (mut all, mut lost) = (Histogram::<u64>::new(3).expect("a histogram"), 0);
        for caller in callers.collect::<Vec<_>>() {
            let (latencies, failed) = caller.await.expect("no panic");
            all.add(latencies).expect("the same kind");
            lost += failed;
        }
        let ms = |quantile: f64| {
            format!(
                "{:.2} ms",
                f64::from(u32::try_from(all.value_at_quantile(quantile)).unwrap_or(u32::MAX)) / 1000.0
            )
        };
        table.row([
            format!("{count}: {what}"),
            (all.len() / TIME.as_secs()).to_string(),
            ms(0.5),
            ms(0.99),
            ms(1.0),
            format!("{:.1}", (cpu_time() - cpu).as_secs_f64()),
            lost.to_string(),
        ]);
    }
    println!("{table}");
}

async fn many_files(count: usize) {
    let cluster = Cluster::start(&["a"]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let (directory, cache) = (folder.path().join("policies.d"), folder.path().join("cache"));
    std::fs::create_dir(&directory).expect("made");
    for number in 0..count {
        // The same policy; a custom section with a number makes each file different.
        let mut bytes = Wat::first();
        let content = format!("\u{1}n{number:08}");
        bytes.extend([0, u8::try_from(content.len()).expect("short")]);
        bytes.extend(content.as_bytes());
        std::fs::write(directory.join(format!("p{number}.wasm")), bytes).expect("written");
    }
    std::thread::sleep(Duration::from_millis(300));
    let used = format!("p{}", count - 1);
    let mut table = Table::new(["policies, one of them used", "active after", "all loaded after"]);
    for what in ["a cold cache", "a warm cache"] {
        let mut options = PolicyDirOptions::default();
        options.compile.cache = Some(cache.clone());
        let begin = Instant::now();
        let policies = PolicyDir::open_with(&directory, options).expect("a directory");
        let channel = cluster
            .channel()
            .policies(&policies)
            .policy(&used)
            .first_policy_timeout(Duration::from_secs(600));
        let channel = channel.connect_lazy().expect("a channel");
        let active = |status: &ChannelStatus| status.policy.generation > 0;
        soon("the active policy", channel.wait_for(active)).await;
        let took = begin.elapsed();
        let all_loaded = |policies: &PolicyDir| {
            let all = policies.status();
            all.len() == count && all.iter().all(|status| status.version.is_some())
        };
        while !all_loaded(&policies) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        table.row([format!("{count}: {what}"), format!("{took:.1?}"), format!("{:.1?}", begin.elapsed())]);
    }
    println!("{table}");
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
