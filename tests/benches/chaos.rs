//! Counts the unary RPCs that fail while four grpcio servers are killed, terminated and frozen at random, with a retry
//! policy: of hotpick and of grpcio at the same time, with the same policy and the same servers. Beside them hotpick without
//! a policy, and streams of hotpick: what servers had begun to answer cannot be retried.
//!
//! `cargo bench --workspace --bench chaos` takes a minute, or as many seconds as its argument says, and prints a table
//! in Markdown. Needs the programs of `.ci/peers`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hotpick::Channel;
use hotpick::service_config::ServiceConfig;
use hotpick_echo::{EchoClient, EchoRequest, EchoResponse};
use hotpick_tests::peers::{self, Process};
use hotpick_tests::table::Table;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Code, Request, Response, Status};

const SERVERS: usize = 4;
const CALLERS: usize = 8;
/// Deadline of an RPC: longer than a server is frozen.
const DEADLINE: Duration = Duration::from_secs(5);

/// One server, which is started again on its port when it was ended.
struct Server {
    port: u16,
    process: Process,
    frozen_until: Option<Instant>,
}

impl Server {
    fn start(port: u16) -> Self {
        let mut process = peers::python("server.py", &["chaos", &port.to_string()]);
        process.line();
        Self { port, process, frozen_until: None }
    }
}

/// What was done to servers.
#[derive(Debug, Default)]
struct Done {
    killed: u32,
    terminated: u32,
    frozen: u32,
}

fn main() {
    if !peers::available() {
        return;
    }
    let seconds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(60);
    let retry = json!({
        "maxAttempts": 5, "initialBackoff": "0.05s", "maxBackoff": "0.5s", "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"]
    });
    let config = json!({"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": [{"name": [{}], "retryPolicy": retry}]});
    let mut servers: Vec<_> = (0..SERVERS).map(|_| Server::start(peers::free_port())).collect();
    let addresses: Vec<SocketAddr> =
        servers.iter().map(|server| ([127, 0, 0, 1], server.port).into()).collect();
    let list = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");

    let mut command = peers::python_command("retrying.py");
    let deadline = DEADLINE.as_secs().to_string();
    command.args([&format!("ipv4:{list}"), &config.to_string(), &CALLERS.to_string(), &deadline]);
    let (mut grpcio, input) = Process::start_with_input(&mut command);
    assert_eq!(grpcio.line(), "ready");

    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let stop = Arc::<AtomicBool>::default();
    let target = format!("static:///{list}");
    let kinds = [
        ("hotpick", "unary", Some(config.clone())),
        ("hotpick, without a policy", "unary", None),
        ("hotpick", "10 messages from the server", Some(config)),
    ];
    let loads = kinds.map(|(client, kind, config)| {
        let total = Arc::<AtomicU64>::default();
        let is_unary = kind == "unary";
        let load = load(target.clone(), config, is_unary, Arc::clone(&stop), Arc::clone(&total));
        (client, kind, total, runtime.spawn(load))
    });
    let done = torment(&mut servers, Duration::from_secs(seconds));
    stop.store(true, Ordering::Relaxed);
    drop(input);
    let theirs: Value = serde_json::from_str(&grpcio.line()).expect("JSON");

    println!("{done:?} in {seconds} s\n");
    let mut table = Table::new(["client", "RPC", "sent", "failed", "by code"]);
    let row = |total: u64, failed: &BTreeMap<String, u64>| {
        [total.to_string(), failed.values().sum::<u64>().to_string(), format!("{failed:?}")]
    };
    for (client, kind, total, load) in loads {
        let failed = runtime.block_on(load).expect("no panic");
        let [a, b, c] = row(total.load(Ordering::Relaxed), &failed);
        table.row([client.to_owned(), kind.to_owned(), a, b, c]);
    }
    let failed = theirs["failed"].as_object().expect("an object");
    let failed =
        failed.iter().map(|(code, count)| (code.clone(), count.as_u64().unwrap_or_default())).collect();
    let [a, b, c] = row(theirs["total"].as_u64().expect("a number"), &failed);
    table.row(["grpcio".to_owned(), "unary".to_owned(), a, b, c]);
    println!("{table}");
}

/// Sends RPCs until stopped. Returns how many failed, by code.
async fn load(
    target: String,
    config: Option<Value>,
    is_unary: bool,
    stop: Arc<AtomicBool>,
    total: Arc<AtomicU64>,
) -> BTreeMap<String, u64> {
    let mut builder = Channel::builder(target);
    if let Some(config) = config {
        builder = builder.service_config(ServiceConfig::from_json(config).expect("a config"));
    }
    let channel = builder.connect_lazy().expect("a channel");
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (mut client, stop, total) =
            (EchoClient::new(channel.clone()), Arc::clone(&stop), Arc::clone(&total));
        callers.spawn(async move {
            let mut failed = Vec::<Code>::new();
            while !stop.load(Ordering::Relaxed) {
                let mut request = Request::new(EchoRequest::new("hello"));
                request.set_timeout(DEADLINE);
                let sent = if is_unary {
                    client.unary(request).await.map(drop)
                } else {
                    request.get_mut().count = 10;
                    read(client.server_stream(request)).await
                };
                failed.extend(sent.err().map(|status| status.code()));
                total.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            failed
        });
    }
    let mut failed = BTreeMap::new();
    while let Some(codes) = callers.join_next().await {
        for code in codes.expect("no panic") {
            *failed.entry(format!("{code:?}")).or_default() += 1;
        }
    }
    failed
}

/// Reads all messages of a response.
async fn read<S>(response: impl Future<Output = Result<Response<S>, Status>>) -> Result<(), Status>
where
    S: Stream<Item = Result<EchoResponse, Status>> + Unpin,
{
    let mut messages = response.await?.into_inner();
    while messages.next().await.transpose()?.is_some() {}
    Ok(())
}

/// Kills, terminates and freezes servers at random. At least one serves at any time.
fn torment(servers: &mut [Server], time: Duration) -> Done {
    let (mut done, end) = (Done::default(), Instant::now() + time);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(fastrand::u64(200..800)));
        let now = Instant::now();
        for server in servers.iter_mut() {
            if server.frozen_until.is_some_and(|until| until <= now) {
                server.process.signal("CONT");
                server.frozen_until = None;
            }
        }
        let frozen = servers.iter().filter(|server| server.frozen_until.is_some()).count();
        let at = fastrand::usize(..servers.len());
        let server = &mut servers[at];
        if server.frozen_until.is_some() {
            continue;
        }
        match fastrand::u8(..3) {
            0 => {
                server.process.kill();
                *server = Server::start(server.port);
                done.killed += 1;
            }
            1 => {
                server.process.terminate();
                let _ = server.process.end();
                *server = Server::start(server.port);
                done.terminated += 1;
            }
            _ if frozen + 2 > SERVERS => {}
            _ => {
                server.process.signal("STOP");
                server.frozen_until = Some(now + Duration::from_millis(fastrand::u64(200..2000)));
                done.frozen += 1;
            }
        }
    }
    for server in servers {
        if server.frozen_until.is_some() {
            server.process.signal("CONT");
        }
    }
    // What is in flight ends.
    std::io::stdout().flush().expect("a terminal");
    done
}
