//! A fake host, to test policies natively.

mod histories;
mod lazy;
mod world;

pub use self::histories::histories;
pub use self::lazy::LazyHost;
pub use self::world::{BAD, Server, World};
use crate::env::Level;
pub use crate::fake::Rpc;
use crate::random::Random;
use crate::stats::Summary;
use crate::{
    Alarms, Attribute, Connectivity, ConnectivityState, Endpoint, Handover, Outcome, Outcomes, PickInfo,
    PickResult, Placement, Plan, Plans, Policy, Saved, StatusCode, SubConn, fake,
};

/// A policy with a fake host around it, for the current thread. Deterministic: random numbers start from the same seed
/// each time, and the clock moves only by [`advance`](Self::advance).
#[derive(Debug)]
pub struct FakeHost<P> {
    policy: P,
    calls: u64,
}

/// Returns an endpoint for [`FakeHost::endpoints`], with weight 1.
#[must_use]
pub fn endpoint(id: SubConn, attributes: &[(&str, &str)]) -> Endpoint {
    let attribute =
        |(key, value): &(&str, &str)| Attribute { key: (*key).to_owned(), value: (*value).to_owned() };
    Endpoint {
        id,
        addresses: vec![format!("10.0.0.{id}:80")],
        weight: 1,
        attributes: attributes.iter().map(attribute).collect(),
    }
}

/// Returns the outcome of an RPC, for [`FakeHost::done`].
#[must_use]
pub fn outcome(subconn: SubConn, code: StatusCode, latency: std::time::Duration) -> Outcome {
    Outcome {
        call: 0,
        subconn,
        method: 0,
        code,
        not_sent: false,
        client_ended: false,
        latency: crate::nanos(latency),
        load: None,
    }
}

/// Returns the [`stats`](crate::stats) of a subconn that has had no RPCs.
#[must_use]
pub const fn summary() -> Summary {
    Summary {
        in_flight: 0,
        max_streams: 100,
        picked: 0,
        succeeded: 0,
        failed: 0,
        latency_ewma: 0,
        ready_since: 0,
    }
}

/// Distance of counts from expected shares. Returned by [`chi_square`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ChiSquare {
    /// The statistic.
    pub value: f64,
    /// Degrees of freedom.
    pub freedom: u32,
}

/// Pearson's chi-squared test of counts against shares. The shares need not add up to 1.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "tests do not count so far")]
pub fn chi_square(counts: &[usize], shares: &[f64]) -> ChiSquare {
    let scale = counts.iter().sum::<usize>() as f64 / shares.iter().sum::<f64>();
    let (mut value, mut kinds) = (0.0, 0u32);
    for (count, share) in counts.iter().zip(shares) {
        if *share > 0.0 {
            kinds += 1;
            value += (*count as f64 - share * scale).powi(2) / (share * scale);
        } else if *count > 0 {
            value = f64::INFINITY;
        }
    }
    ChiSquare { value, freedom: kinds.saturating_sub(1) }
}

impl ChiSquare {
    /// Returns whether the distance is likely to be chance: in more than 1 of 1,000 cases chance alone would exceed it
    /// (approximation of Wilson and Hilferty, 1931).
    #[must_use]
    pub fn is_likely(&self) -> bool {
        if self.freedom == 0 {
            return self.value < 1e-9;
        }
        let ninths = 2.0 / (9.0 * f64::from(self.freedom));
        // 3.09 standard deviations of a normal distribution.
        self.value <= f64::from(self.freedom) * (1.0 - ninths + 3.09 * ninths.sqrt()).powi(3)
    }
}

impl<P: Policy> FakeHost<P> {
    /// Starts a policy, with seed 0.
    ///
    /// # Errors
    ///
    /// The error of the policy's `init`.
    pub fn start(config: &str) -> Result<Self, String> {
        Self::start_with_seed(config, 0)
    }

    /// Starts a policy. The random numbers that it gets depend only on the seed.
    ///
    /// # Errors
    ///
    /// The error of the policy's `init`.
    pub fn start_with_seed(config: &str, seed: u64) -> Result<Self, String> {
        let target = "fake:///".to_owned();
        Self::start_at(config, &Placement { target, shard: 0, shards: 1, seed, generation: 1 })
    }

    /// Starts a policy with this placement.
    ///
    /// # Errors
    ///
    /// The error of the policy's `init`.
    pub fn start_at(config: &str, placement: &Placement) -> Result<Self, String> {
        let random = Random::new(placement.seed);
        fake::with(|host| *host = fake::Host { in_init: true, random, ..fake::Host::default() });
        let policy = P::init(config, placement);
        fake::with(|host| host.in_init = false);
        Ok(Self { policy: policy?, calls: 0 })
    }

    /// Starts a policy as one of two instances. Some policies refuse that.
    ///
    /// # Errors
    ///
    /// The error of the policy's `init`.
    pub fn start_as_one_of_two(config: &str) -> Result<Self, String> {
        let target = "fake:///".to_owned();
        Self::start_at(config, &Placement { target, shard: 0, shards: 2, seed: 0, generation: 1 })
    }

