//! Compares how RPCs of hotpick, tonic's `balance_list` and grpcio's round robin fare when servers misbehave.
//!
//! `cargo bench -p hotpick-tests --bench robustness` prints the medians of three rounds as a table in Markdown. grpcio
//! is left out if `HOTPICK_NO_PEERS` is set.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hotpick_echo::{Backend, EchoClient, EchoRequest};
use hotpick_tests::peers;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::{Channel as TonicChannel, Endpoint};

const ROUNDS: usize = 3;
/// The deadline of every RPC.
const PATIENCE: Duration = Duration::from_secs(5);

/// Results of all callers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    failed: usize,
    total: usize,
    slowest_ms: u128,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Hotpick,
    Tonic,
    Grpcio,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Hotpick, Self::Tonic, Self::Grpcio];

    fn name(self) -> &'static str {
        match self {
            Self::Hotpick => "hotpick",
            Self::Tonic => "tonic balance_list",
            Self::Grpcio => "grpcio round_robin",
        }
    }

    /// Starts callers that send `count` RPCs in total; `None`: until they are stopped.
    async fn call(self, addresses: &[SocketAddr], callers: usize, count: Option<usize>) -> Load {
        match self {
            Self::Hotpick => {
                let list = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
                let channel =
                    hotpick::Channel::builder(format!("ipv4:{list}")).connect_lazy().expect("a channel");
                channel
                    .wait_for(|status| status.state != hotpick::connectivity::ConnectivityState::Connecting)
                    .await;
                Load::start(EchoClient::new(channel), callers, count)
            }
            Self::Tonic => {
                let endpoint = |address| Endpoint::from_shared(format!("http://{address}")).expect("a URI");
                let channel = TonicChannel::balance_list(addresses.iter().map(endpoint));
                let client = EchoClient::new(channel);
                // The channel connects at the first RPC, which may fail.
                let _ = timeout(PATIENCE, client.clone().call()).await;
                Load::start(client, callers, count)
            }
            Self::Grpcio => Load::python(addresses, callers, count).await,
        }
    }
}

/// Running callers, in this process or in Python.
enum Load {
    Here { tasks: JoinSet<Seen>, stop: Arc<AtomicBool> },
    Python { process: Child, stdin: ChildStdin, counted: bool },
}

impl Load {
    fn start<T>(client: EchoClient<T>, callers: usize, count: Option<usize>) -> Self
    where
        EchoClient<T>: Caller,
    {
        let stop = Arc::new(AtomicBool::new(false));
        let left = Arc::new(AtomicUsize::new(count.unwrap_or(usize::MAX)));
        let mut tasks = JoinSet::new();
        for _ in 0..callers {
            let (mut client, stop, left) = (client.clone(), Arc::clone(&stop), Arc::clone(&left));
            tasks.spawn(async move {
                let mut seen = Seen::default();
                let take = |n: usize| n.checked_sub(1);
                while !stop.load(Ordering::Relaxed)
                    && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
                {
                    let begin = Instant::now();
                    seen.total += 1;
                    let answered = timeout(PATIENCE, client.call()).await;
                    seen.failed += usize::from(answered != Ok(true));
                    seen.slowest_ms = seen.slowest_ms.max(begin.elapsed().as_millis());
                }
                seen
            });
        }
        Self::Here { tasks, stop }
    }

