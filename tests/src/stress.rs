//! Storms: channels, endpoints, service configs and policies that come and go at random while RPCs of every kind run, and
//! are cancelled, on several runtimes. In the tests for some seconds, in the bench `stress` for as long as one likes; each run says
//! its seed, and `HOTPICK_SEED` repeats its dice (not the order in which threads come to use them).
//!
//! One endpoint is healthy all the time, so nothing may be lost: an RPC that waits for a connection, and is not cancelled
//! by its caller, ends with OK.

use std::fmt;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hotpick::Channel;
use hotpick::channel::ChannelBuilder;
use hotpick::picker::{Pick, PickResult};
use hotpick::resolver::{Endpoint, ManualResolver, ResolverUpdate};
use hotpick::service_config::ServiceConfig;
use hotpick::transport::SubConnOptions;
use hotpick_echo::{Backend, EchoClient, EchoRequest};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tonic::{Code, Request, Status};

use crate::hostile::Run;
use crate::wat::Wat;
use crate::{Ledger, Native, Policies, standard};

/// What a storm has seen.
#[derive(Debug, Default)]
pub struct Report {
    /// RPCs that ended with OK.
    pub served: u64,
    /// RPCs that their callers gave up.
    pub cancelled: u64,
    /// Channels that were made.
    pub channels: u64,
    /// Policy files that were put or removed.
    pub files: u64,
    /// Everything that should not be.
    pub findings: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { served, cancelled, channels, files, findings } = self;
        write!(
            f,
            "{served} RPCs served, {cancelled} given up, {channels} channels, {files} files, {} findings",
            findings.len()
        )?;
        findings.iter().take(10).try_for_each(|finding| write!(f, "\n  {finding}"))
    }
}

/// How long an RPC may take, and what has been dropped may take to be gone.
const PATIENCE: Duration = Duration::from_secs(20);
/// Channels at a time, and people who send RPCs on them.
const CHANNELS: usize = 8;
const PEOPLE: u64 = 12;

/// What all of them share.
struct Sky {
    backends: Vec<Backend>,
    /// Where nothing listens, and where something listens that says nothing.
    dead: Vec<Endpoint>,
    resolver: ManualResolver,
    policies: Policies,
    native: Native,
    channels: Mutex<Vec<Member>>,
    runtimes: Vec<Handle>,
    is_over: AtomicBool,
    served: AtomicU64,
    cancelled: AtomicU64,
    made: AtomicU64,
    files: AtomicU64,
    findings: Mutex<Vec<String>>,
}

#[derive(Clone)]
struct Member {
    channel: Channel,
    /// Its RPCs may end with CANCELLED.
    is_closed: Arc<AtomicBool>,
}

/// Runs a storm.
///
/// # Panics
///
/// There is no port, no thread or no directory.
#[must_use]
pub fn storm(run: Run) -> Report {
    let servers = runtime(2);
    // Of two kinds; those of one thread are driven by it.
    let (many, alone): (Vec<_>, Vec<_>) =
        (vec![runtime(2), runtime(1)], vec![Alone::start(), Alone::start()]);
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let sky = servers.block_on(async {
        let mut backends = Vec::new();
        for name in ["anchor", "b", "c", "d"] {
            backends.push(
                Backend::start(name, "127.0.0.1:0".parse().expect("an address")).await.expect("a port"),
            );
        }
        let at = |address: String| Endpoint::new(address.parse().expect("an address"));
        let dead =
            vec![at("127.0.0.1:1".to_owned()), at(silent.local_addr().expect("an address").to_string())];
        let runtimes =
            many.iter().map(|runtime| runtime.handle().clone()).chain(alone.iter().map(Alone::handle));
        Arc::new(Sky {
            resolver: ManualResolver::new(vec![Endpoint::new(backends[0].address().into())]),
            backends,
            dead,
            policies: Policies::with(&[("p.wasm", &standard("round_robin"))]),
            native: Native::new(|ready, info| {
                let ready = ready.ready();
                let count = ready.len().max(1);
                let at = info.metadata.len().wrapping_add(usize::from(info.requeued)) % count;
                ready
                    .iter()
                    .nth(at)
                    .map_or(PickResult::Queue, |subconn| PickResult::Pick(Pick::to(subconn.clone())))
            }),
            channels: Mutex::default(),
            runtimes: runtimes.collect(),
            is_over: AtomicBool::new(false),
            served: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            made: AtomicU64::new(0),
            files: AtomicU64::new(0),
            findings: Mutex::default(),
        })
    });
    let quiet: Vec<_> = sky.runtimes.iter().map(|runtime| runtime.metrics().num_alive_tasks()).collect();

    let mut tasks = Vec::new();
    for number in 0..PEOPLE {
        let at = usize::try_from(number).unwrap_or_default() % sky.runtimes.len();
        tasks.push(sky.runtimes[at].spawn(person(Arc::clone(&sky), run.dice(number))));
    }
    tasks.push(servers.spawn(weather(Arc::clone(&sky), run.dice(1000))));
    tasks.push(servers.spawn(operator(Arc::clone(&sky), run.dice(1001))));
    servers.block_on(async {
        tokio::time::sleep(run.time).await;
        sky.is_over.store(true, Ordering::SeqCst);
        for task in tasks {
            match timeout(PATIENCE * 2, task).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => sky.finds(format!("a task panicked: {error}")),
                Err(_) => sky.finds("a task does not end".to_owned()),
            }
        }
        sky.channels.lock().expect("no panic").clear();
        settle(&sky, &quiet).await;
    });
    drop(alone);
    many.into_iter().for_each(|runtime| runtime.shutdown_timeout(PATIENCE));
    let report = Report {
        served: sky.served.load(Ordering::SeqCst),
        cancelled: sky.cancelled.load(Ordering::SeqCst),
        channels: sky.made.load(Ordering::SeqCst),
        files: sky.files.load(Ordering::SeqCst),
        findings: std::mem::take(&mut sky.findings.lock().expect("no panic")),
    };
    servers.shutdown_timeout(PATIENCE);
    report
}

