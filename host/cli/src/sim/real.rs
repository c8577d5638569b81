//! A scenario with real servers, real connections and a real channel, in real time: what a simulation is checked against.
//!
//! The servers are in this process. Their queues are those of the simulation; what is real is the host, its timers, the
//! network of this machine and HTTP/2 on both sides.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use hotpick::Channel;
use hotpick::channel::ChannelStatus;
use hotpick::policy::{Policy, WasmPolicy};
use hotpick::resolver::{Endpoint, ManualResolver};
use hotpick_echo::{Echo, EchoClient, EchoRequest, EchoResponse, EchoServer};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::callers::Callers;
use super::measured::Measured;
use super::scenario::{Action, Arrivals, Event, Scenario};
use super::servers::{Nanos, Server, nanos, work};

/// Runs a scenario with real servers. `policy`: the native round robin, if there is none.
pub(super) async fn run(
    policy: Option<&WasmPolicy>,
    config: &str,
    scenario: &Scenario,
    seed: u64,
) -> anyhow::Result<Measured> {
    can_be_real(scenario)?;
    let clock = Clock::start()?;
    let mut servers = Vec::new();
    let mut tasks = JoinSet::new();
    for number in 0..scenario.endpoints {
        let queue = Arc::new(Mutex::new(Server::new(&scenario.servers)));
        let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen")?;
        servers.push((listener.local_addr()?, Arc::clone(&queue)));
        let service = Work { number, queue, clock: Arc::clone(&clock) };
        tasks.spawn(serve(listener, service));
    }
    let mut channels = Vec::new();
    for _ in 0..scenario.clients {
        let endpoints = servers.iter().map(|(address, _)| Endpoint::new((*address).into()));
        channels.push(connect(policy, config, endpoints.collect()).await?);
    }
    let floor = floor(&channels[0], scenario.endpoints).await?;
    let network = Duration::from_secs_f64(scenario.network_ms / 1000.0).saturating_sub(floor / 2);
    let mut world = World {
        scenario,
        channels,
        queues: servers.into_iter().map(|(_, queue)| queue).collect(),
        clock,
        network,
        measured: Arc::new(Mutex::new(Measured::new(scenario.endpoints as usize))),
        callers: Callers::new(scenario, rng(seed, 1)),
        works: rng(seed, 2),
    };
    world.run().await;
    tasks.abort_all();
    let measured = std::mem::replace(&mut *lock(&world.measured), Measured::new(0));
    Ok(measured)
}

/// Refuses what real servers here cannot do.
fn can_be_real(scenario: &Scenario) -> anyhow::Result<()> {
    let is_possible = scenario.attempts == 1
        && scenario.view.is_none()
        && scenario.keys.is_none()
        && !matches!(scenario.arrivals, Arrivals::Closed { .. });
    ensure!(is_possible, "real servers are for scenarios without retries, views, keys and closed loops");
    ensure!(scenario.endpoints <= 100, "real servers are for at most 100 endpoints");
    let may =
        |event: &Event| matches!(event.action, Action::Slow | Action::Pause | Action::Fail | Action::Heal);
    ensure!(scenario.events.iter().all(may), "real servers are for the events slow, pause, fail and heal");
    Ok(())
}

fn rng(seed: u64, stream: u64) -> fastrand::Rng {
    fastrand::Rng::with_seed(seed.wrapping_add(stream.wrapping_mul(0xd134_2543_de82_ef95)))
}

async fn connect(
    policy: Option<&WasmPolicy>,
    config: &str,
    endpoints: Vec<Endpoint>,
) -> anyhow::Result<EchoClient<Channel>> {
    let count = endpoints.len();
    let mut builder = Channel::builder("static:///servers").resolver(ManualResolver::new(endpoints));
    let name = policy.map(|policy| policy.version().name);
    if let (Some(policy), Some(name)) = (policy, &name) {
        let config = serde_json::from_str(config).context("the configuration is not JSON")?;
        builder = builder.native_policy(policy.clone()).policy(name).policy_config(config);
    }
    let channel = builder.connect_lazy()?;
    let is_ready = |status: &ChannelStatus| {
        status.ready.ready().len() == count && name.as_ref().is_none_or(|name| status.policy.name == *name)
    };
    let ready = tokio::time::timeout(Duration::from_secs(30), channel.wait_for(is_ready)).await;
    ready.context("the policy does not start, or connects to none of the servers")?;
    Ok(EchoClient::new(channel))
}

