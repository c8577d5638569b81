//! The events of a simulation, in virtual time: RPCs arrive, are picked for by the policy, and end when their server is done.

use std::time::Duration;

use hotpick::connectivity::ConnectivityState;
use hotpick::picker::{PickInfo, PickedBy};
use hotpick::policy::{Policy, SimulatedChannel, SimulatedPick, SimulatedRpc};
use hotpick::subconn::ConnectRequest;
use tokio::time::Instant;
use tonic::Code;

use super::callers::Callers;
use super::clients::Client;
use super::clock;
use super::events::Events;
use super::measured::{Measured, SLICES};
use super::scenario::{Action, Arrivals, Event, Scenario};
use super::servers::{Nanos, Server, load_report, nanos, work};

const METHOD: &str = "/hotpick.sim.Service/Call";
/// Interval at which queued RPCs are looked at.
const LOOK: Nanos = 1_000_000;
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
    /// RPCs arrive, and when the next ones do is drawn.
    Arrival,
    /// A caller makes its next RPC.
    Call,
    /// A retry is due.
    Pick(Box<Rpc>),
    /// The response is there, or the deadline has passed.
    End(Box<Rpc>, Code),
    Scenario(Event),
    Connected {
        client: usize,
        endpoint: usize,
    },
    /// The queued RPCs of a client may be picked for.
    Look(usize),
    /// A part of the time is over.
    Slice(usize),
}

