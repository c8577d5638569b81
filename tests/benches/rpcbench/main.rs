//! Cost of an RPC for the client: compares hotpick with tonic's channels and with bare hyper in one run.
//!
//! `cargo bench --workspace --bench rpcbench` prints tables in Markdown and takes about eight minutes. The servers run
//! in a separate process, so the CPU time is that of the client alone. The peers take turns, so a disturbance of the
//! machine affects all of them. `HOTPICK_BENCH=quick` does only one configuration with few rounds. If valgrind is
//! installed, the instructions of an RPC are counted, too; `-- instructions` does only that.

mod peer;
mod raw;

use std::process::Command;
use std::time::Duration;

use hdrhistogram::Histogram;
use hotpick_tests::bench::{self, Servers, micros};
use hotpick_tests::table::{Table, median, ratio};
use tokio::task::JoinSet;

use self::peer::{Client, Peer, Rpc};

const BACKENDS: [usize; 2] = [3, 100];
const CALLERS: [usize; 4] = [1, 16, 64, 256];
/// Duration of a peer's turn.
const TURN: Duration = Duration::from_millis(500);

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        _ if Servers::serve_if_asked() => {}
        ["count", peer, rpcs, ref addresses @ ..] => {
            let addresses: Vec<_> =
                addresses.iter().map(|address| address.parse().expect("an address")).collect();
            count(Peer::named(peer), rpcs.parse().expect("a number"), &addresses);
        }
        ["instructions", ..] => show_counts(&Servers::start(3)),
        _ => compare(),
    }
}

/// Prints the number of allocations of `rpcs` RPCs.
fn count(peer: Peer, rpcs: usize, addresses: &[std::net::SocketAddr]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let client = runtime.block_on(peer.connect(addresses));
    // Warms up: allocations that happen only once are not counted.
    run(&runtime, &client, 64);
    println!("{}", allocation_counter::measure(|| run(&runtime, &client, rpcs)).count_total);
    // Destructors must not be counted.
    std::process::exit(0);
}

/// Sends `rpcs` RPCs, 64 at once, on one thread. valgrind counts the instructions of this function by its name.
#[inline(never)]
fn run(runtime: &tokio::runtime::Runtime, client: &Client, rpcs: usize) {
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for _ in 0..64 {
            let client = client.clone();
            tasks.spawn(async move {
                for _ in 0..rpcs / 64 {
                    client.call(Rpc::Unary).await;
                }
            });
        }
        while let Some(task) = tasks.join_next().await {
            task.expect("no RPC fails");
        }
    });
}

const COUNTED: usize = 6_400;

/// Returns the command line that makes this program [count] the RPCs of a peer.
fn counting(peer: Peer, servers: &Servers) -> Vec<String> {
    let own = std::env::current_exe().expect("a program").to_string_lossy().into_owned();
    let what = [own, "count".to_owned(), peer.name().to_owned(), COUNTED.to_string()];
    what.into_iter().chain(servers.addresses.iter().map(ToString::to_string)).collect()
}

#[expect(clippy::cast_precision_loss, reason = "a ratio")]
fn allocations(peer: Peer, servers: &Servers) -> f64 {
    let command = counting(peer, servers);
    let output = Command::new(&command[0]).args(&command[1..]).output().expect("the program runs");
    let count: u64 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number");
    count as f64 / COUNTED as f64
}

#[expect(clippy::cast_precision_loss, reason = "a ratio")]
fn instructions(peer: Peer, servers: &Servers) -> Option<f64> {
    let count = bench::instructions(&counting(peer, servers), "rpcbench::run")?;
    Some(count as f64 / COUNTED as f64)
}

/// Measurements of one turn of a peer.
#[derive(Clone, Copy, Debug)]
struct Turn {
    per_second: f64,
    /// CPU time of the process per RPC (microseconds).
    cpu: f64,
}

async fn closed_loop(client: &Client, rpc: Rpc, callers: usize) -> Turn {
    let client = client.clone();
    let call = move |_| {
        let client = client.clone();
        async move { client.call(rpc).await }
    };
    let mut marks = Vec::new();
    let (rpcs, took) = bench::closed_loop(callers, TURN, call, || marks.push(cpu_time())).await;
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    let rpcs = rpcs as f64;
    Turn { per_second: rpcs / took.as_secs_f64(), cpu: (marks[1] - marks[0]).as_secs_f64() * 1e6 / rpcs }
}

async fn open_loop(client: &Client, per_second: f64) -> Histogram<u64> {
    let client = client.clone();
    let call = move |_| {
        let client = client.clone();
        async move { client.call(Rpc::Unary).await }
    };
    bench::open_loop(per_second, Duration::from_secs(1), call).await
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).expect("a time")
}

fn compare() {
    let quick = std::env::var("HOTPICK_BENCH").is_ok_and(|what| what == "quick");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let rounds = if quick { 3 } else { 5 };
    println!("{}\n", bench::load());
    for backends in BACKENDS {
        let servers = Servers::start(backends);
        let clients = runtime.block_on(async {
            let mut clients = Vec::new();
            for peer in Peer::ALL {
                clients.push((peer, peer.connect(&servers.addresses).await));
            }
            clients
        });
        let mut highest = 0.0;
        for rpc in [Rpc::Unary, Rpc::Stream] {
            for callers in CALLERS {
                if (quick && (callers != 64 || rpc != Rpc::Unary)) || (rpc == Rpc::Stream && callers == 256) {
                    continue;
                }
                let turns = runtime.block_on(rounds_of(&clients, rounds, rpc, callers));
                if rpc == Rpc::Unary {
                    let tonic = median(turns[0].iter().map(|turn| turn.per_second));
                    highest = f64::max(highest, tonic);
                }
                show(rpc, backends, callers, &turns);
            }
        }
        if backends == 3 {
            runtime.block_on(duel(&clients, if quick { 5 } else { 61 }));
        }
        latencies(&runtime, &clients, backends, highest / 2.0, rounds);
        drop(clients);
        if backends == 3 {
            show_counts(&servers);
        }
        if quick {
            break;
        }
    }
    println!("{}", bench::load());
}

