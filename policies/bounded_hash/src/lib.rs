//! `bounded_hash`: consistent hashing with bounded loads. An RPC goes to the owner of its key, unless the owner has its
//! share of the RPCs in flight already. In that case it goes to the next endpoint on the ring with less than its share.
//!
//! Follows Mirrokni, Thorup and Zadimoghaddam (2016). No endpoint has more than (1 + epsilon) times the mean, rounded
//! up, and with n endpoints a key is at its owner except for O(1/epsilon^2) of them. The policy counts the RPCs that it
//! has picked for and whose end has not been reported. Reports arrive some milliseconds late.

#[cfg(test)]
mod model;

use hotpick_guest::config::Config as _;
use hotpick_guest::key::{HashOn, Key};
use hotpick_guest::ring::Ring;
use hotpick_guest::{
    About, Description, Endpoint, Nanos, Outcome, Outcomes, PickInfo, PickResult, Placement, Policy, SubConn,
    SubConnMap, Weights, call,
};

hotpick_guest::config! {
    /// Consistent hashing with bounded loads.
    struct Config {
        /// What is hashed: "metadata:" and a key, "method", or "random".
        hash_on: HashOn = HashOn::hash_key(),
        /// How far an endpoint's load may exceed the mean: 0.25 is a quarter.
        #[range(0.01..=100.0)]
        epsilon: f64 = 0.25,
        /// Least number of points on the ring.
        #[range(1..=32_768)]
        min_ring_size: u32 = 1_024,
        /// Greatest number of points on the ring, however many endpoints there are.
        #[range(1..=32_768)]
        max_ring_size: u32 = 32_768,
    }
}

#[derive(Debug)]
struct BoundedHash {
    config: Config,
    key: Key,
    ring: Ring,
    weights: Weights,
    loads: SubConnMap<Load>,
    ready: Vec<SubConn>,
    /// RPCs in flight to ready endpoints.
    total: u32,
    /// Sum of the weights of ready endpoints.
    ready_weight: f64,
}

/// Load of an endpoint.
#[derive(Debug, Default)]
struct Load {
    /// RPCs in flight to the endpoint, whether it is ready or not.
    rpcs: u32,
    is_ready: bool,
}

impl Policy for BoundedHash {
    fn init(config: &str, placement: &Placement) -> Result<Self, String> {
        let config = Config::parse(config)?;
        placement
            .must_be_alone("each of several would count only its own RPCs, and exceed the bound together")?;
        if config.min_ring_size > config.max_ring_size {
            return Err("minRingSize: must not be greater than maxRingSize".to_owned());
        }
        let key = Key::declare(config.hash_on.clone(), "hashOn")?;
        Ok(Self {
            key,
            ring: Ring::new(config.min_ring_size, config.max_ring_size),
            weights: Weights::default(),
            config,
            loads: SubConnMap::default(),
            ready: Vec::new(),
            total: 0,
            ready_weight: 0.0,
        })
    }

    fn endpoints(&mut self, added: &[Endpoint], removed: &[SubConn], _now: Nanos) {
        for id in removed {
            self.loads.remove(*id);
        }
        for endpoint in added {
            self.loads.get_or_insert_with(endpoint.id, Load::default);
        }
        self.weights.update(added, removed);
        self.ring.update(added, removed);
        self.count();
    }

    fn ready(&mut self, ready: &[SubConn], _now: Nanos) {
        self.ready = ready.to_vec();
        self.loads.values_mut().for_each(|load| load.is_ready = false);
        for id in ready {
            self.loads.get_or_insert_with(*id, Load::default).is_ready = true;
        }
        self.count();
    }

    fn pick(&mut self, info: &PickInfo) -> PickResult {
        let hash = self.key.of(info).unwrap_or(info.random);
        let each = f64::from(self.total + 1) / self.ready_weight * (1.0 + self.config.epsilon);
        let has_room = |id: &SubConn| {
            let load = self.loads.get(*id);
            load.is_some_and(|load| load.is_ready && load.rpcs < capacity(each * self.weight(*id)))
        };
        let is_tried = |id: &SubConn| info.attempt > 0 && call::tried(*id);
        let mut with_room = self.ring.from(hash).filter(has_room);
        let first = with_room.next();
        // A retry goes to the next endpoint with capacity that the RPC has not tried.
        let untried = first.filter(|id| !is_tried(id)).or_else(|| with_room.find(|id| !is_tried(id)));
        let Some(picked) = untried.or(first).or_else(|| self.least_loaded()) else {
            return PickResult::Queue;
        };
        self.loads.get_or_insert_with(picked, Load::default).rpcs += 1;
        self.total += 1;
        PickResult::Pick(picked)
    }
}

/// Returns the greatest number of RPCs of an endpoint, including the next one.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "RPCs in flight")]
fn capacity(share: f64) -> u32 {
    // Without the margin, the rounding error of a share such as 1/3 could add an RPC.
    (share - 1e-9).ceil() as u32
}

impl BoundedHash {
    fn load(&self, id: SubConn) -> u32 {
        self.loads.get(id).map_or(0, |load| load.rpcs)
    }

    fn weight(&self, id: SubConn) -> f64 {
        f64::from(self.weights.of(id))
    }

    /// Adds up the RPCs and weights of the ready endpoints.
    fn count(&mut self) {
        self.total = self.ready.iter().map(|id| self.load(*id)).sum();
        self.ready_weight = self.ready.iter().map(|id| self.weight(*id)).sum();
    }

    /// Picks when no ready endpoint with capacity has a point on the ring, because `maxRingSize` is less than the
    /// number of endpoints.
    fn least_loaded(&self) -> Option<SubConn> {
        self.ready.iter().copied().min_by_key(|id| self.load(*id))
    }
}