    async fn python(addresses: &[SocketAddr], callers: usize, count: Option<usize>) -> Self {
        let list = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let mut command: Command = peers::python_command("load.py");
        command.arg(list).arg(callers.to_string()).args(count.map(|count| count.to_string()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        tokio::task::spawn_blocking(move || {
            let mut process = command.spawn().expect("python3 runs");
            let stdin = process.stdin.take().expect("piped");
            // The script prints `ready` first.
            let mut line = [0; 6];
            std::io::Read::read_exact(process.stdout.as_mut().expect("piped"), &mut line).expect("ready");
            Self::Python { process, stdin, counted: count.is_some() }
        })
        .await
        .expect("no panic")
    }

    /// Stops callers without a count, then waits for the last RPC.
    async fn end(self) -> Seen {
        match self {
            Self::Here { mut tasks, stop } => {
                stop.store(true, Ordering::Relaxed);
                Self::join(&mut tasks).await
            }
            Self::Python { process, mut stdin, .. } => {
                let _ = stdin.flush();
                drop(stdin);
                Self::read(process).await
            }
        }
    }

    /// Waits until as many RPCs as were requested are done.
    async fn finish(self) -> Seen {
        match self {
            Self::Here { mut tasks, .. } => Self::join(&mut tasks).await,
            Self::Python { process, stdin, counted } => {
                assert!(counted, "only callers with a count finish");
                let seen = Self::read(process).await;
                drop(stdin);
                seen
            }
        }
    }

    async fn join(tasks: &mut JoinSet<Seen>) -> Seen {
        let mut all = Seen::default();
        while let Some(seen) = tasks.join_next().await {
            let seen = seen.expect("no panic");
            all.failed += seen.failed;
            all.total += seen.total;
            all.slowest_ms = all.slowest_ms.max(seen.slowest_ms);
        }
        all
    }

    async fn read(process: Child) -> Seen {
        let output = tokio::task::spawn_blocking(move || process.wait_with_output());
        let output = output.await.expect("no panic").expect("the script exits");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let numbers: Vec<usize> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [total, failed, slowest] = numbers[..] else { panic!("{text}") };
        Seen { failed, total, slowest_ms: slowest as u128 }
    }
}

/// Sends one RPC and returns whether it succeeded. Avoids repeating the bounds of the generated client.
trait Caller: Clone + Send + 'static {
    fn call(&mut self) -> impl Future<Output = bool> + Send;
}

impl Caller for EchoClient<hotpick::Channel> {
    async fn call(&mut self) -> bool {
        self.unary(EchoRequest::new("hello")).await.is_ok()
    }
}

impl Caller for EchoClient<TonicChannel> {
    async fn call(&mut self) -> bool {
        self.unary(EchoRequest::new("hello")).await.is_ok()
    }
}

async fn backends(count: usize) -> Vec<Backend> {
    let mut backends = Vec::new();
    for n in 0..count {
        let address = "127.0.0.1:0".parse().expect("an address");
        backends.push(Backend::start(&format!("b{n}"), address).await.expect("a free port"));
    }
    backends
}

fn addresses(backends: &[Backend]) -> Vec<SocketAddr> {
    backends.iter().map(Backend::address).collect()
}

/// One of three endpoints refuses connections.
async fn one_third_dead(kind: Kind) -> Seen {
    let backends = backends(2).await;
    let mut addresses = addresses(&backends);
    addresses.push("127.0.0.1:1".parse().expect("an address"));
    kind.call(&addresses, 16, Some(10_000)).await.finish().await
}

/// Each of four servers in turn drains, stops, and starts again.
async fn rolling_restart(kind: Kind) -> Seen {
    let mut backends = backends(4).await;
    let load = kind.call(&addresses(&backends), 32, None).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    for backend in &mut backends {
        let (name, address) = (backend.name().to_owned(), backend.address());
        backend.leave();
        backend.left().await;
        *backend = Backend::start(&name, address).await.expect("its port is free");
        // Clients reconnect after their backoff.
        tokio::time::sleep(Duration::from_millis(2500)).await;
    }
    load.end().await
}

/// Three servers close their connections gracefully, twenty times in all, as with a maximum connection age.
async fn goaways(kind: Kind) -> Seen {
    let backends = backends(3).await;
    let load = kind.call(&addresses(&backends), 16, None).await;
    for round in 0..20 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        backends[round % 3].drain();
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    load.end().await
}

/// One of three endpoints accepts connections but never responds.
async fn black_hole(kind: Kind) -> Seen {
    let backends = backends(2).await;
    let hole = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let mut addresses = vec![hole.local_addr().expect("an address")];
    addresses.extend(self::addresses(&backends));
    let mut held = JoinSet::new();
    held.spawn(async move {
        let mut connections = Vec::new();
        while let Ok(accepted) = hole.accept().await {
            connections.push(accepted);
        }
    });
    let load = kind.call(&addresses, 16, None).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    load.end().await
}

/// Counts the dials in ten seconds to a peer that closes each connection at once.
async fn flapping(kind: Kind) -> usize {
    let peer = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = peer.local_addr().expect("an address");
    let dials = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&dials);
    let mut closing = JoinSet::new();
    closing.spawn(async move {
        while peer.accept().await.is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let load = kind.call(&[address], 1, None).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let seen = dials.load(Ordering::Relaxed);
    load.end().await;
    seen
}

fn median<T: Ord + Copy>(mut values: Vec<T>) -> T {
    values.sort_unstable();
    values[values.len() / 2]
}

#[tokio::main]
async fn main() {
    let kinds = &Kind::ALL[..if peers::available() { 3 } else { 2 }];
    let names: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
    println!("| scenario | {} |", names.join(" | "));
    println!("|---|{}", "---|".repeat(kinds.len()));
    let failed = |seen: Seen| format!("{} of {} failed", seen.failed, seen.total);
    let waits =
        |seen: Seen| format!("slowest RPC {} ms, {} of {} failed", seen.slowest_ms, seen.failed, seen.total);
    row("one of three endpoints refuses", kinds, one_third_dead, failed).await;
    row("rolling restart of four servers, 32 callers", kinds, rolling_restart, failed).await;
    row("20 GOAWAYs under load", kinds, goaways, failed).await;
    row("one of three endpoints is a black hole", kinds, black_hole, waits).await;
    row("a peer that closes at once", kinds, flapping, |dials| format!("{dials} dials in 10 s")).await;
}

async fn row<T: Ord + Copy>(
    name: &str,
    kinds: &[Kind],
    scenario: impl AsyncFn(Kind) -> T,
    shown: impl Fn(T) -> String,
) {
    let mut cells = vec![Vec::new(); kinds.len()];
    for _ in 0..ROUNDS {
        for (kind, cell) in kinds.iter().zip(&mut cells) {
            cell.push(scenario(*kind).await);
        }
    }
    let shown: Vec<_> = cells.into_iter().map(|cell| shown(median(cell))).collect();
    println!("| {name} | {} |", shown.join(" | "));
}
