//! Simulated servers and clients around a policy, in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::{FakeHost, Rpc, outcome, summary};
use crate::random::Random;
use crate::stats::ResponseCounts;
use crate::{Alarms, Nanos, Outcome, Outcomes, PickResult, Policy, StatusCode, SubConn, env, fake, nanos};

/// How a server responds.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Server {
    /// Mean of the response times, which are exponentially distributed. `None`: the server never responds.
    pub time: Option<Duration>,
    /// Status code of the responses.
    pub code: StatusCode,
}

impl Server {
    /// A server that succeeds, with this mean response time.
    #[must_use]
    pub const fn well(time: Duration) -> Self {
        Self { time: Some(time), code: StatusCode::Ok }
    }

    /// A server that never responds.
    pub const HANGS: Self = Self { time: None, code: StatusCode::Ok };

    /// A server that fails each RPC, with this mean response time.
    #[must_use]
    pub const fn fails(time: Duration) -> Self {
        Self { time: Some(time), code: StatusCode::Unavailable }
    }
}

/// Bad servers that a policy should avoid when the others take 5 ms, with a name and the deadline of the RPCs.
pub const BAD: [(&str, Server, Duration); 8] = [
    ("hangs, deadline 100 ms", Server::HANGS, Duration::from_millis(100)),
    ("hangs, deadline 5 s", Server::HANGS, Duration::from_secs(5)),
    ("hangs, deadline 300 s", Server::HANGS, Duration::from_secs(300)),
    ("hangs, no deadline", Server::HANGS, Duration::MAX),
    ("slow", Server::well(Duration::from_secs(1)), Duration::MAX),
    ("slow, deadline 100 ms", Server::well(Duration::from_secs(1)), Duration::from_millis(100)),
    ("fails fast", Server::fails(Duration::from_micros(200)), Duration::MAX),
    ("fails slowly", Server::fails(Duration::from_millis(500)), Duration::MAX),
];

/// A policy with servers, and clients whose RPCs arrive at random (Poisson process). Deterministic.
#[derive(Debug)]
pub struct World<P: Policy> {
    host: FakeHost<P>,
    servers: Vec<State>,
    /// Mean time between two RPCs.
    between: Duration,
    deadline: Option<Duration>,
    under_way: BinaryHeap<Reverse<Ends>>,
    random: Random,
    /// When the next RPC arrives.
    next: Nanos,
    call: u64,
    now: Nanos,
    /// One in this many RPCs takes this long.
    long: Option<(u64, Duration)>,
    done: Option<Done<P>>,
    run: Option<fn(&mut FakeHost<P>, Duration)>,
}

/// Reports outcomes to a policy.
type Done<P> = fn(&mut FakeHost<P>, &[Outcome]);

#[derive(Debug)]
struct State {
    server: Server,
    counts: ResponseCounts,
    /// Since when no RPC has ended, while RPCs that began after the last end are in flight.
    waiting: Option<Nanos>,
}

/// When an RPC ends. Sorted by time; of equal times the earlier RPC is first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ends {
    at: Nanos,
    call: u64,
    server: SubConn,
    begun: Nanos,
    is_given_up: bool,
}

impl<P: Policy> World<P> {
    /// Creates a world with a policy that knows these servers, numbered from 0, and `per_second` RPCs.
    #[must_use]
    pub fn new(host: FakeHost<P>, servers: &[Server], per_second: u32) -> Self {
        let counts = ResponseCounts {
            in_flight: 0,
            max_streams: 10_000,
            silence: 0,
            begun: 0,
            waited: 0,
            abandoned: 0,
            abandoned_after: 0,
            ended: 0,
            faulty: 0,
        };
        let state = |server: &Server| State { server: *server, counts, waiting: None };
        Self {
            host,
            servers: servers.iter().map(state).collect(),
            between: Duration::from_secs(1) / per_second.max(1),
            deadline: None,
            under_way: BinaryHeap::new(),
            random: Random::new(17),
            next: env::now(),
            call: 0,
            now: env::now(),
            long: None,
            done: None,
            run: None,
        }
    }

    /// Gives RPCs a deadline.
    #[must_use]
    pub const fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Reports outcomes of RPCs to the policy.
    #[must_use]
    pub fn with_outcomes(mut self) -> Self
    where
        P: Outcomes,
    {
        self.done = Some(FakeHost::done);
        self
    }

    /// Delivers the policy's timers.
    #[must_use]
    pub fn with_alarms(mut self) -> Self
    where
        P: Alarms,
    {
        self.run = Some(FakeHost::run);
        self
    }

    /// Changes a server's behavior. A server that hung and no longer does answers all RPCs in flight now.
    pub fn becomes(&mut self, server: SubConn, like: Server) {
        let Some(state) = self.servers.get_mut(server as usize) else { return };
        state.server = like;
        if like.time.is_some() {
            let owed = |Reverse(ends): Reverse<Ends>| {
                let at = if ends.server == server { ends.at.min(self.now) } else { ends.at };
                Reverse(Ends { at, is_given_up: ends.is_given_up && at == ends.at, ..ends })
            };
            self.under_way = self.under_way.drain().map(owed).collect();
        }
    }

    /// Returns the policy and its host.
    pub const fn host(&mut self) -> &mut FakeHost<P> {
        &mut self.host
    }