    /// Adds endpoints and makes all of them ready, in this order.
    pub fn endpoints(&mut self, endpoints: &[Endpoint]) {
        self.policy.endpoints(endpoints, &[], crate::env::now());
        self.ready(&endpoints.iter().map(|endpoint| endpoint.id).collect::<Vec<_>>());
    }

    /// Adds and removes endpoints.
    pub fn change(&mut self, added: &[Endpoint], removed: &[SubConn]) {
        self.policy.endpoints(added, removed, crate::env::now());
    }

    /// Makes exactly these subconns ready.
    pub fn ready(&mut self, ready: &[SubConn]) {
        self.policy.ready(ready, crate::env::now());
    }

    /// Picks for an RPC.
    pub fn pick(&mut self, rpc: &Rpc) -> PickResult {
        self.calls += 1;
        let info = fake::with(|host| {
            host.rpc = Some(rpc.clone());
            host.explanation = None;
            host.added.clear();
            let (method, affinity) = (host.method(&rpc.method), host.affinity());
            PickInfo {
                call: self.calls,
                method,
                affinity,
                random: host.next_random(),
                now: host.now,
                attempt: u32::try_from(rpc.tried.len()).unwrap_or(u32::MAX),
                wait_for_ready: false,
                requeued: false,
            }
        });
        let result = self.policy.pick(&info);
        fake::with(|host| host.rpc = None);
        result
    }

    /// Picks `n` times for RPCs without metadata. Returns the picked subconns; other results are left out.
    pub fn picks(&mut self, n: usize) -> Vec<SubConn> {
        self.picks_for(&Rpc::default(), n)
    }

    /// Picks `n` times for such RPCs. Returns the picked subconns; other results are left out.
    pub fn picks_for(&mut self, rpc: &Rpc, n: usize) -> Vec<SubConn> {
        (0..n)
            .filter_map(|_| if let PickResult::Pick(id) = self.pick(rpc) { Some(id) } else { None })
            .collect()
    }

    /// Returns how many of `n` picks for RPCs without metadata went to each of these subconns.
    pub fn counts(&mut self, ids: &[SubConn], n: usize) -> Vec<usize> {
        let picks = self.picks(n);
        ids.iter().map(|id| picks.iter().filter(|picked| *picked == id).count()).collect()
    }

    /// Returns the policy, to inspect its state.
    #[must_use]
    pub const fn policy(&self) -> &P {
        &self.policy
    }

    /// Returns the policy, to change its state.
    pub const fn policy_mut(&mut self) -> &mut P {
        &mut self.policy
    }

    /// Sets what [`stats`](crate::stats) returns for a subconn.
    pub fn set_stats(&mut self, id: SubConn, summary: Summary) {
        fake::with(|host| host.stats.insert(id, summary));
    }

    /// Returns whether the policy has declared that it decides when to connect.
    #[must_use]
    pub fn is_lazy(&self) -> bool {
        fake::with(|host| host.lazy)
    }

    /// Returns and clears the requests of the policy, in order: to connect a subconn (true) or to disconnect it
    /// (false).
    pub fn take_connects(&mut self) -> Vec<(SubConn, bool)> {
        fake::with(|host| std::mem::take(&mut host.connects))
    }

    /// Returns how often the policy has requested a new resolution.
    #[must_use]
    pub fn resolves(&self) -> u32 {
        fake::with(|host| host.resolves)
    }

    /// Returns the sum of a counter, or the last value of a gauge or histogram. `None` if there is no such instrument.
    #[must_use]
    pub fn measured(&self, name: &str) -> Option<f64> {
        fake::with(|host| host.instruments.iter().find(|(known, _)| known == name).map(|(_, value)| *value))
    }

    /// Advances the clock.
    pub fn advance(&mut self, by: std::time::Duration) {
        fake::with(|host| host.now += crate::nanos(by));
    }

    /// Returns the text that the last pick explained its result with. `None` if there was none.
    #[must_use]
    pub fn explanation(&self) -> Option<String> {
        fake::with(|host| host.explanation.clone())
    }

    /// Returns the metadata that the last pick added to the request.
    #[must_use]
    pub fn added_metadata(&self) -> Vec<(String, Vec<u8>)> {
        fake::with(|host| host.added.clone())
    }

    /// Returns what the policy has logged.
    #[must_use]
    pub fn log(&self) -> Vec<(Level, String)> {
        fake::with(|host| host.log.clone())
    }
}

impl<P: Plans> FakeHost<P> {
    /// Requests a plan. Takes one random number, as a pick does.
    pub fn plan(&mut self, budget: usize) -> Plan {
        self.policy.plan(budget, crate::env::random(), crate::env::now())
    }
}

impl<P: Outcomes> FakeHost<P> {
    /// Reports outcomes of RPCs.
    pub fn done(&mut self, batch: &[Outcome]) {
        self.policy.done(batch, crate::env::now());
    }
}

