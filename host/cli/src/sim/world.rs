//! The events of a simulation, in virtual time: RPCs arrive, are picked for by the policy, and end when their server is done.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use hotpick::connectivity::ConnectivityState;
use hotpick::picker::{PickInfo, PickedBy};
use hotpick::policy::{Placement, Policy, SimulatedChannel, SimulatedPick, SimulatedRpc};
use hotpick::resolver::Endpoint;
use hotpick::subconn::ConnectRequest;
use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;
use tonic::Code;

use super::clock;
use super::measured::Measured;
use super::scenario::{Action, Event, Scenario};
use super::servers::{Nanos, Server, exponential, nanos, work};

const METHOD: &str = "/hotpick.sim.Service/Call";
/// Time after which a queued RPC is picked for again, if the endpoints do not change.
const AGAIN: Nanos = 1_000_000;
/// Picks of which the regret is measured, if there are many endpoints: one of these.
const SAMPLE: u64 = 64;

/// An RPC of a caller.
struct Rpc {
    client: usize,
    born: Nanos,
    /// Attempts of the call so far, by retries of gRPC and of the caller.
    attempts: u32,
    /// Earlier attempts of the RPC, and where they went.
    attempt: u32,
    tried: Vec<u32>,
    deadline: Option<Nanos>,
    key: Option<usize>,
    /// The attempt that is in flight, and its server.
    sent: Option<(SimulatedRpc, usize)>,
}

enum What {
    Arrival,
    /// A retry is due, or a queued RPC is picked for again.
    Pick(Box<Rpc>),
    /// The response is there, or the deadline has passed.
    End(Box<Rpc>, Code),
    Scenario(Event),
    Connected {
        client: usize,
        endpoint: usize,
    },
}

struct Due {
    at: Nanos,
    /// Events at the same time are in the order in which they were made.
    number: u64,
    what: What,
}

struct Client {
    channel: SimulatedChannel,
    /// Whether each endpoint is connected.
    connected: Vec<bool>,
    /// Endpoints by the numbers of their subconns, as far as asked.
    known: Vec<Option<usize>>,
}

struct World<'a> {
    scenario: &'a Scenario,
    now: Nanos,
    origin: Instant,
    events: BinaryHeap<Due>,
    number: u64,
    clients: Vec<Client>,
    servers: Vec<Server>,
    /// Whether the resolver has each endpoint.
    present: Vec<bool>,
    /// Random numbers of arrivals, of work, and of all else: a policy that picks otherwise changes none of the first two.
    arrivals: fastrand::Rng,
    works: fastrand::Rng,
    others: fastrand::Rng,
    headers: Vec<HeaderMap>,
    /// Cumulative frequencies of the keys.
    keys: Vec<f64>,
    measured: Measured,
}

/// Simulates a scenario with a policy. Needs a Tokio runtime of one thread, with its clock paused.
pub(super) async fn run(
    policy: &dyn Policy,
    config: &str,
    scenario: &Scenario,
    seed: u64,
) -> anyhow::Result<Measured> {
    clock::align().await;
    let mut world = World::new(policy, config, scenario, seed)?;
    let end = nanos(scenario.warmup + scenario.seconds);
    let first = world.next_arrival();
    world.add(first, What::Arrival);
    for event in &scenario.events {
        world.add(nanos((scenario.warmup + event.at).max(0.0)), What::Scenario(*event));
    }
    while let Some(due) = world.events.pop() {
        if due.at > end {
            break;
        }
        clock::advance(&mut world.now, due.at).await;
        world.handle(due.what);
    }
    for client in &world.clients {
        world.measured.faults += client.channel.faults().count;
    }
    Ok(world.measured)
}

