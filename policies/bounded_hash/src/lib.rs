//! `bounded_hash`: consistent hashing with bounded loads. An RPC goes to the owner of its key, if that has not more
//! than its share of the RPCs under way; otherwise to the next one on the ring that has not.
//!
//! After Mirrokni, Thorup and Zadimoghaddam (2016): no endpoint has more than (1 + epsilon) times the mean, rounded
//! up, and with n endpoints a key has its owner but for O(1/epsilon^2) of them. What is counted are the RPCs that
//! this policy has picked for and that have not ended, as far as it has been told: some milliseconds late.

#[cfg(test)]
mod model;

use hotpick_guest::config::Config as _;
use hotpick_guest::key::{HashOn, Key};
use hotpick_guest::ring::Ring;
use hotpick_guest::{
    About, Description, Endpoint, Nanos, Outcome, Outcomes, PickInfo, PickResult, Placement, Policy, SubConn,
    SubConnMap, call,
};

hotpick_guest::config! {
    /// Consistent hashing with bounded loads.
    struct Config {
        /// What is hashed: "metadata:" and a key, "method", or "random".
        hash_on: HashOn = HashOn::hash_key(),
        /// How far above the mean an endpoint's load may be: 0.25 is a quarter.
        #[range(0.01..=100.0)]
        epsilon: f64 = 0.25,
        /// The ring has at least so many points.
        #[range(1..=32_768)]
        min_ring_size: u32 = 1_024,
        /// And at most so many, however many endpoints there are.
        #[range(1..=32_768)]
        max_ring_size: u32 = 32_768,
    }
}

#[derive(Debug)]
struct BoundedHash {
    config: Config,
    key: Key,
    ring: Ring,
    loads: SubConnMap<Load>,
    ready: Vec<SubConn>,
    /// RPCs under way to the ready ones, and their weights.
    total: u32,
    weights: f64,
}

/// Of an endpoint.
#[derive(Debug, Default)]
struct Load {
    /// RPCs under way to it, ready or not.
    rpcs: u32,
    is_ready: bool,
}

impl Policy for BoundedHash {
    fn init(config: &str, placement: &Placement) -> Result<Self, String> {
        let config = Config::parse(config)?;
        placement
            .must_be_alone("each of several would count its own RPCs, and let an endpoint have so many")?;
        if config.min_ring_size > config.max_ring_size {
            return Err("minRingSize: must not be more than maxRingSize".to_owned());
        }
        let key = Key::declare(config.hash_on.clone(), "hashOn")?;
        Ok(Self {
            key,
            ring: Ring::new(config.min_ring_size, config.max_ring_size),
            config,
            loads: SubConnMap::default(),
            ready: Vec::new(),
            total: 0,
            weights: 0.0,
        })
    }

    fn endpoints(&mut self, added: &[Endpoint], removed: &[SubConn], _now: Nanos) {
        for id in removed {
            self.loads.remove(*id);
        }
        for endpoint in added {
            self.loads.get_or_insert_with(endpoint.id, Load::default);
        }
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
        let each = f64::from(self.total + 1) / self.weights * (1.0 + self.config.epsilon);
        let has_room = |id: &SubConn| {
            let load = self.loads.get(*id);
            load.is_some_and(|load| load.is_ready && load.rpcs < capacity(each * self.weight(*id)))
        };
        let is_tried = |id: &SubConn| info.attempt > 0 && call::tried(*id);
        let mut with_room = self.ring.from(hash).filter(has_room);
        let first = with_room.next();
        // A retry goes to the next one that has room.
        let untried = first.filter(|id| !is_tried(id)).or_else(|| with_room.find(|id| !is_tried(id)));
        let Some(picked) = untried.or(first).or_else(|| self.least_loaded()) else {
            return PickResult::Queue;
        };
        self.loads.get_or_insert_with(picked, Load::default).rpcs += 1;
        self.total += 1;
        PickResult::Pick(picked)
    }
}

/// How many RPCs an endpoint may have, the next one included.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "RPCs under way")]
fn capacity(share: f64) -> u32 {
    // What a share of a third is more than a whole number by its representation is not another RPC.
    (share - 1e-9).ceil() as u32
}

impl BoundedHash {
    fn load(&self, id: SubConn) -> u32 {
        self.loads.get(id).map_or(0, |load| load.rpcs)
    }

    fn weight(&self, id: SubConn) -> f64 {
        self.ring.places().get(id).map_or(1.0, |place| f64::from(place.weight))
    }

    /// Adds up what the ready ones have.
    fn count(&mut self) {
        self.total = self.ready.iter().map(|id| self.load(*id)).sum();
        self.weights = self.ready.iter().map(|id| self.weight(*id)).sum();
    }

    /// For a ring on which no ready endpoint with room has a point: `maxRingSize` is less than there are endpoints.
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
        Description::of::<Config>("Consistent hashing, but no endpoint has much more than the mean.")
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
        // The second of two at a time may not be there: 2 of 2 is more than 1.25 times 2/5, rounded up.
        let two = host.picks_for(&rpc(1), 2);
        assert!(two[0] == owner && two[1] != owner);
    }

    #[test]
    fn no_endpoint_has_more_than_its_bound_whatever_comes() {
        for (epsilon, n) in [(0.1, 3u32), (0.25, 10), (1.0, 10), (0.25, 100)] {
            let mut host = start(&format!(r#"{{"epsilon":{epsilon}}}"#), n);
            let (mut random, mut under_way) = (Random::new(n.into()), Vec::new());
            for round in 0..5_000 {
                // One key in three is the same: what plain hashing would send to one endpoint.
                let key = if random.below(3) == 0 { 0 } else { random.below(1_000) };
                under_way.extend(host.picks_for(&rpc(key), 1));
                assert_eq!(host.policy().total as usize, under_way.len());
                let bound = (under_way.len() as f64 / f64::from(n) * (1.0 + epsilon) - 1e-9).ceil();
                let picked = under_way.last().expect("picked");
                assert!(
                    host.policy().loads.get(*picked).is_some_and(|load| f64::from(load.rpcs) <= bound),
                    "round {round}"
                );
                // Around 200 at a time.
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
        // It goes away in good order: its RPCs go on, also when it is back.
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
            (r#"{"maxRingSize":100}"#, "minRingSize: must not be more than maxRingSize"),
            (r#"{"hashOn":""}"#, "hashOn: "),
            (r#"{"eps":1}"#, "eps: no such field"),
        ] {
            let error = FakeHost::<BoundedHash>::start(config).expect_err(config);
            assert!(error.starts_with(field), "{config}: {error}");
        }
    }
}