impl<P: Connectivity> FakeHost<P> {
    /// Reports a new state of a subconn.
    pub fn connectivity(&mut self, id: SubConn, state: ConnectivityState, message: &str) {
        self.policy.connectivity(id, state, message, crate::env::now());
    }
}

impl<P: Alarms> FakeHost<P> {
    /// Advances the clock, and delivers the timers that expire, in order.
    pub fn run(&mut self, by: std::time::Duration) {
        let end = crate::env::now() + crate::nanos(by);
        loop {
            let due = fake::with(|host| {
                let (id, at) = host.timers.iter().map(|(id, at)| (*id, *at)).min_by_key(|(_, at)| *at)?;
                (at <= end).then(|| {
                    host.timers.remove(&id);
                    host.now = host.now.max(at);
                    id
                })
            });
            match due {
                Some(id) => self.policy.fired(id, crate::env::now()),
                None => return fake::with(|host| host.now = end),
            }
        }
    }
}

impl<P: Handover> FakeHost<P> {
    /// Returns the state that the policy hands over.
    pub fn save(&mut self) -> Saved {
        self.policy.save()
    }

    /// Hands saved state over to the policy, which has just been started.
    ///
    /// # Errors
    ///
    /// The error of the policy's `restore`.
    pub fn restore(&mut self, parts: Vec<Saved>) -> Result<(), String> {
        self.policy.restore(parts)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Nanos, StatusCode, connections, metrics, stats, timers};

    /// Uses a little of everything.
    struct Everything {
        ready: Vec<SubConn>,
        failed: metrics::Counter,
        fired: u32,
    }

    impl Policy for Everything {
        fn init(_config: &str, _placement: &Placement) -> Result<Self, String> {
            connections::declare_lazy();
            timers::schedule(1, 1_000)?;
            Ok(Self { ready: Vec::new(), failed: metrics::Counter::new("failed", "")?, fired: 0 })
        }

        fn ready(&mut self, ready: &[SubConn], _now: Nanos) {
            self.ready = ready.to_vec();
        }

        fn pick(&mut self, _info: &PickInfo) -> PickResult {
            let least = stats::least(&self.ready, stats::Measure::InFlight);
            least.map_or(PickResult::Queue, PickResult::Pick)
        }
    }

    impl Outcomes for Everything {
        fn done(&mut self, batch: &[Outcome], _now: Nanos) {
            let failed = batch.iter().filter(|outcome| outcome.code != StatusCode::Ok).count();
            self.failed.add(failed as u64);
        }
    }

    impl Connectivity for Everything {
        fn connectivity(&mut self, id: SubConn, state: ConnectivityState, _message: &str, _now: Nanos) {
            if state == ConnectivityState::Idle {
                connections::connect(id);
            }
        }
    }

    impl Alarms for Everything {
        fn fired(&mut self, id: u32, _now: Nanos) {
            self.fired += 1;
            timers::schedule(id, 1_000).expect("a timer");
        }
    }

    impl Handover for Everything {
        fn save(&mut self) -> Saved {
            Saved { schema: 1, data: self.fired.to_le_bytes().to_vec() }
        }

        fn restore(&mut self, parts: Vec<Saved>) -> Result<(), String> {
            let part = parts.first().filter(|part| part.schema == 1).ok_or("another format")?;
            let bytes = part.data.first_chunk().ok_or("too short")?;
            self.fired = u32::from_le_bytes(*bytes);
            Ok(())
        }
    }

    crate::export!(Everything: Outcomes, Connectivity, Alarms, Handover);

    fn idle(in_flight: u32) -> Summary {
        Summary { in_flight, ..summary() }
    }

    #[test]
    fn every_part_of_the_contract_has_its_side_in_the_fake_host() {
        let mut host = FakeHost::<Everything>::start("{}").expect("started");
        assert!(host.is_lazy());
        host.set_stats(4, idle(7));
        host.set_stats(5, idle(3));
        host.ready(&[4, 5]);
        assert_eq!(host.picks(1), [5]);
        host.connectivity(4, ConnectivityState::Idle, "");
        assert_eq!(host.take_connects(), [(4, true)]);
        host.done(&[
            outcome(4, StatusCode::Ok, Duration::ZERO),
            outcome(5, StatusCode::Unavailable, Duration::ZERO),
        ]);
        assert_eq!(host.measured("failed"), Some(1.0));
        host.run(Duration::from_nanos(3_500));
        let saved = host.save();
        assert_eq!(saved.data, [3, 0, 0, 0]);
        let mut next = FakeHost::<Everything>::start("{}").expect("started");
        assert_eq!(
            next.restore(vec![Saved { schema: 2, data: Vec::new() }]),
            Err("another format".to_owned())
        );
        next.restore(vec![saved]).expect("taken over");
        next.run(Duration::from_nanos(1_000));
        assert_eq!(next.save().data, [4, 0, 0, 0]);
    }
}