struct World<'a> {
    scenario: &'a Scenario,
    now: Nanos,
    origin: Instant,
    events: Events<What>,
    clients: Vec<Client>,
    /// RPCs that are queued, by client.
    #[expect(clippy::vec_box, reason = "moved between events, as they are")]
    queued: Vec<Vec<Box<Rpc>>>,
    servers: Vec<Server>,
    /// Until when servers cannot be connected to.
    down_until: Vec<Nanos>,
    /// Whether the resolver has each endpoint.
    present: Vec<bool>,
    callers: Callers,
    /// Random numbers of work, and of all else: a policy that picks otherwise does not change the first.
    works: fastrand::Rng,
    others: fastrand::Rng,
    /// Where the last RPC of each key went.
    homes: Vec<Option<usize>>,
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
    // What the pre-flight costs is not of interest.
    let _ = SimulatedChannel::picks_cost();
    world.begin();
    let end = nanos(scenario.warmup + scenario.seconds);
    while let Some((at, what)) = world.events.pop().filter(|(at, _)| *at <= end) {
        clock::advance(&mut world.now, at).await;
        world.handle(what);
    }
    for client in &world.clients {
        world.measured.faults += client.channel.faults().count;
    }
    world.measured.cost = SimulatedChannel::picks_cost();
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
        let numbers = 0..u64::from(scenario.clients);
        let clients = numbers.map(|number| Client::start(policy, config, scenario, (number, seed), &present));
        let clients = clients.collect::<anyhow::Result<Vec<_>>>()?;
        let rng = |stream: u64| {
            fastrand::Rng::with_seed(seed.wrapping_add(stream.wrapping_mul(0xd134_2543_de82_ef95)))
        };
        let callers = Callers::new(scenario, rng(1));
        Ok(Self {
            scenario,
            now: 0,
            origin: Instant::now(),
            events: Events::new(),
            queued: clients.iter().map(|_| Vec::new()).collect(),
            clients,
            servers: vec![Server::new(&scenario.servers); count],
            down_until: vec![0; count],
            present,
            homes: vec![None; callers.keys()],
            callers,
            works: rng(2),
            others: rng(3),
            measured: Measured::new(count),
        })
    }

    /// Plans what happens whatever the policy does.
    fn begin(&mut self) {
        let Scenario { warmup, seconds, .. } = *self.scenario;
        if matches!(self.scenario.arrivals, Arrivals::Closed { .. }) {
            for first in self.callers.begin(self.scenario.servers.mean_ms) {
                self.add(first, What::Call);
            }
        } else {
            let first = self.callers.interval();
            self.add(first, What::Arrival);
        }
        for event in &self.scenario.events {
            for turn in 0..event.times {
                let at = warmup + event.at + event.every * f64::from(turn);
                if at <= warmup + seconds {
                    self.add(nanos(at.max(0.0)), What::Scenario(*event));
                }
            }
        }
        for slice in 0..SLICES {
            let end = warmup + seconds * (slice as f64 + 1.0) / SLICES as f64;
            self.add(nanos(end), What::Slice(slice));
        }
    }

    fn add(&mut self, at: Nanos, what: What) {
        self.events.add(at, what);
    }

    fn instant(&self, at: Nanos) -> Instant {
        self.origin + Duration::from_nanos(at)
    }

    fn handle(&mut self, what: What) {
        match what {
            What::Arrival => {
                let next = self.now + self.callers.interval();
                self.add(next, What::Arrival);
                (0..self.callers.together()).for_each(|_| self.call());
            }
            What::Call => self.call(),
            What::Pick(rpc) => self.pick(rpc),
            What::End(rpc, code) => self.end(rpc, code),
            What::Scenario(event) => self.happens(event),
            What::Connected { client, endpoint } => {
                // It may have been lost again meanwhile.
                if self.now >= self.down_until[endpoint] {
                    self.clients[client].states[endpoint] = ConnectivityState::Ready;
                    self.notify(client);
                }
            }
            What::Look(client) => self.look(client),
            What::Slice(slice) => {
                let now = self.now;
                let waiting = self.servers.iter_mut().map(|server| server.waiting(now));
                let waiting = waiting.collect();
                let queued = self.queued.iter().map(|queued| queued.len() as u64).sum();
                self.measured.sample(slice, waiting, queued);
            }
        }
    }

    /// A caller makes an RPC.
    fn call(&mut self) {
        let (client, key) = self.callers.call();
        if self.is_measured(self.now) {
            self.measured.begun += 1;
        }
        let rpc = Rpc {
            client,
            born: self.now,
            attempts: 0,
            attempt: 0,
            tried: Vec::new(),
            deadline: self.deadline(),
            key,
            sent: None,
        };
        self.pick(Box::new(rpc));
    }

    fn deadline(&self) -> Option<Nanos> {
        self.scenario.deadline_ms.map(|ms| self.now + nanos(ms / 1000.0))
    }

    fn pick(&mut self, mut rpc: Box<Rpc>) {
        if rpc.deadline.is_some_and(|deadline| deadline <= self.now) {
            return self.end(rpc, Code::DeadlineExceeded);
        }
        let mut info = PickInfo::new(METHOD, self.callers.headers(rpc.key));
        info.begun = self.instant(rpc.born);
        info.deadline = rpc.deadline.map(|at| self.instant(at));
        info.attempt = rpc.attempt;
        info.tried = &rpc.tried;
        let picked = self.clients[rpc.client].channel.pick(&info);
        self.carry_out_requests(rpc.client);
        match picked {
            SimulatedPick::Sent(sent) => self.send(rpc, sent),
            SimulatedPick::Queue => self.queue(rpc),
            SimulatedPick::Fail(status) | SimulatedPick::Drop(status) => {
                rpc.attempts = self.scenario.attempts;
                self.end(rpc, status.code());
            }
        }
    }

    fn queue(&mut self, rpc: Box<Rpc>) {
        let client = rpc.client;
        self.queued[client].push(rpc);
        if self.queued[client].len() == 1 {
            self.add(self.now + LOOK, What::Look(client));
        }
    }

    /// Picks again for the queued RPCs of a client, if its policy wants that, and ends those that are late.
    fn look(&mut self, client: usize) {
        let (now, wants) = (self.now, self.clients[client].channel.wants_another_pick());
        if wants {
            return self.pick_again(client);
        }
        let is_late = |rpc: &Rpc| rpc.deadline.is_some_and(|deadline| deadline <= now);
        let late = self.queued[client].extract_if(.., |rpc| is_late(rpc)).collect::<Vec<_>>();
        if !self.queued[client].is_empty() {
            self.add(now + LOOK, What::Look(client));
        }
        for rpc in late {
            self.end(rpc, Code::DeadlineExceeded);
        }
    }

    fn pick_again(&mut self, client: usize) {
        // Those that are queued again are looked at again.
        for rpc in std::mem::take(&mut self.queued[client]) {
            self.pick(rpc);
        }
    }

    fn send(&mut self, mut rpc: Box<Rpc>, sent: SimulatedRpc) {
        let Some(to) = self.clients[rpc.client].endpoint_of(sent.subconn()) else {
            // The endpoint has left: the RPC is not sent.
            return self.add(self.now + LOOK, What::Pick(rpc));
        };
        let network = nanos(self.scenario.network_ms / 1000.0);
        let arrival = self.now + network;
        let work = work(&self.scenario.servers, &mut self.works);
        let is_measured = self.is_measured(self.now);
        if is_measured {
            self.measured.fallback_picks += u64::from(sent.picked_by() == PickedBy::Fallback);
        }
        if let Some(key) = rpc.key.filter(|_| rpc.attempt == 0) {
            let has_moved = self.homes[key].replace(to).is_some_and(|home| home != to);
            if is_measured {
                self.measured.keyed(self.part(self.now), has_moved);
            }
        }
        rpc.attempts += 1;
        rpc.tried.push(sent.subconn());
        rpc.sent = Some((sent, to));
        let (end, code) = if self.servers[to].is_failing || self.servers[to].is_full(arrival) {
            (arrival + network, Code::Unavailable)
        } else {
            if is_measured && (self.servers.len() <= 256 || self.events.made().is_multiple_of(SAMPLE)) {
                let regret =
                    self.servers[to].would_end(arrival, work).saturating_sub(self.best(arrival, work));
                self.measured.regrets(self.part(self.now), regret);
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
            let report = (self.scenario.servers.load_report && code == Code::Ok)
                .then(|| load_report(&mut self.servers[server], self.now));
            sent.end(code, is_late, report.as_ref());
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
        if let Some(think) = self.callers.think(code == Code::Ok) {
            self.add(self.now + think, What::Call);
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
                Action::Disconnect => self.down_until[endpoint] = self.now + nanos(event.seconds),
            }
        }
        match event.action {
            Action::Leave | Action::Join => {
                for client in 0..self.clients.len() {
                    // A server that is new is connected by then.
                    for endpoint in affected.clone().filter(|endpoint| self.down_until[*endpoint] <= self.now)
                    {
                        self.clients[client].states[endpoint] = ConnectivityState::Ready;
                    }
                    self.notify(client);
                }
            }
            Action::Disconnect => self.disconnect(&affected),
            Action::Slow | Action::Pause | Action::Fail | Action::Heal => {}
        }
    }

    /// All connections to these servers are lost.
    fn disconnect(&mut self, affected: &std::ops::Range<usize>) {
        let now = self.now;
        self.events.change(|what| match what {
            What::End(rpc, code)
                if rpc.sent.as_ref().is_some_and(|(_, server)| affected.contains(server)) =>
            {
                *code = Code::Unavailable;
                Some(now)
            }
            _ => None,
        });
        for client in 0..self.clients.len() {
            self.clients[client].states[affected.clone()].fill(ConnectivityState::TransientFailure);
            self.notify(client);
            for endpoint in affected.clone() {
                self.connect(client, endpoint);
            }
        }
    }

    /// Connects a client, once the server is there.
    fn connect(&mut self, client: usize, endpoint: usize) {
        let network = nanos(self.scenario.network_ms / 1000.0);
        let at = self.now.max(self.down_until[endpoint]) + 4 * network;
        self.add(at, What::Connected { client, endpoint });
    }

    /// Notifies a client's channel of the endpoints.
    fn notify(&mut self, client: usize) {
        self.clients[client].notify(&self.present);
        self.carry_out_requests(client);
        self.pick_again(client);
    }

    fn carry_out_requests(&mut self, client: usize) {
        for request in self.clients[client].channel.requests() {
            let (ConnectRequest::Connect(id) | ConnectRequest::Disconnect(id)) = request;
            let Some(endpoint) = self.clients[client].endpoint_of(id) else { continue };
            let is_ready = self.clients[client].states[endpoint] == ConnectivityState::Ready;
            if matches!(request, ConnectRequest::Connect(_)) && !is_ready {
                self.connect(client, endpoint);
            }
        }
    }
}