/// Compares only hotpick's round robins, in many rounds, because they differ by a few per cent.
async fn duel(clients: &[(Peer, Client)], rounds: usize) {
    let same = [Peer::Native, Peer::Called("round_robin"), Peer::Wasm("round_robin")];
    let clients: Vec<_> = clients.iter().filter(|(peer, _)| same.contains(peer)).cloned().collect();
    let turns = rounds_of(&clients, rounds, Rpc::Unary, 64).await;
    let mut table = Table::new(["round robin", "RPC/s against native", "CPU per RPC against native"]);
    for ((peer, _), own) in clients.iter().zip(&turns) {
        let against = |of: fn(&Turn) -> f64| {
            ratio(own.iter().zip(&turns[0]).map(|(own, native)| of(own) / of(native)), 3)
        };
        table.row([peer.name().to_owned(), against(|turn| turn.per_second), against(|turn| turn.cpu)]);
    }
    println!("the same channel, unary RPCs, 3 backends, 64 callers, {rounds} rounds\n\n{table}");
}

async fn rounds_of(clients: &[(Peer, Client)], rounds: usize, rpc: Rpc, callers: usize) -> Vec<Vec<Turn>> {
    let mut turns = vec![Vec::new(); clients.len()];
    for round in 0..rounds {
        for at in 0..clients.len() {
            // Rotates the order, so that no client always follows the same one.
            let at = (at + round) % clients.len();
            turns[at].push(closed_loop(&clients[at].1, rpc, callers).await);
        }
    }
    turns
}

fn show(rpc: Rpc, backends: usize, callers: usize, turns: &[Vec<Turn>]) {
    let what = match rpc {
        Rpc::Unary => "unary RPCs",
        Rpc::Stream => "streams of 10 responses",
    };
    println!("{what}, {backends} backends, {callers} callers\n");
    let mut table = Table::new([
        "channel",
        "RPC/s",
        "against tonic",
        "against native",
        "CPU per RPC",
        "against tonic",
        "against hyper",
    ]);
    let of = |peer| &turns[Peer::ALL.iter().position(|one| *one == peer).unwrap_or_default()];
    let against = |turns: &[Turn], others: &[Turn], of: fn(&Turn) -> f64| {
        // Compares turns of the same round, which share disturbances.
        ratio(turns.iter().zip(others).map(|(turn, other)| of(turn) / of(other)), 3)
    };
    for (peer, own) in Peer::ALL.iter().zip(turns) {
        table.row([
            peer.name().to_owned(),
            format!("{:.0}", median(own.iter().map(|turn| turn.per_second))),
            against(own, &turns[0], |turn| turn.per_second),
            against(own, of(Peer::Native), |turn| turn.per_second),
            format!("{:.2} us", median(own.iter().map(|turn| turn.cpu))),
            against(own, &turns[0], |turn| turn.cpu),
            against(own, of(Peer::RawHyper), |turn| turn.cpu),
        ]);
    }
    println!("{table}");
}

fn latencies(
    runtime: &tokio::runtime::Runtime,
    clients: &[(Peer, Client)],
    backends: usize,
    per_second: f64,
    rounds: usize,
) {
    let mut seen = vec![Vec::new(); clients.len()];
    for _ in 0..rounds {
        for ((_, client), seen) in clients.iter().zip(&mut seen) {
            seen.push(runtime.block_on(open_loop(client, per_second)));
        }
    }
    println!(
        "latency at {per_second:.0} unary RPCs per second, half of the maximum of tonic's channel, {backends} backends\n"
    );
    let mut table = Table::new(["channel", "median", "p99", "p99 against tonic"]);
    let each = |seen: &[Histogram<u64>], quantile| -> Vec<f64> {
        seen.iter().map(|seen| micros(seen, quantile)).collect()
    };
    let tonic = each(&seen[0], 0.99);
    for ((peer, _), seen) in clients.iter().zip(&seen) {
        let p99 = each(seen, 0.99);
        table.row([
            peer.name().to_owned(),
            format!("{:.0} us", median(each(seen, 0.5))),
            format!("{:.0} us", median(p99.clone())),
            ratio(p99.iter().zip(&tonic).map(|(own, tonic)| own / tonic), 2),
        ]);
    }
    println!("{table}");
}

fn show_counts(servers: &Servers) {
    let mut table = Table::new(["channel", "instructions", "against tonic", "against hyper", "allocations"]);
    let counts = Peer::ALL.map(|peer| (peer, instructions(peer, servers)));
    let of = |peer| counts.iter().find(|(one, _)| *one == peer).and_then(|(_, count)| *count);
    let (tonic, hyper) = (of(Peer::TonicSingle), of(Peer::RawHyper));
    for (peer, count) in counts {
        let against =
            |other: Option<f64>| count.zip(other).map_or_else(String::new, |(a, b)| format!("{:.3}", a / b));
        table.row([
            peer.name().to_owned(),
            count.map_or_else(|| "valgrind is missing".to_owned(), |count| format!("{count:.0}")),
            against(tonic),
            against(hyper),
            format!("{:.1}", allocations(peer, servers)),
        ]);
    }
    println!("a unary RPC, 3 backends, 64 callers, one thread\n\n{table}");
}