/// What was dropped is gone: the tasks of all channels, the instances of all policies; and each pick has been told its end.
async fn settle(sky: &Sky, quiet: &[usize]) {
    let tasks = || sky.runtimes.iter().map(|runtime| runtime.metrics().num_alive_tasks()).collect::<Vec<_>>();
    let uses = || sky.policies.followed.status().iter().map(|status| status.channels.len()).sum::<usize>();
    let ledger = sky.native.ledger();
    let told = |ledger: &Ledger| ledger.ends().len() == ledger.picks();
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        if tasks() == quiet && uses() == 0 && told(&ledger) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    sky.finds(format!(
        "after {PATIENCE:?}: tasks {:?} (at first {quiet:?}), {} instances, {} of {} ends told",
        tasks(),
        uses(),
        ledger.ends().len(),
        ledger.picks()
    ));
}

impl Sky {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn finds(&self, what: String) {
        self.findings.lock().expect("no panic").push(what);
    }

    fn builder(&self, dice: &mut fastrand::Rng) -> ChannelBuilder {
        let builder =
            Channel::builder("static:///storm").resolver(self.resolver.clone()).wait_for_ready(true);
        let builder =
            builder.policies(&self.policies.followed).first_policy_timeout(Duration::from_millis(200));
        // A hash waits for its endpoint (gRFC A42), and that may be the silent one when the storm ends.
        let mut options = SubConnOptions::default();
        options.connect_timeout = Duration::from_secs(2);
        let builder = builder.subconn_options(options);
        match dice.u8(..3) {
            0 => builder.native_policy(self.native.clone()),
            1 => builder.policy("p"),
            _ => builder,
        }
    }

    /// One of the channels, or a new one on one of the runtimes.
    async fn channel(&self, dice: &mut fastrand::Rng) -> Option<Member> {
        let known = self.channels.lock().expect("no panic").clone();
        if known.len() == CHANNELS && dice.u8(..) > 8 {
            return Some(known[dice.usize(..known.len())].clone());
        }
        let (on, builder) = (dice.usize(..self.runtimes.len()), self.builder(dice));
        let connect = self.runtimes[on].spawn(async move { builder.connect_lazy() });
        let channel = connect.await.ok()?.ok()?;
        self.made.fetch_add(1, Ordering::Relaxed);
        let member = Member { channel, is_closed: Arc::default() };
        let mut channels = self.channels.lock().expect("no panic");
        if channels.len() == CHANNELS {
            let old = channels.swap_remove(dice.usize(..CHANNELS));
            match dice.u8(..3) {
                0 => {
                    old.is_closed.store(true, Ordering::SeqCst);
                    old.channel.close();
                }
                1 => {
                    old.is_closed.store(true, Ordering::SeqCst);
                    tokio::spawn(async move { old.channel.shutdown().await });
                }
                _ => {}
            }
        }
        channels.push(member.clone());
        Some(member)
    }
}

/// Sends RPCs of all kinds, one after the other, and gives some of them up.
async fn person(sky: Arc<Sky>, mut dice: fastrand::Rng) {
    while !sky.is_over() {
        let Some(Member { channel, is_closed }) = sky.channel(&mut dice).await else {
            sky.finds("a channel cannot be made".to_owned());
            return;
        };
        match dice.u8(..40) {
            0 => channel.enter_idle(),
            1 => channel.connect(),
            _ => {}
        }
        let kind = dice.u8(..4);
        let rpc = rpc(EchoClient::new(channel.clone()), kind, dice.usize(1..4));
        let given_up = dice.u8(..4) == 0;
        let patience = if given_up { Duration::from_micros(dice.u64(..3000)) } else { PATIENCE };
        match timeout(patience, rpc).await {
            Ok(Ok(())) => drop(sky.served.fetch_add(1, Ordering::Relaxed)),
            Ok(Err(status)) if is_closed.load(Ordering::SeqCst) && status.code() == Code::Cancelled => {}
            Ok(Err(status)) => sky.finds(format!("an RPC of kind {kind} failed: {status}")),
            Err(_) if given_up => drop(sky.cancelled.fetch_add(1, Ordering::Relaxed)),
            Err(_) => {
                let status = channel.status();
                let (ready, policy) = (status.ready.ready().len(), &status.policy);
                let how = format!("{} by {policy}, {ready} ready, {:?}", status.state, status.subconns);
                sky.finds(format!("an RPC of kind {kind} hung for {PATIENCE:?}: {how}, {:?}", status.faults));
            }
        }
    }
}