/// Returns how long an RPC without work takes.
async fn floor(client: &EchoClient<Channel>, endpoints: u32) -> anyhow::Result<Duration> {
    let mut took = Vec::new();
    for _ in 0..(50 + 10 * endpoints) {
        let begun = Instant::now();
        client.clone().unary(request(0, Duration::ZERO)).await.context("an RPC without work")?;
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    Ok(took[took.len() / 2])
}

/// An RPC for this much work, after so long on the way there and before so long on the way back.
fn request(work: Nanos, network: Duration) -> Request<EchoRequest> {
    Request::new(EchoRequest::new(format!("{work} {}", network.as_nanos())))
}

struct World<'a> {
    scenario: &'a Scenario,
    channels: Vec<EchoClient<Channel>>,
    queues: Vec<Arc<Mutex<Server>>>,
    clock: Arc<Clock>,
    network: Duration,
    measured: Arc<Mutex<Measured>>,
    callers: Callers,
    works: fastrand::Rng,
}

impl World<'_> {
    async fn run(&mut self) {
        let Scenario { warmup, seconds, .. } = *self.scenario;
        let turns = self.scenario.events.iter().flat_map(|event| {
            (0..event.times).map(move |turn| {
                (nanos((warmup + event.at + event.every * f64::from(turn)).max(0.0)), *event)
            })
        });
        let mut events: Vec<_> = turns.collect();
        events.sort_by_key(|(at, _)| Reverse(*at));
        let (origin, end) = (self.clock.now(), nanos(warmup + seconds));
        let mut calls = JoinSet::new();
        let mut next = 0;
        loop {
            // Drawn as in the simulation: the next arrival before the RPCs of this one.
            let at = if next == 0 { self.callers.interval() } else { next };
            next = at + self.callers.interval();
            while let Some((_, event)) = events.pop_if(|(due, _)| *due <= at.min(end)) {
                self.happens(event);
            }
            if at > end {
                break;
            }
            self.clock.until(origin + at).await;
            for _ in 0..self.callers.together() {
                self.call(origin, at, &mut calls);
            }
            while calls.try_join_next().is_some() {}
        }
        // Those that are in flight at the end are not measured, as in the simulation.
        calls.abort_all();
    }

    fn call(&mut self, origin: Nanos, at: Nanos, calls: &mut JoinSet<()>) {
        let (client, _) = self.callers.call();
        let mut client = self.channels[client].clone();
        let mut request = request(work(&self.scenario.servers, &mut self.works), self.network);
        if let Some(ms) = self.scenario.deadline_ms {
            request.set_timeout(Duration::from_secs_f64(ms / 1000.0));
        }
        let (measured, clock) = (Arc::clone(&self.measured), Arc::clone(&self.clock));
        let warmup = nanos(self.scenario.warmup);
        let part = (at as f64 / 1e9 - self.scenario.warmup) / self.scenario.seconds;
        calls.spawn(async move {
            let answer = client.unary(request).await;
            if at >= warmup {
                let took = clock.now() - origin - at;
                let mut measured = lock(&measured);
                measured.ended(part, took, answer.is_ok());
                if let Some(server) = answer.ok().and_then(|answer| answer.get_ref().backend.parse().ok()) {
                    measured.served(part, server);
                }
            }
        });
    }

    fn happens(&self, event: Event) {
        let affected = &self.queues[event.from as usize..(event.from + event.count) as usize];
        for queue in affected {
            let mut server = lock(queue);
            match event.action {
                Action::Slow => server.factor = event.factor,
                Action::Pause => server.pause(self.clock.now(), nanos(event.seconds)),
                Action::Fail => server.is_failing = true,
                Action::Heal => (server.factor, server.is_failing) = (1.0, false),
                // Refused before.
                Action::Leave | Action::Join | Action::Disconnect => {}
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: TcpListener, service: Work) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(EchoServer::new(service.clone()));
        let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        // The simulation has no limit of streams: what waits, waits at the server.
        server.max_concurrent_streams(None);
        let connection = server.serve_connection(TokioIo::new(stream), service);
        connections.spawn(async move {
            let _: Result<(), hyper::Error> = connection.await;
        });
    }
}