    /// Adds an RPC that stays in flight at a server forever: an idle watch, a long poll, or one that was lost.
    pub fn watch(&mut self, server: SubConn) {
        if let Some(state) = self.servers.get_mut(server as usize) {
            state.counts.in_flight += 1;
            state.waiting = state.waiting.or(Some(self.now));
        }
    }

    /// Makes one in `of` RPCs take this time, at any server.
    #[must_use]
    pub const fn with_long(mut self, of: u64, time: Duration) -> Self {
        self.long = Some((of, time));
        self
    }

    /// Runs for this time. Returns each server's share of the RPCs.
    #[expect(clippy::cast_precision_loss, reason = "tests do not count so far")]
    pub fn run(&mut self, time: Duration) -> Vec<f64> {
        let end = self.now + nanos(time);
        let mut counts = vec![0u64; self.servers.len()];
        loop {
            let ends = self.under_way.peek().map_or(Nanos::MAX, |Reverse(ends)| ends.at);
            let now = ends.min(self.next).min(end);
            self.clock(now);
            if ends <= now {
                self.ends();
            } else if self.next <= now {
                if let Some(server) = self.arrives() {
                    counts[server as usize] += 1;
                }
            } else {
                let all = counts.iter().sum::<u64>().max(1) as f64;
                return counts.iter().map(|count| *count as f64 / all).collect();
            }
        }
    }

    /// Makes server 0 bad for an hour, and then restores it. Returns its share from the second minute of the hour on,
    /// and its share from the second minute after the hour on.
    pub fn bad_hour(&mut self, bad: Server) -> (f64, f64) {
        const MINUTE: Duration = Duration::from_secs(60);
        let was = self.servers[0].server;
        self.run(MINUTE);
        self.becomes(0, bad);
        self.run(MINUTE);
        let while_bad = self.run(59 * MINUTE)[0];
        self.becomes(0, was);
        self.run(MINUTE);
        (while_bad, self.run(5 * MINUTE)[0])
    }

    fn clock(&mut self, now: Nanos) {
        let by = Duration::from_nanos(now - self.now);
        match self.run {
            Some(run) => run(&mut self.host, by),
            None => self.host.advance(by),
        }
        self.now = now;
    }

    /// Picks for a new RPC. Without a server the RPC is lost.
    fn arrives(&mut self) -> Option<SubConn> {
        self.next += self.exponential(self.between);
        self.call += 1;
        self.update_stats();
        let PickResult::Pick(id) = self.host.pick(&Rpc::default()) else { return None };
        let call = self.host.calls;
        let time = self.servers.get(id as usize)?.server.time.map(|time| self.exponential(time));
        let is_long = self.long.filter(|(of, _)| self.random.next().is_multiple_of(*of));
        let time = is_long.map_or(time, |(_, long)| Some(nanos(long)));
        let deadline = self.deadline.map(nanos);
        let is_given_up = deadline.is_some_and(|deadline| time.is_none_or(|time| time > deadline));
        let state = &mut self.servers[id as usize];
        state.waiting = state.waiting.or(Some(self.now));
        state.counts.in_flight += 1;
        let lasts = if is_given_up { deadline } else { time };
        let (begun, at) = (self.now, lasts.map_or(Nanos::MAX, |lasts| self.now.saturating_add(lasts)));
        self.under_way.push(Reverse(Ends { at, call, server: id, begun, is_given_up }));
        Some(id)
    }

    fn ends(&mut self) {
        let Some(Reverse(ends)) = self.under_way.pop() else { return };
        let state = &mut self.servers[ends.server as usize];
        let (counts, waited) = (&mut state.counts, ends.at - ends.begun);
        counts.in_flight -= 1;
        state.waiting = None;
        let code = if ends.is_given_up { StatusCode::DeadlineExceeded } else { state.server.code };
        if ends.is_given_up {
            counts.abandoned += 1;
            counts.abandoned_after += waited;
        } else {
            counts.begun += 1;
            counts.waited += waited;
            counts.ended += 1;
            counts.faulty += u64::from(code != StatusCode::Ok);
        }
        if let Some(done) = self.done {
            let outcome = Outcome {
                call: ends.call,
                client_ended: ends.is_given_up,
                ..outcome(ends.server, code, Duration::from_nanos(waited))
            };
            done(&mut self.host, &[outcome]);
        }
    }

    fn update_stats(&self) {
        fake::with(|host| {
            for (state, id) in self.servers.iter().zip(0..) {
                let waiting = state.waiting.filter(|_| state.counts.in_flight > 0);
                let silence = waiting.map_or(0, |since| self.now - since);
                host.responses.insert(id, ResponseCounts { silence, ..state.counts });
                let summary = crate::stats::Summary { in_flight: state.counts.in_flight, ..summary() };
                host.stats.insert(id, summary);
            }
        });
    }

    /// Returns a random time of the exponential distribution with this mean.
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "times")]
    #[expect(clippy::cast_sign_loss, reason = "not negative")]
    fn exponential(&mut self, mean: Duration) -> Nanos {
        let uniform = (self.random.next() >> 11) as f64 / (1u64 << 53) as f64;
        (nanos(mean) as f64 * -(1.0 - uniform).ln()) as Nanos
    }
}
