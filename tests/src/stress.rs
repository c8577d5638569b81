//! Stress runs ("storms"): channels, endpoints, service configs and policies come and go at random, while RPCs of
//! every kind run and are cancelled on several runtimes. The tests run a storm for some seconds, the bench `stress`
//! for any time. Each run prints its seed; `HOTPICK_SEED` reproduces its random numbers, but not the scheduling of its
//! threads.
//!
//! One endpoint is always healthy. Therefore every wait-for-ready RPC that its caller does not cancel must end with OK.

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

/// Result of a storm.
#[derive(Debug, Default)]
pub struct Report {
    /// RPCs that ended with OK.
    pub served: u64,
    /// RPCs that their callers cancelled.
    pub cancelled: u64,
    /// Channels that were created.
    pub channels: u64,
    /// Policy and settings files that were written or removed.
    pub files: u64,
    /// Descriptions of all violations.
    pub findings: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { served, cancelled, channels, files, findings } = self;
        write!(
            f,
            "{served} RPCs served, {cancelled} cancelled, {channels} channels, {files} files, {} findings",
            findings.len()
        )?;
        findings.iter().take(10).try_for_each(|finding| write!(f, "\n  {finding}"))
    }
}

/// Maximum time of an RPC, and of the cleanup after drops.
const PATIENCE: Duration = Duration::from_secs(20);
/// Number of channels that exist at the same time.
const CHANNELS: usize = 8;
/// Number of concurrent callers.
const CALLERS: u64 = 12;

/// State that all tasks of a storm share.
struct Storm {
    backends: Vec<Backend>,
    /// An address that nothing listens on, and one whose listener never answers.
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
    /// The channel has been closed, so its RPCs may end with CANCELLED.
    is_closed: Arc<AtomicBool>,
}