/// A server that works as those of the simulation do.
#[derive(Clone)]
struct Work {
    number: u32,
    queue: Arc<Mutex<Server>>,
    clock: Arc<Clock>,
}

impl Work {
    async fn work(&self, text: &str) -> Result<EchoResponse, Status> {
        let numbers = text
            .split_once(' ')
            .and_then(|(work, network)| Some((work.parse().ok()?, network.parse().ok()?)));
        let (work, network): (Nanos, Nanos) = numbers.ok_or_else(|| Status::invalid_argument("no work"))?;
        let begun = self.clock.now();
        let end = {
            let mut queue = lock(&self.queue);
            let is_refused = queue.is_failing || queue.is_full(begun + network);
            if is_refused { None } else { Some(queue.take(begun + network, work)) }
        };
        self.clock.until(end.unwrap_or(begun + network) + network).await;
        let answer = EchoResponse { text: String::new(), backend: self.number.to_string() };
        end.map(|_| answer).ok_or_else(|| Status::unavailable("set to fail"))
    }
}

type Responses = Pin<Box<dyn Stream<Item = Result<EchoResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Echo for Work {
    type ServerStreamStream = Responses;
    type BidiStream = Responses;

    async fn unary(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        self.work(&request.into_inner().text).await.map(Response::new)
    }

    async fn server_stream(&self, _: Request<EchoRequest>) -> Result<Response<Responses>, Status> {
        Err(Status::unimplemented("unary RPCs alone"))
    }

    async fn client_stream(
        &self,
        _: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<EchoResponse>, Status> {
        Err(Status::unimplemented("unary RPCs alone"))
    }

    async fn bidi(&self, _: Request<Streaming<EchoRequest>>) -> Result<Response<Responses>, Status> {
        Err(Status::unimplemented("unary RPCs alone"))
    }
}

/// A clock whose alarms are exact to some 100 us: Tokio's are to a millisecond.
struct Clock {
    origin: Instant,
    alarms: Mutex<BinaryHeap<Alarm>>,
    changed: Condvar,
}

struct Alarm {
    at: Nanos,
    wake: Option<oneshot::Sender<Infallible>>,
}

impl Clock {
    fn start() -> anyhow::Result<Arc<Self>> {
        let clock =
            Arc::new(Self { origin: Instant::now(), alarms: Mutex::default(), changed: Condvar::new() });
        let weak = Arc::downgrade(&clock);
        let thread = std::thread::Builder::new().name("hotpick-sim-clock".to_owned());
        thread.spawn(move || {
            while let Some(clock) = weak.upgrade() {
                clock.turn();
            }
        })?;
        Ok(clock)
    }

    fn now(&self) -> Nanos {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Waits until this time.
    async fn until(&self, at: Nanos) {
        if at <= self.now() {
            return;
        }
        // An alarm goes off by dropping its end.
        let _ = self.set(at).await;
    }

    fn set(&self, at: Nanos) -> oneshot::Receiver<Infallible> {
        let (wake, woken) = oneshot::channel();
        let mut alarms = lock(&self.alarms);
        let is_next = alarms.peek().is_none_or(|next| at < next.at);
        alarms.push(Alarm { at, wake: Some(wake) });
        drop(alarms);
        if is_next {
            self.changed.notify_one();
        }
        woken
    }

    fn turn(&self) {
        /// The thread looks whether it is still needed.
        const LONGEST: Duration = Duration::from_millis(100);
        let mut alarms = lock(&self.alarms);
        let now = self.now();
        while let Some(mut due) = alarms.peek_mut().filter(|next| next.at <= now) {
            due.wake = None;
            std::collections::binary_heap::PeekMut::pop(due);
        }
        let wait = alarms.peek().map_or(LONGEST, |next| Duration::from_nanos(next.at - now).min(LONGEST));
        drop(self.changed.wait_timeout(alarms, wait));
    }
}

impl PartialEq for Alarm {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Alarm {}

impl PartialOrd for Alarm {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// The earliest alarm is the greatest.
impl Ord for Alarm {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.at.cmp(&self.at)
    }
}