async fn rpc(mut client: EchoClient<Channel>, kind: u8, messages: usize) -> Result<(), Status> {
    let requests = || tokio_stream::iter(vec![EchoRequest::new("hello"); messages]);
    let all = async |mut answers: tonic::Streaming<hotpick_echo::EchoResponse>| {
        while let Some(answer) = answers.next().await {
            answer?;
        }
        Ok(())
    };
    match kind {
        0 => client.unary(Request::new(EchoRequest::new("hello"))).await.map(|_| ()),
        1 => {
            let request = EchoRequest { text: "hello".to_owned(), count: 3 };
            all(client.server_stream(request).await?.into_inner()).await
        }
        2 => client.client_stream(requests()).await.map(|_| ()),
        _ => all(client.bidi(requests()).await?.into_inner()).await,
    }
}

/// Endpoints come and go, and with them service configs; servers drain their connections.
async fn weather(sky: Arc<Sky>, mut dice: fastrand::Rng) {
    while !sky.is_over() {
        let mut endpoints = vec![Endpoint::new(sky.backends[0].address().into())];
        for backend in &sky.backends[1..] {
            if dice.bool() {
                let weight = dice.u32(1..4);
                endpoints.push(
                    Endpoint::new(backend.address().into())
                        .with_weight(weight)
                        .with_attribute("color", "red"),
                );
            }
        }
        endpoints.extend(sky.dead.iter().filter(|_| dice.u8(..4) == 0).cloned());
        dice.shuffle(&mut endpoints);
        let mut update = ResolverUpdate::endpoints(endpoints);
        let config = match dice.u8(..6) {
            0 => Some(r#"{"loadBalancingConfig": [{"p": {}}]}"#),
            1 => Some(r#"{"loadBalancingConfig": [{"round_robin": {}}]}"#),
            2 => Some(r#"{"loadBalancingConfig": [{"nothing": {}}]}"#),
            3 => Some("{}"),
            _ => None,
        };
        if let Some(config) = config {
            let config = serde_json::from_str(config).expect("JSON");
            update = update.with_service_config(ServiceConfig::from_json(config));
        }
        match dice.u8(..20) {
            0 => sky.resolver.update(ResolverUpdate::error("a storm")),
            _ => sky.resolver.update(update),
        }
        if dice.u8(..10) == 0 {
            sky.backends[dice.usize(..sky.backends.len())].drain();
        }
        tokio::time::sleep(Duration::from_millis(dice.u64(1..40))).await;
    }
    // The last word must not be an error: a channel that is made then would wait for another.
    sky.resolver.update(ResolverUpdate::endpoints([Endpoint::new(sky.backends[0].address().into())]));
}

/// Puts files into the directory, good and bad, and takes them away.
async fn operator(sky: Arc<Sky>, mut dice: fastrand::Rng) {
    let names =
        ["round_robin", "random", "least_request", "p2c_ewma", "maglev", "weighted_round_robin", "ring_hash"];
    let mut files: Vec<Vec<u8>> = names.iter().map(|name| standard(name)).collect();
    files.push(Wat::first());
    files.push(Wat::every(50, "unreachable"));
    files.push(Wat::every(400, "(loop (br 0))"));
    files.push(Wat { init: "(loop (br 0)) (i32.const 0)", ..Wat::default() }.component());
    files.push(b"no Wasm".to_vec());
    files.push(standard("random")[..20_000].to_vec());
    while !sky.is_over() {
        let directory = sky.policies.path();
        let done = match dice.u8(..12) {
            0 => std::fs::remove_file(directory.join("p.wasm")),
            1 => std::fs::write(directory.join("p.toml"), "enabled = false\n"),
            2 => std::fs::write(directory.join("p.toml"), "[limits]\npick-ms = 1\n"),
            3 => std::fs::write(directory.join("p.toml"), "plans = false\n"),
            4 => std::fs::remove_file(directory.join("p.toml")),
            _ => std::fs::write(directory.join("p.wasm"), &files[dice.usize(..files.len())]),
        };
        sky.files.fetch_add(u64::from(done.is_ok()), Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(dice.u64(10..250))).await;
    }
}

fn runtime(threads: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(threads).enable_all().build().expect("a runtime")
}

/// A runtime of one thread, which drives it.
struct Alone {
    handle: Handle,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Alone {
    fn start() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let handle = runtime.handle().clone();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let drive = move || drop(runtime.block_on(stopped));
        Self { handle, stop: Some(stop), thread: Some(std::thread::spawn(drive)) }
    }

    fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}