impl Outcomes for BoundedHash {
    fn done(&mut self, batch: &[Outcome], _now: Nanos) {
        for outcome in batch {
            if let Some(load) = self.loads.get_mut(outcome.subconn).filter(|load| load.rpcs > 0) {
                load.rpcs -= 1;
                self.total -= u32::from(load.is_ready);
            }
        }
    }
}

impl About for BoundedHash {
    fn describe() -> Description {
        Description::of::<Config>(
            "Consistent hashing with bounded loads: no endpoint gets much more than the mean.",
        )
    }
}

hotpick_guest::export!(BoundedHash: Outcomes, About);

#[cfg(test)]
mod tests {
    use hotpick_guest::random::Random;
    use hotpick_guest::testing::{FakeHost, Rpc, endpoint, outcome};
    use hotpick_guest::{Duration, StatusCode};

    use super::*;

    fn start(config: &str, n: u32) -> FakeHost<BoundedHash> {
        let mut host = FakeHost::start(config).expect("started");
        host.endpoints(&(0..n).map(|id| endpoint(id, &[])).collect::<Vec<_>>());
        host
    }

    fn rpc(key: usize) -> Rpc {
        Rpc::with_metadata("hash-key", &format!("user-{key}"))
    }

    fn end(host: &mut FakeHost<BoundedHash>, id: SubConn) {
        host.done(&[outcome(id, StatusCode::Ok, Duration::ZERO)]);
    }

    #[test]
    fn a_key_has_its_owner_as_long_as_there_is_room() {
        let mut host = start("{}", 5);
        let owner = host.picks_for(&rpc(1), 1)[0];
        end(&mut host, owner);
        for _ in 0..10 {
            assert_eq!(host.picks_for(&rpc(1), 1), [owner]);
            end(&mut host, owner);
        }
        // The owner may not have both of two RPCs: 2 is more than 1.25 times 2/5, rounded up.
        let two = host.picks_for(&rpc(1), 2);
        assert!(two[0] == owner && two[1] != owner);
    }

    #[test]
    fn no_endpoint_has_more_than_its_bound_whatever_comes() {
        for (epsilon, n) in [(0.1, 3u32), (0.25, 10), (1.0, 10), (0.25, 100)] {
            let mut host = start(&format!(r#"{{"epsilon":{epsilon}}}"#), n);
            let (mut random, mut under_way) = (Random::new(n.into()), Vec::new());
            for round in 0..5_000 {
                // One key in three is the same. Plain hashing would send a third of the RPCs to one endpoint.
                let key = if random.below(3) == 0 { 0 } else { random.below(1_000) };
                under_way.extend(host.picks_for(&rpc(key), 1));
                assert_eq!(host.policy().total as usize, under_way.len());
                let bound = (under_way.len() as f64 / f64::from(n) * (1.0 + epsilon) - 1e-9).ceil();
                let picked = under_way.last().expect("picked");
                assert!(
                    host.policy().loads.get(*picked).is_some_and(|load| f64::from(load.rpcs) <= bound),
                    "round {round}"
                );
                // About 200 in flight.
                if under_way.len() > random.below(400) {
                    let ended = under_way.swap_remove(random.below(under_way.len()));
                    end(&mut host, ended);
                }
            }
        }
    }

    #[test]
    fn an_endpoint_that_is_not_ready_is_passed_over_and_its_rpcs_are_not_forgotten() {
        let mut host = start("{}", 3);
        let owner = host.picks_for(&rpc(1), 1)[0];
        let others: Vec<_> = (0..3).filter(|id| *id != owner).collect();
        host.ready(&others);
        assert_eq!(host.policy().total, 0);
        assert_ne!(host.picks_for(&rpc(1), 1), [owner]);
        // It leaves gracefully: its RPCs continue, even when it is back.
        host.ready(&[0, 1, 2]);
        assert_eq!(host.policy().total, 2);
        end(&mut host, owner);
        assert_eq!(host.policy().total, 1);
        end(&mut host, owner);
        assert_eq!(host.policy().total, 1, "what never was does not end");
        host.ready(&[]);
        assert_eq!(host.pick(&rpc(1)), PickResult::Queue);
    }

    #[test]
    fn the_bound_goes_by_weight() {
        let mut host = FakeHost::<BoundedHash>::start(r#"{"epsilon":0.1}"#).expect("started");
        let heavy = Endpoint { weight: 3, ..endpoint(0, &[]) };
        host.endpoints(&[heavy, endpoint(1, &[])]);
        let mut counts = [0u32; 2];
        host.picks(400).into_iter().for_each(|id| counts[id as usize] += 1);
        assert!(counts[0] <= 330 && counts[1] <= 110, "{counts:?}");
    }

    #[test]
    fn bad_configuration_is_refused_by_the_name_of_its_field() {
        for (config, field) in [
            (r#"{"epsilon":0}"#, "epsilon: must be a number, 0.01 to 100, not 0"),
            (r#"{"epsilon":-0.5}"#, "epsilon: "),
            (r#"{"epsilon":1e308}"#, "epsilon: "),
            (r#"{"epsilon":"0.25"}"#, "epsilon: "),
            (r#"{"minRingSize":100000}"#, "minRingSize: "),
            (r#"{"maxRingSize":100}"#, "minRingSize: must not be greater than maxRingSize"),
            (r#"{"hashOn":""}"#, "hashOn: "),
            (r#"{"eps":1}"#, "eps: no such field"),
        ] {
            let error = FakeHost::<BoundedHash>::start(config).expect_err(config);
            assert!(error.starts_with(field), "{config}: {error}");
        }
    }
}
