//! Hostile clients of a sidecar: random RPCs in valid HTTP/2, and mutated HTTP/2.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hotpick::Channel;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{Report, Run, bytes, frame, mutate, one};
use crate::languages::cache;
use crate::peers::{Process, built};
use crate::raw::{self, literal};
use crate::scripted::{self, Scripted};
use crate::{Caller, STANDARD, standard};

/// The command `hotpick proxy` with a listener for each policy.
#[derive(Debug)]
pub struct Sidecar {
    process: Process,
    folder: tempfile::TempDir,
    listeners: Vec<(String, SocketAddr)>,
    admin: SocketAddr,
    _servers: Vec<Scripted>,
}

impl Sidecar {
    /// Starts a sidecar with all standard policies and the policies `more`.
    ///
    /// # Panics
    ///
    /// Panics if the sidecar does not start.
    pub async fn start(more: &[(String, Vec<u8>)]) -> Self {
        let mut servers = Vec::new();
        for _ in 0..3 {
            servers.push(
                Scripted::start(async |(request, mut respond): scripted::Exchange| {
                    let mut body = request.into_body();
                    while let Some(Ok(data)) = body.data().await {
                        let _ = body.flow_control().release_capacity(data.len());
                    }
                    scripted::answer(&mut respond, "a");
                })
                .await,
            );
        }
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("policies.d");
        std::fs::create_dir(&directory).expect("created");
        let mut names: Vec<String> = STANDARD.map(str::to_owned).to_vec();
        for name in STANDARD {
            std::fs::write(directory.join(format!("{name}.wasm")), standard(name)).expect("written");
        }
        for (name, bytes) in more {
            std::fs::write(directory.join(format!("{name}.wasm")), bytes).expect("written");
            names.push(name.clone());
        }
        let colors = ["red", "blue", "red"];
        let endpoints = servers.iter().zip(colors).map(|(server, color)| {
            format!(
                r#"{{"address":"{}","attributes":{{"color":"{color}","version":"v2"}}}}"#,
                server.address()
            )
        });
        let file = folder.path().join("endpoints.json");
        let endpoints = format!(r#"{{"endpoints":[{}]}}"#, endpoints.collect::<Vec<_>>().join(","));
        std::fs::write(&file, endpoints).expect("written");
        let mut config = format!(
            "policies = {directory:?}\ncache = {:?}\nadmin = \"127.0.0.1:0\"\n",
            cache().join("hotpick")
        );
        // Some policies also hash the method, because clients choose the number of distinct methods.
        let by_method =
            ["ring_hash", "maglev", "bounded_hash"].map(|name| (name.to_owned(), "{ hashOn = \"method\" }"));
        let canary =
            "{ stableOn = \"method\", overrideMetadata = \"x-version\", split = { \"version=v2\" = 100 } }";
        let listeners = names.iter().map(|name| (name.clone(), "{}"));
        let listeners: Vec<_> = listeners.chain(by_method).chain([("canary".to_owned(), canary)]).collect();
        for (name, policy_config) in &listeners {
            config += &format!(
                "[[listeners]]\nlisten = \"127.0.0.1:0\"\ntarget = \"file://{}\"\npolicy = \"{name}\"\n\
                 policy_config = {policy_config}\n",
                file.display()
            );
        }
        let path = folder.path().join("proxy.toml");
        std::fs::write(&path, config).expect("written");
        let mut command = built("hotpick");
        command.args(["proxy", "--config"]).arg(&path);
        command.env("RUST_LOG", "warn");
        command.stderr(std::fs::File::create(folder.path().join("log")).expect("a log"));
        let mut process = Process::start(&mut command);
        let mut address = || {
            let line = process.line();
            line.split(' ').nth(4).and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{line}"))
        };
        let listeners = listeners.into_iter().map(|(name, _)| (name, address())).collect();
        let admin = address();
        let sidecar = Self { process, folder, listeners, admin, _servers: servers };
        sidecar.settled(names.len()).await;
        sidecar
    }

    /// Waits until `count` policies are in use.
    async fn settled(&self, count: usize) {
        let settled = async {
            loop {
                let all = self.policies().await;
                let used = all.iter().filter(|policy| {
                    policy["channels"].as_array().is_some_and(|channels| !channels.is_empty())
                });
                if used.count() == count {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let settled = tokio::time::timeout(Duration::from_secs(240), settled).await;
        settled.unwrap_or_else(|_| panic!("not all policies are in use after 240 s: {}", self.log()));
    }

    async fn policies(&self) -> Vec<Value> {
        let mut stream = TcpStream::connect(self.admin).await.expect("connected");
        let request = b"GET /policies HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        let body = answer.split_once("\r\n\r\n").expect("a body").1;
        let all: Value = serde_json::from_str(body).expect("JSON");
        all["policies"].as_array().expect("a list").clone()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Lists faults, rejections, picks by the fallback, and panics.
    async fn findings(&self) -> Vec<String> {
        let mut findings = Vec::new();
        for policy in self.policies().await {
            let name = &policy["name"];
            let faults = policy["faults"].as_object().into_iter().flatten();
            for (kind, count) in faults.filter(|(_, count)| count.as_u64() != Some(0)) {
                findings.push(format!("{name}: {count} faults, {kind}: {}", policy["last_fault"]));
            }
            for field in ["quarantined", "rejected"] {
                if !policy[field].is_null() {
                    findings.push(format!("{name} {field}: {}", policy[field]));
                }
            }
            if policy["fallback_picks"] != 0 {
                findings.push(format!("{name}: {} picks by the fallback", policy["fallback_picks"]));
            }
        }
        findings.extend(self.log().lines().filter(|line| line.contains("panicked")).map(str::to_owned));
        findings
    }
}

/// Runs `hostile` against each of the sidecar's listeners, together with a normal client whose RPCs must all succeed.
async fn beside<F>(
    run: Run,
    sidecar: &Sidecar,
    hostile: impl Fn(SocketAddr, fastrand::Rng, Arc<Shared>) -> F,
) -> Report
where
    F: Future<Output = ()> + Send + 'static,
{
    let shared = Arc::new(Shared::default());
    let end = Instant::now() + run.time;
    let mut tasks = JoinSet::new();
    for ((name, address), number) in sidecar.listeners.iter().zip(0..) {
        tasks.spawn(hostile(*address, run.dice(number), Arc::clone(&shared)));
        let (name, address, shared) = (name.clone(), *address, Arc::clone(&shared));
        tasks.spawn(async move {
            let channel = Channel::builder(format!("static:///{address}")).connect_lazy().expect("a channel");
            let caller = Caller::of(&channel);
            while !shared.ended() {
                let call = tokio::time::timeout(Duration::from_secs(20), caller.call_color("red")).await;
                match call {
                    Ok(Ok(_)) => {}
                    Ok(Err(status)) => {
                        shared.add_finding(format!("{name}: an RPC of another client failed: {status}"));
                    }
                    Err(_) => shared.add_finding(format!("{name}: an RPC of another client hung for 20 s")),
                }
                shared.others.fetch_add(1, Ordering::Relaxed);
                // The machine is shared with many listeners and with the hostile clients.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    tokio::time::sleep_until((end - run.time * 2 / 3).into()).await;
    let early = sidecar.process.resident();
    tokio::time::sleep_until(end.into()).await;
    shared.over.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    }
    let late = sidecar.process.resident();
    let mut findings = std::mem::take(&mut *shared.findings.lock().expect("not poisoned"));
    findings.extend(sidecar.findings().await);
    // The allocator does not return the memory of a burst.
    if late > early + early / 2 + (48 << 10) {
        findings.push(format!("resident memory grew from {early} to {late} KiB"));
    }
    Report {
        sent: shared.sent.load(Ordering::Relaxed),
        others: shared.others.load(Ordering::Relaxed),
        findings,
        memory: Some((early, late)),
    }
}

#[derive(Debug, Default)]
struct Shared {
    over: AtomicBool,
    sent: AtomicU64,
    others: AtomicU64,
    findings: Mutex<Vec<String>>,
}

impl Shared {
    fn ended(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn add_finding(&self, finding: String) {
        self.findings.lock().expect("not poisoned").push(finding);
    }
}

/// Sends RPCs with random paths, metadata, sizes, deadlines, cancellations and resets.
pub async fn rpcs(run: Run, sidecar: &Sidecar) -> Report {
    beside(run, sidecar, |address, mut dice, shared| async move {
        while !shared.ended() {
            let Ok(mut stream) = TcpStream::connect(address).await else { continue };
            let mut sent = raw::preface();
            // Up to 199 RPCs on each connection; answers are read between them.
            let count = dice.u32(1..200);
            for number in 0..count {
                rpc(&mut dice, 2 * number + 1, &mut sent);
                if dice.u8(..4) == 0
                    && exchange(&mut stream, &mut sent, Duration::from_millis(1)).await.is_err()
                {
                    break;
                }
                shared.sent.fetch_add(1, Ordering::Relaxed);
                if shared.ended() {
                    return;
                }
            }
            let _ = exchange(&mut stream, &mut sent, Duration::from_millis(dice.u64(1..50))).await;
        }
    })
    .await
}

/// Sends mutated HTTP/2.
pub async fn frames(run: Run, sidecar: &Sidecar) -> Report {
    beside(run, sidecar, |address, mut dice, shared| async move {
        while !shared.ended() {
            let Ok(mut stream) = TcpStream::connect(address).await else { continue };
            let mut sent = raw::preface();
            for number in 0..dice.u32(1..20) {
                if dice.bool() {
                    rpc(&mut dice, 2 * number + 1, &mut sent);
                }
                if dice.bool() {
                    let (kind, length) = (dice.u8(..12), dice.usize(..40));
                    let (flags, of) = (dice.u8(..), dice.u32(..50));
                    sent.extend(frame(kind, flags, of, &bytes(&mut dice, length)));
                }
            }
            mutate(&mut dice, &mut sent);
            let _ = exchange(&mut stream, &mut sent, Duration::from_millis(dice.u64(1..30))).await;
            shared.sent.fetch_add(1, Ordering::Relaxed);
        }
    })
    .await
}

/// Sends `sent` and empties it, while reading and for `time` after it. Returns an error if the connection has ended.
async fn exchange(stream: &mut TcpStream, sent: &mut Vec<u8>, time: Duration) -> std::io::Result<()> {
    let (mut reader, mut writer) = stream.split();
    let mut read = [0; 16 << 10];
    let reading = async {
        loop {
            match reader.read(&mut read).await {
                Ok(0) => return Err::<(), _>(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
    };
    let writing = async {
        // The peer may have stopped reading.
        tokio::time::timeout(Duration::from_secs(2), writer.write_all(sent)).await??;
        tokio::time::sleep(time).await;
        Ok(())
    };
    let ended = tokio::select! {
        ended = reading => ended,
        ended = writing => ended,
    };
    sent.clear();
    ended
}

/// Metadata keys that the standard policies and the examples read, and other ones.
const KEYS: [&str; 14] = [
    "color",
    "hash-key",
    "session-id",
    "cookie",
    "x-version",
    "zone",
    "tenant",
    "user-agent",
    "authorization",
    "a-bin",
    "grpc-status",
    "content-length",
    "x-a",
    "grpc-encoding",
];

/// Appends a random RPC in valid HTTP/2 frames.
fn rpc(dice: &mut fastrand::Rng, stream: u32, out: &mut Vec<u8>) {
    let path = match dice.u8(..8) {
        0..3 => "/hotpick.echo.Echo/Unary".to_owned(),
        3..6 => format!("/made.Up/{}", dice.u32(..20_000)),
        6 => format!("/{}", text(dice, 300)),
        _ => text(dice, 30),
    };
    let mut block = if dice.u8(..20) == 0 { bytes(dice, 40) } else { raw::request(&path) };
    for _ in 0..dice.usize(..10) {
        let key = if dice.u8(..4) == 0 { text(dice, 12) } else { one(dice, &KEYS).to_owned() };
        let value = match dice.u8(..10) {
            0 => b"red".to_vec(),
            // Same XXH64 hash as "red".
            1 => br#"zpaaytlf].!d2U"L"#.to_vec(),
            2 => Vec::new(),
            3 => {
                let count = dice.usize(..60);
                bytes(dice, count)
            }
            4 if dice.u8(..10) == 0 => vec![b'v'; dice.usize(..90_000)],
            _ => text(dice, 40).into_bytes(),
        };
        let mut field = literal(key, value);
        // Without indexing, never indexed, or added to HPACK's dynamic table and possibly repeated from there.
        field[0] = [0, 0x10, 0x40][dice.usize(..3)];
        if field[0] == 0x40 && dice.bool() {
            field.push(0xbe);
        }
        block.extend(field);
    }
    if dice.u8(..3) == 0 {
        let value = format!("{}{}", dice.u32(..2000), one(dice, &["n", "u", "m", "S", "M", "H", "x", ""]));
        block.extend(literal("grpc-timeout", value));
    }
    let ends_at_once = dice.u8(..8) == 0;
    let mut parts = block.chunks(16 << 10).peekable();
    let (mut kind, mut flags) = (raw::HEADERS, if ends_at_once { raw::END_STREAM } else { 0 });
    while let Some(part) = parts.next() {
        let end = if parts.peek().is_none() { raw::END_HEADERS } else { 0 };
        out.extend(frame(kind, flags | end, stream, part));
        (kind, flags) = (9, 0);
    }
    if ends_at_once {
        return;
    }
    for _ in 0..dice.usize(..4) {
        let length = if dice.u8(..6) == 0 { dice.usize(..16_000) } else { dice.usize(..200) };
        out.extend(frame(raw::DATA, 0, stream, &bytes(dice, length)));
    }
    match dice.u8(..6) {
        0 => out.extend(frame(raw::RST_STREAM, 0, stream, &dice.u32(..15).to_be_bytes())),
        1 => {
            out.extend(frame(raw::HEADERS, raw::END_HEADERS | raw::END_STREAM, stream, &literal("x-t", "1")));
        }
        // The stream stays open until the connection ends.
        2 => {}
        _ => out.extend(frame(raw::DATA, raw::END_STREAM, stream, raw::HELLO)),
    }
}

/// Returns random text of fewer than `longest` characters, most of which are valid in paths and metadata.
fn text(dice: &mut fastrand::Rng, longest: usize) -> String {
    let count = dice.usize(..longest);
    let odd = ['#', '?', '%', ' ', '\n', '\u{e9}', '\u{1f600}', 'A', '|'];
    let character = |dice: &mut fastrand::Rng| match dice.u8(..20) {
        0 => odd[dice.usize(..odd.len())],
        _ => dice.lowercase(),
    };
    std::iter::repeat_with(|| character(dice)).take(count).collect()
}