impl<'a> World<'a> {
    fn new(policy: &dyn Policy, config: &str, scenario: &'a Scenario, seed: u64) -> anyhow::Result<Self> {
        let count = scenario.endpoints as usize;
        let mut present = vec![true; count];
        for event in scenario.events.iter().filter(|event| event.at <= -scenario.warmup) {
            if event.action == Action::Leave {
                present[event.from as usize..(event.from + event.count) as usize].fill(false);
            }
        }
        let mut clients = Vec::new();
        for client in 0..u64::from(scenario.clients) {
            let placement = Placement::new("sim:///servers", config)
                .with_seed(seed ^ client.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let connected = vec![true; count];
            let all = endpoints(&present, &connected);
            let channel =
                SimulatedChannel::start(policy, &placement, all).context("the policy does not start")?;
            clients.push(Client { channel, connected, known: Vec::new() });
        }
        let rng = |stream: u64| {
            fastrand::Rng::with_seed(seed.wrapping_add(stream.wrapping_mul(0xd134_2543_de82_ef95)))
        };
        let keys = scenario.keys.map(|keys| zipf(keys.count, keys.skew)).unwrap_or_default();
        let mut headers: Vec<_> = keys.iter().enumerate().map(|(key, _)| header(key)).collect();
        headers.push(HeaderMap::new());
        Ok(Self {
            scenario,
            now: 0,
            origin: Instant::now(),
            events: BinaryHeap::new(),
            number: 0,
            clients,
            servers: vec![Server::new(scenario.servers.slots); count],
            present,
            arrivals: rng(1),
            works: rng(2),
            others: rng(3),
            headers,
            keys,
            measured: Measured::new(count),
        })
    }

    fn add(&mut self, at: Nanos, what: What) {
        self.number += 1;
        self.events.push(Due { at, number: self.number, what });
    }

    fn instant(&self, at: Nanos) -> Instant {
        self.origin + Duration::from_nanos(at)
    }

    fn next_arrival(&mut self) -> Nanos {
        self.now + nanos(exponential(&mut self.arrivals) / self.scenario.rate)
    }

    fn handle(&mut self, what: What) {
        match what {
            What::Arrival => {
                let next = self.next_arrival();
                self.add(next, What::Arrival);
                let client = self.arrivals.usize(..self.clients.len());
                let rpc = Rpc {
                    client,
                    born: self.now,
                    attempts: 0,
                    attempt: 0,
                    tried: Vec::new(),
                    deadline: self.deadline(),
                    key: self.key(),
                    sent: None,
                };
                self.pick(Box::new(rpc));
            }
            What::Pick(rpc) => self.pick(rpc),
            What::End(rpc, code) => self.end(rpc, code),
            What::Scenario(event) => self.happens(event),
            What::Connected { client, endpoint } => {
                self.clients[client].connected[endpoint] = true;
                self.notify(client);
            }
        }
    }

    fn deadline(&self) -> Option<Nanos> {
        self.scenario.deadline_ms.map(|ms| self.now + nanos(ms / 1000.0))
    }

    fn key(&mut self) -> Option<usize> {
        let all = *self.keys.last()?;
        let drawn = self.arrivals.f64() * all;
        Some(self.keys.partition_point(|sum| *sum <= drawn).min(self.keys.len() - 1))
    }

    fn pick(&mut self, mut rpc: Box<Rpc>) {
        if rpc.deadline.is_some_and(|deadline| deadline <= self.now) {
            return self.end(rpc, Code::DeadlineExceeded);
        }
        let headers = &self.headers[rpc.key.unwrap_or(self.headers.len() - 1)];
        let mut info = PickInfo::new(METHOD, headers);
        info.deadline = rpc.deadline.map(|at| self.instant(at));
        info.attempt = rpc.attempt;
        info.tried = &rpc.tried;
        let picked = self.clients[rpc.client].channel.pick(&info);
        self.carry_out_requests(rpc.client);
        match picked {
            SimulatedPick::Sent(sent) => self.send(rpc, sent),
            SimulatedPick::Queue => self.add(self.now + AGAIN, What::Pick(rpc)),
            SimulatedPick::Fail(status) | SimulatedPick::Drop(status) => {
                rpc.attempts = self.scenario.attempts;
                self.end(rpc, status.code());
            }
        }
    }

    fn send(&mut self, mut rpc: Box<Rpc>, sent: SimulatedRpc) {
        let Some(to) = self.endpoint_of(rpc.client, sent.subconn()) else {
            // The endpoint has left: the RPC is not sent.
            return self.add(self.now + AGAIN, What::Pick(rpc));
        };
        let network = nanos(self.scenario.network_ms / 1000.0);
        let arrival = self.now + network;
        let work = work(&self.scenario.servers, &mut self.works);
        let is_measured = self.is_measured(self.now);
        if is_measured {
            self.measured.fallback_picks += u64::from(sent.picked_by() == PickedBy::Fallback);
        }
        rpc.attempts += 1;
        rpc.tried.push(sent.subconn());
        rpc.sent = Some((sent, to));
        let (end, code) = if self.servers[to].is_failing {
            (arrival + network, Code::Unavailable)
        } else {
            if is_measured && (self.servers.len() <= 256 || self.number.is_multiple_of(SAMPLE)) {
                let regret =
                    self.servers[to].would_end(arrival, work).saturating_sub(self.best(arrival, work));
                self.measured.regret.add(regret);
            }
            (self.servers[to].take(arrival, work) + network, Code::Ok)
        };
        match rpc.deadline.filter(|deadline| *deadline < end) {
            Some(deadline) => self.add(deadline, What::End(rpc, Code::DeadlineExceeded)),
            None => self.add(end, What::End(rpc, code)),
        }
    }

    /// Returns when the work would be done at the best server.
    fn best(&self, arrival: Nanos, work: Nanos) -> Nanos {
        let usable = self
            .servers
            .iter()
            .zip(&self.present)
            .filter(|(server, present)| **present && !server.is_failing);
        usable.map(|(server, _)| server.would_end(arrival, work)).min().unwrap_or(arrival)
    }

    fn end(&mut self, mut rpc: Box<Rpc>, code: Code) {
        let is_late = code == Code::DeadlineExceeded;
        if let Some((mut sent, server)) = rpc.sent.take() {
            if !is_late {
                sent.respond();
            }
            sent.end(code, is_late, None);
            if code == Code::Ok && self.is_measured(rpc.born) {
                self.measured.served(self.part(rpc.born), server);
            }
        }
        let may_retry = matches!(code, Code::Unavailable | Code::DeadlineExceeded)
            && rpc.attempts < self.scenario.attempts;
        if may_retry && rpc.attempts > 0 {
            if is_late {
                // The caller tries again, by an RPC of its own.
                (rpc.attempt, rpc.deadline) = (0, self.deadline());
                rpc.tried.clear();
            } else {
                rpc.attempt += 1;
            }
            let backoff = 0.01 * f64::from(1 << rpc.attempts.min(8)) * self.others.f64();
            return self.add(self.now + nanos(backoff), What::Pick(rpc));
        }
        if self.is_measured(rpc.born) {
            self.measured.ended(self.part(rpc.born), self.now - rpc.born, code == Code::Ok);
        }
    }

    /// Returns a moment as a part of the time that is measured.
    fn part(&self, at: Nanos) -> f64 {
        (at as f64 / 1e9 - self.scenario.warmup) / self.scenario.seconds
    }

    fn is_measured(&self, at: Nanos) -> bool {
        at >= nanos(self.scenario.warmup)
    }

    fn happens(&mut self, event: Event) {
        let affected = event.from as usize..(event.from + event.count) as usize;
        for endpoint in affected.clone() {
            let server = &mut self.servers[endpoint];
            match event.action {
                Action::Slow => server.factor = event.factor,
                Action::Pause => server.pause(self.now, nanos(event.seconds)),
                Action::Fail => server.is_failing = true,
                Action::Heal => (server.factor, server.is_failing) = (1.0, false),
                Action::Leave | Action::Join => self.present[endpoint] = event.action == Action::Join,
            }
        }
        if matches!(event.action, Action::Leave | Action::Join) {
            for client in 0..self.clients.len() {
                // A server that is new is connected by then.
                self.clients[client].connected[affected.clone()].fill(true);
                self.notify(client);
            }
        }
    }

    /// Notifies a client's channel of the endpoints.
    fn notify(&mut self, client: usize) {
        let its = &mut self.clients[client];
        its.known.clear();
        let all: Vec<_> = endpoints(&self.present, &its.connected).collect();
        its.channel.update(all);
        self.carry_out_requests(client);
    }

    fn carry_out_requests(&mut self, client: usize) {
        for request in self.clients[client].channel.requests() {
            let (ConnectRequest::Connect(id) | ConnectRequest::Disconnect(id)) = request;
            let Some(endpoint) = self.endpoint_of(client, id) else { continue };
            if matches!(request, ConnectRequest::Connect(_)) && !self.clients[client].connected[endpoint] {
                let network = nanos(self.scenario.network_ms / 1000.0);
                self.add(self.now + 4 * network, What::Connected { client, endpoint });
            }
        }
    }

    /// Returns the endpoint of a client's subconn.
    fn endpoint_of(&mut self, client: usize, subconn: u32) -> Option<usize> {
        let its = &mut self.clients[client];
        let place = subconn as usize;
        if its.known.len() <= place {
            its.known.resize(place + 1, None);
        }
        if its.known[place].is_none() {
            let endpoint = its.channel.endpoint(subconn)?;
            let number = endpoint.attributes().get(NUMBER)?.parse().ok()?;
            its.known[place] = Some(number);
        }
        its.known[place]
    }
}

/// Attribute with the number of an endpoint.
const NUMBER: &str = "number";

/// Returns the endpoints that are present, and their states.
fn endpoints<'a>(
    present: &'a [bool],
    connected: &'a [bool],
) -> impl Iterator<Item = (Endpoint, ConnectivityState)> + use<'a> {
    let there = present.iter().zip(connected).enumerate().filter(|(_, (present, _))| **present);
    there.map(|(number, (_, connected))| {
        let address = Ipv4Addr::from_bits(0x0a00_0000 + u32::try_from(number).unwrap_or(u32::MAX));
        let endpoint =
            Endpoint::new(SocketAddr::from((address, 80)).into()).with_attribute(NUMBER, number.to_string());
        let state = if *connected { ConnectivityState::Ready } else { ConnectivityState::Idle };
        (endpoint, state)
    })
}

fn header(key: usize) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(&format!("key-{key}")) {
        headers.insert("hash-key", value);
    }
    headers
}

/// Returns the cumulative frequencies of `count` keys: the k-th is as frequent as 1 / k^skew.
fn zipf(count: u32, skew: f64) -> Vec<f64> {
    let mut sum = 0.0;
    (1..=count)
        .map(|rank| {
            sum += f64::from(rank).powf(-skew);
            sum
        })
        .collect()
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The earliest event is the greatest.
impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}
