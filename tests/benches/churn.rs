//! Ten million endpoints that come and go, while one stays: how long a change takes, and whether memory grows.
//!
//! `cargo bench --workspace --bench churn` takes seven minutes and prints a table in Markdown. With `-- COUNT`, that
//! number of endpoints comes and goes.

use std::time::{Duration, Instant};

use hotpick::Channel;
use hotpick::channel::ChannelStatus;
use hotpick::connectivity::ConnectivityState;
use hotpick::policy::{Limits, Placement, TestChannel, WasmPolicy};
use hotpick::resolver::{Endpoint, ManualResolver, ResolverUpdate};
use hotpick_tests::bench::load;
use hotpick_tests::table::{Table, median};
use hotpick_tests::{Policies, STANDARD, resident, standard};

/// Endpoints at one time, in addition to the one that stays.
const AT_ONCE: u32 = 100;

/// What one subject needed.
#[derive(Default)]
struct Measured {
    /// Time of each change of all endpoints.
    changes: Vec<Duration>,
    /// Memory (bytes) of the process after a hundredth of the changes, and after the last one; the same of the policy.
    process: (u64, u64),
    /// `None`: not of a channel.
    policy: Option<(usize, usize)>,
}

#[tokio::main]
async fn main() {
    let count = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(10_000_000);
    let rounds = (count / AT_ONCE).max(100);
    println!("{}", load());
    let mut table = Table::new([
        "endpoints come and go",
        "one of them",
        "the first hundredth",
        "the last hundredth",
        "memory of the policy, at first",
        "at last",
        "of the process, more at last",
    ]);
    let mut row = |name: &str, measured: Measured| {
        let each = |changes: &[Duration]| {
            let micros = median(changes.iter().map(Duration::as_secs_f64)) * 1e6 / f64::from(AT_ONCE);
            format!("{micros:.2} us")
        };
        let Measured { changes, process, policy } = measured;
        let part = (changes.len() / 100).max(1);
        let kib =
            |bytes: Option<usize>| bytes.map_or_else(String::new, |bytes| format!("{} KiB", bytes / 1024));
        let more = i128::from(process.1) - i128::from(process.0);
        table.row([
            name.to_owned(),
            each(&changes),
            each(&changes[..part]),
            each(&changes[changes.len() - part..]),
            kib(policy.map(|policy| policy.0)),
            kib(policy.map(|policy| policy.1)),
            format!("{more} KiB"),
        ]);
    };
    for name in STANDARD {
        row(&format!("`{name}`"), of_policy(name, rounds));
    }
    row("a channel with `ring_hash`, 1 in 10", of_channel(rounds / 10).await);
    println!("{table}{}", load());
}

/// Returns the endpoints of a round, none of which was there before but the first.
fn endpoints(round: u32) -> impl Iterator<Item = Endpoint> {
    let number = move |at: u32| if at == 0 { 0 } else { (round * AT_ONCE + at) % 0x00ff_ffff };
    (0..=AT_ONCE).map(move |at| {
        let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number(at));
        Endpoint::new(std::net::SocketAddr::from((address, 80)).into())
    })
}

fn of_policy(name: &str, rounds: u32) -> Measured {
    let policy = WasmPolicy::compile(name, 1, &standard(name), Limits::default()).expect("a policy");
    let mut trial =
        TestChannel::start(&policy, &Placement::new("static:///bench", "{}").with_seed(1)).expect("started");
    let (mut measured, mut first) = (Measured::default(), 0);
    for round in 0..rounds {
        let next = endpoints(round).map(|endpoint| (endpoint, ConnectivityState::Ready));
        measured.changes.push(trial.update(next).expect("no fault"));
        if round == (rounds / 100).max(1) {
            (measured.process.0, first) = (resident("self"), trial.memory());
        }
    }
    measured.process.1 = resident("self");
    measured.policy = Some((first, trial.memory()));
    measured
}

/// The whole of it: a resolver, subconns, snapshots, the policy and its picker. `ring_hash` connects to no endpoint
/// without an RPC.
async fn of_channel(rounds: u32) -> Measured {
    let policies = Policies::with(&[("ring_hash.wasm", &standard("ring_hash"))]);
    let resolver = ManualResolver::new(endpoints(0).collect::<Vec<_>>());
    let channel = Channel::builder("manual:///churn").resolver(resolver.clone());
    let channel = channel.policies(&policies.followed).policy("ring_hash").connect_lazy().expect("a channel");
    channel.connect();
    channel.wait_for(|status: &ChannelStatus| status.policy.generation > 0).await;
    let mut measured = Measured::default();
    for round in 1..=rounds {
        let next: Vec<_> = endpoints(round).collect();
        let last = next.last().map(Endpoint::addresses).expect("some").to_vec();
        let begin = Instant::now();
        resolver.update(ResolverUpdate::endpoints(next));
        let is_there = |status: &ChannelStatus| {
            status.ready.all().last().is_some_and(|subconn| subconn.endpoint().addresses() == last)
        };
        channel.wait_for(is_there).await;
        measured.changes.push(begin.elapsed());
        if round == (rounds / 100).max(1) {
            measured.process.0 = resident("self");
        }
    }
    measured.process.1 = resident("self");
    measured
}
