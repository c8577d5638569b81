//! Cost of the standard policies, how many keys move when an endpoint leaves, and latency while one server is slow.
//!
//! `cargo bench --workspace --bench policies` prints three tables in Markdown and takes about three minutes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use hotpick::connectivity::ConnectivityState;
use hotpick::picker::{PickInfo, PickResult};
use hotpick::policy::Placement;
use hotpick::policy::{Limits, TestChannel, WasmPolicy};
use hotpick::resolver::Endpoint;
use hotpick_tests::bench::load;
use hotpick_tests::{Caller, Cluster, Policies, STANDARD, metadata, standard};
use http::HeaderMap;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let _within = runtime.enter();
    println!("{}\n", load());
    costs();
    println!();
    disruption();
    println!();
    runtime.block_on(slow_server());
    println!("\n{}", load());
}

fn compiled(name: &str) -> WasmPolicy {
    WasmPolicy::compile(name, 1, &standard(name), Limits::default()).expect("a policy")
}

/// Starts a policy with a configuration.
fn trial(policy: &WasmPolicy, config: &str) -> TestChannel {
    TestChannel::start(policy, &Placement::new("static:///bench", config).with_seed(1)).expect("started")
}

fn endpoints(count: u32) -> Vec<(Endpoint, ConnectivityState)> {
    let endpoint = |number: u32| {
        let address = format!("10.{}.{}.{}:80", number / 62_500, number / 250 % 250, number % 250);
        let endpoint = Endpoint::new(address.parse().expect("an address"));
        let of = |names: [&'static str; 2]| names[number as usize % 2];
        let endpoint = endpoint.with_attribute("color", of(["red", "blue"]));
        (endpoint, ConnectivityState::Ready)
    };
    (0..count).map(endpoint).collect()
}

fn pick(trial: &mut TestChannel, metadata: &HeaderMap) -> u32 {
    match trial.pick(&PickInfo::new("/bench.Bench/Pick", metadata)).expect("no fault") {
        PickResult::Pick(pick) => pick.subconn.id(),
        other => panic!("{other:?}"),
    }
}

/// Prints the median cost of a pick, and of an update with one endpoint that joins.
fn costs() {
    const RUNS: usize = 100;
    println!("| policy | bytes | pick among 10 | 1,000 | 10,000 | one joins 10 | 1,000 | 10,000 |");
    println!("|---|---|---|---|---|---|---|---|");
    let keys: Vec<_> = (0..64).map(metadata).collect();
    for name in STANDARD {
        let policy = compiled(name);
        let (mut picks, mut joins) = (Vec::new(), Vec::new());
        for count in [10, 1_000, 10_000] {
            let mut trial = trial(&policy, "{}");
            let all = endpoints(count + 1);
            let mut runs = Vec::new();
            let mut joining = Vec::new();
            for run in 0..20 {
                let update = all[..(count + run % 2) as usize].to_vec();
                let took = trial.update(update).expect("no fault");
                // The first update reports all endpoints.
                if run > 0 {
                    joining.push(took);
                }
            }
            for _ in 0..RUNS {
                let begin = Instant::now();
                for key in &keys {
                    pick(&mut trial, key);
                }
                runs.push(begin.elapsed() / 64);
            }
            runs.sort_unstable();
            joining.sort_unstable();
            picks.push(format!("{} ns", runs[RUNS / 2].as_nanos()));
            joins.push(format!("{:.0} us", joining[joining.len() / 2].as_secs_f64() * 1e6));
        }
        let size = standard(name).len();
        println!("| `{name}` | {size} | {} | {} |", picks.join(" | "), joins.join(" | "));
    }
}

/// Compares which endpoints own 200,000 keys before and after one endpoint leaves, and after one joins.
fn disruption() {
    const KEYS: u32 = 200_000;
    println!(
        "| policy | endpoints | most loaded / mean | moved when one leaves | of these, keys of other endpoints | moved when one joins |"
    );
    println!("|---|---|---|---|---|---|");
    for (name, config) in [
        ("ring_hash", "{}"),
        ("ring_hash", r#"{"minRingSize":32768,"maxRingSize":32768}"#),
        ("maglev", "{}"),
        ("maglev", r#"{"tableSize":199999}"#),
        ("bounded_hash", r#"{"epsilon":0.25,"minRingSize":32768}"#),
    ] {
        let mut limits = Limits::default();
        limits.update = Duration::from_secs(10);
        let policy = WasmPolicy::compile(name, 1, &standard(name), limits).expect("a policy");
        for count in [10, 100, 1_000] {
            let all = endpoints(count + 1);
            let owners = |update: Vec<(Endpoint, ConnectivityState)>| {
                let mut trial = trial(&policy, config);
                trial.update(all.clone()).expect("no fault");
                trial.update(update).expect("no fault");
                (0..KEYS).map(|key| pick(&mut trial, &metadata(key))).collect::<Vec<_>>()
            };
            let before = owners(all[..count as usize].to_vec());
            let mut loads = BTreeMap::<u32, u32>::new();
            before.iter().for_each(|owner| *loads.entry(*owner).or_default() += 1);
            let most = f64::from(*loads.values().max().expect("some")) * f64::from(count) / f64::from(KEYS);
            let gone = count / 2;
            let mut left = all[..count as usize].to_vec();
            left.remove(gone as usize);
            let after = owners(left);
            let moved =
                |after: &[u32]| before.iter().zip(after).filter(|(before, after)| before != after).count();
            let others = before
                .iter()
                .zip(&after)
                .filter(|(before, after)| before != after && **before != gone)
                .count();
            let joined = owners(all.clone());
            let share = |count: usize| 100.0 * count as f64 / f64::from(KEYS);
            println!(
                "| `{name}` `{config}` | {count} | {most:.2} | {:.2} % | {:.2} % | {:.2} % |",
                share(moved(&after)),
                share(others),
                share(moved(&joined)),
            );
        }
    }
}

/// Measures RPCs of 32 callers to ten servers, one of which takes twenty times as long as the others.
async fn slow_server() {
    println!("| policy | RPC/s | p50 | p90 | p99 | to the slow server |");
    println!("|---|---|---|---|---|---|");
    let names: Vec<_> = (0..10).map(|number| format!("s{number}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    for (name, config) in [
        ("round_robin", "{}"),
        ("random", "{}"),
        ("least_request", "{}"),
        ("least_request", r#"{"selectionMethod":"full_scan"}"#),
        ("p2c_ewma", "{}"),
    ] {
        let cluster = Cluster::start(&names).await;
        for backend in &cluster.backends {
            backend.set_delay(Duration::from_millis(if backend.name() == "s3" { 40 } else { 2 }));
        }
        let file = format!("{name}.wasm");
        let policies = Policies::with(&[(&file, &standard(name))]);
        let config_value = serde_json::from_str(config).expect("JSON");
        let channel = cluster.channel().policies(&policies.followed).policy(name).policy_config(config_value);
        let channel = channel.connect_lazy().expect("a channel");
        let caller = Caller::ready(&channel, Some(name)).await;
        caller.tally(100).await;
        let begin = Instant::now();
        let end = begin + Duration::from_secs(8);
        let callers: Vec<_> = (0..32)
            .map(|_| {
                let caller = caller.clone();
                tokio::spawn(async move {
                    let mut latencies = Histogram::<u64>::new(3).expect("a histogram");
                    let mut slow = 0u64;
                    while Instant::now() < end {
                        let begin = Instant::now();
                        slow += u64::from(caller.call().await.expect("no RPC fails") == "s3");
                        let took = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
                        latencies.record(took).expect("the histogram grows");
                    }
                    (latencies, slow)
                })
            })
            .collect();
        let (mut all, mut slow) = (Histogram::<u64>::new(3).expect("a histogram"), 0);
        for caller in callers {
            let (latencies, to_slow) = caller.await.expect("no caller panics");
            all.add(latencies).expect("the same kind");
            slow += to_slow;
        }
        let ms = |quantile| all.value_at_quantile(quantile) as f64 / 1e3;
        println!(
            "| `{name}` `{config}` | {:.0} | {:.1} ms | {:.1} ms | {:.1} ms | {:.1} % |",
            all.len() as f64 / begin.elapsed().as_secs_f64(),
            ms(0.5),
            ms(0.9),
            ms(0.99),
            100.0 * slow as f64 / all.len() as f64,
        );
    }
}