/// Runs a storm.
///
/// # Panics
///
/// Panics if a port, thread or directory cannot be created.
#[must_use]
pub fn storm(run: Run) -> Report {
    let servers = runtime(2);
    // Multi-threaded runtimes, and current-thread runtimes, each driven by a thread.
    let (multi_thread, current_thread): (Vec<_>, Vec<_>) =
        (vec![runtime(2), runtime(1)], vec![CurrentThread::start(), CurrentThread::start()]);
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let storm = servers.block_on(async {
        let mut backends = Vec::new();
        for name in ["anchor", "b", "c", "d"] {
            backends.push(
                Backend::start(name, "127.0.0.1:0".parse().expect("an address")).await.expect("a port"),
            );
        }
        let at = |address: String| Endpoint::new(address.parse().expect("an address"));
        let dead =
            vec![at("127.0.0.1:1".to_owned()), at(silent.local_addr().expect("an address").to_string())];
        let runtimes = multi_thread
            .iter()
            .map(|runtime| runtime.handle().clone())
            .chain(current_thread.iter().map(CurrentThread::handle));
        Arc::new(Storm {
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
    let idle: Vec<_> = storm.runtimes.iter().map(|runtime| runtime.metrics().num_alive_tasks()).collect();

    let mut tasks = Vec::new();
    for number in 0..CALLERS {
        let at = usize::try_from(number).unwrap_or_default() % storm.runtimes.len();
        tasks.push(storm.runtimes[at].spawn(call_repeatedly(Arc::clone(&storm), run.dice(number))));
    }
    tasks.push(servers.spawn(update_endpoints(Arc::clone(&storm), run.dice(1000))));
    tasks.push(servers.spawn(update_files(Arc::clone(&storm), run.dice(1001))));
    servers.block_on(async {
        tokio::time::sleep(run.time).await;
        storm.is_over.store(true, Ordering::SeqCst);
        for task in tasks {
            match timeout(PATIENCE * 2, task).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => storm.add_finding(format!("a task panicked: {error}")),
                Err(_) => storm.add_finding("a task does not end after the storm".to_owned()),
            }
        }
        storm.channels.lock().expect("not poisoned").clear();
        settle(&storm, &idle).await;
    });
    drop(current_thread);
    multi_thread.into_iter().for_each(|runtime| runtime.shutdown_timeout(PATIENCE));
    let report = Report {
        served: storm.served.load(Ordering::SeqCst),
        cancelled: storm.cancelled.load(Ordering::SeqCst),
        channels: storm.made.load(Ordering::SeqCst),
        files: storm.files.load(Ordering::SeqCst),
        findings: std::mem::take(&mut storm.findings.lock().expect("not poisoned")),
    };
    servers.shutdown_timeout(PATIENCE);
    report
}

/// Waits until the tasks of all channels and the instances of all policies have ended, and the native policy has been
/// notified of the outcome of each pick.
async fn settle(storm: &Storm, idle: &[usize]) {
    let tasks =
        || storm.runtimes.iter().map(|runtime| runtime.metrics().num_alive_tasks()).collect::<Vec<_>>();
    let uses = || storm.policies.followed.status().iter().map(|status| status.channels.len()).sum::<usize>();
    let ledger = storm.native.ledger();
    let all_reported = |ledger: &Ledger| ledger.ends().len() == ledger.picks();
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if tasks() == idle && uses() == 0 && all_reported(&ledger) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    storm.add_finding(format!(
        "after {PATIENCE:?}: tasks {:?} (before the storm: {idle:?}), {} instances, {} of {} outcomes reported",
        tasks(),
        uses(),
        ledger.ends().len(),
        ledger.picks()
    ));
}

impl Storm {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn add_finding(&self, finding: String) {
        self.findings.lock().expect("not poisoned").push(finding);
    }

    fn builder(&self, dice: &mut fastrand::Rng) -> ChannelBuilder {
        let builder =
            Channel::builder("static:///storm").resolver(self.resolver.clone()).wait_for_ready(true);
        let builder =
            builder.policies(&self.policies.followed).first_policy_timeout(Duration::from_millis(200));
        // Hash policies wait for their endpoint (gRFC A42), which may be the silent one when the storm ends.
        let mut options = SubConnOptions::default();
        options.connect_timeout = Duration::from_secs(2);
        let builder = builder.subconn_options(options);
        match dice.u8(..3) {
            0 => builder.native_policy(self.native.clone()),
            1 => builder.policy("p"),
            _ => builder,
        }
    }

    /// Returns an existing channel, or creates one on a random runtime in place of another.
    async fn channel(&self, dice: &mut fastrand::Rng) -> Option<Member> {
        let known = self.channels.lock().expect("not poisoned").clone();
        if known.len() == CHANNELS && dice.u8(..) > 8 {
            return Some(known[dice.usize(..known.len())].clone());
        }
        let (on, builder) = (dice.usize(..self.runtimes.len()), self.builder(dice));
        let connect = self.runtimes[on].spawn(async move { builder.connect_lazy() });
        let channel = connect.await.ok()?.ok()?;
        self.made.fetch_add(1, Ordering::Relaxed);
        let member = Member { channel, is_closed: Arc::default() };
        let mut channels = self.channels.lock().expect("not poisoned");
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

/// Sends RPCs of all kinds sequentially, and cancels some of them.
async fn call_repeatedly(storm: Arc<Storm>, mut dice: fastrand::Rng) {
    while !storm.is_over() {
        let Some(Member { channel, is_closed }) = storm.channel(&mut dice).await else {
            storm.add_finding("a channel cannot be created".to_owned());
            return;
        };
        match dice.u8(..40) {
            0 => channel.enter_idle(),
            1 => channel.connect(),
            _ => {}
        }
        let kind = dice.u8(..4);
        let rpc = rpc(EchoClient::new(channel.clone()), kind, dice.usize(1..4));
        let cancels = dice.u8(..4) == 0;
        let patience = if cancels { Duration::from_micros(dice.u64(..3000)) } else { PATIENCE };
        match timeout(patience, rpc).await {
            Ok(Ok(())) => drop(storm.served.fetch_add(1, Ordering::Relaxed)),
            Ok(Err(status)) if is_closed.load(Ordering::SeqCst) && status.code() == Code::Cancelled => {}
            Ok(Err(status)) => storm.add_finding(format!("an RPC of kind {kind} failed: {status}")),
            Err(_) if cancels => drop(storm.cancelled.fetch_add(1, Ordering::Relaxed)),
            Err(_) => {
                let status = channel.status();
                let (ready, policy) = (status.ready.ready().len(), &status.policy);
                let details = format!("{} by {policy}, {ready} ready, {:?}", status.state, status.subconns);
                storm.add_finding(format!(
                    "an RPC of kind {kind} hung for {PATIENCE:?}: {details}, {:?}",
                    status.faults
                ));
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

/// Changes the endpoints and the service config at random, and makes servers drain their connections.
async fn update_endpoints(storm: Arc<Storm>, mut dice: fastrand::Rng) {
    while !storm.is_over() {
        let mut endpoints = vec![Endpoint::new(storm.backends[0].address().into())];
        for backend in &storm.backends[1..] {
            if dice.bool() {
                let weight = dice.u32(1..4);
                endpoints.push(
                    Endpoint::new(backend.address().into())
                        .with_weight(weight)
                        .with_attribute("color", "red"),
                );
            }
        }
        endpoints.extend(storm.dead.iter().filter(|_| dice.u8(..4) == 0).cloned());
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
            0 => storm.resolver.update(ResolverUpdate::error("a storm")),
            _ => storm.resolver.update(update),
        }
        if dice.u8(..10) == 0 {
            storm.backends[dice.usize(..storm.backends.len())].drain();
        }
        tokio::time::sleep(Duration::from_millis(dice.u64(1..40))).await;
    }
    // The last update must not be an error, because a channel created then would wait for another update.
    storm.resolver.update(ResolverUpdate::endpoints([Endpoint::new(storm.backends[0].address().into())]));
}

/// Writes and removes valid and invalid files in the policy directory.
async fn update_files(storm: Arc<Storm>, mut dice: fastrand::Rng) {
    let names =
        ["round_robin", "random", "least_request", "p2c_ewma", "maglev", "weighted_round_robin", "ring_hash"];
    let mut files: Vec<Vec<u8>> = names.iter().map(|name| standard(name)).collect();
    files.push(Wat::first());
    files.push(Wat::every(50, "unreachable"));
    files.push(Wat::every(400, "(loop (br 0))"));
    files.push(Wat { init: "(loop (br 0)) (i32.const 0)", ..Wat::default() }.component());
    files.push(b"not Wasm".to_vec());
    files.push(standard("random")[..20_000].to_vec());
    while !storm.is_over() {
        let directory = storm.policies.path();
        let done = match dice.u8(..12) {
            0 => std::fs::remove_file(directory.join("p.wasm")),
            1 => std::fs::write(directory.join("p.toml"), "enabled = false\n"),
            2 => std::fs::write(directory.join("p.toml"), "[limits]\npick-ms = 1\n"),
            3 => std::fs::write(directory.join("p.toml"), "plans = false\n"),
            4 => std::fs::remove_file(directory.join("p.toml")),
            _ => std::fs::write(directory.join("p.wasm"), &files[dice.usize(..files.len())]),
        };
        storm.files.fetch_add(u64::from(done.is_ok()), Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(dice.u64(10..250))).await;
    }
}

fn runtime(threads: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(threads).enable_all().build().expect("a runtime")
}

/// A current-thread runtime, and the thread that drives it.
struct CurrentThread {
    handle: Handle,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl CurrentThread {
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

impl Drop for CurrentThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}
