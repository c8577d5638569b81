//! `ring_hash`: consistent hashing on a ring. RPCs with the same key go to the same endpoint. When an endpoint is added
//! or removed, only the keys of its share move.
//!
//! Follows gRFCs A42 and A61 (the ring and its picks), A76 (the key from metadata; random without it) and Envoy. An
//! endpoint is connected when the first RPC is for it. An endpoint that cannot be reached is skipped: the next one on
//! the ring takes its keys until it is back.

#[cfg(test)]
mod model;

use hotpick_guest::config::Config as _;
use hotpick_guest::key::{HashOn, Key};
use hotpick_guest::ring::Ring;
use hotpick_guest::states::States;
use hotpick_guest::{
    About, Connectivity, ConnectivityState, Description, Endpoint, FailCode, Nanos, PickInfo, PickResult,
    Placement, Policy, SubConn, call, connections,
};

hotpick_guest::config! {
    /// Consistent hashing on a ring.
    struct Config {
        /// What is hashed: "metadata:" and a key, "method", or "random".
        hash_on: HashOn = HashOn::hash_key(),
        /// Least number of points on the ring.
        #[range(1..=32_768)]
        min_ring_size: u32 = 1_024,
        /// Greatest number of points on the ring, however many endpoints there are.
        #[range(1..=32_768)]
        max_ring_size: u32 = 4_096,
    }
}

#[derive(Debug)]
struct RingHash {
    key: Key,
    ring: Ring,
    states: States,
    /// Whether an endpoint was asked to connect and no state has been reported since.
    woken: bool,
    /// Why the last endpoint failed.
    error: String,
}

impl Policy for RingHash {
    fn init(config: &str, _placement: &Placement) -> Result<Self, String> {
        let config = Config::parse(config)?;
        if config.min_ring_size > config.max_ring_size {
            return Err("minRingSize: must not be greater than maxRingSize".to_owned());
        }
        let key = Key::declare(config.hash_on.clone(), "hashOn")?;
        connections::declare_lazy();
        Ok(Self {
            key,
            ring: Ring::new(config.min_ring_size, config.max_ring_size),
            states: States::default(),
            woken: false,
            error: String::new(),
        })
    }

    fn endpoints(&mut self, added: &[Endpoint], removed: &[SubConn], _now: Nanos) {
        removed.iter().for_each(|id| self.states.remove(*id));
        self.woken = false;
        self.ring.update(added, removed);
    }

    fn ready(&mut self, _ready: &[SubConn], _now: Nanos) {}

    fn pick(&mut self, info: &PickInfo) -> PickResult {
        let [ready, connecting, failed] =
            [ConnectivityState::Ready, ConnectivityState::Connecting, ConnectivityState::TransientFailure]
                .map(|state| self.states.count(state));
        if failed == self.ring.places().len() {
            call::explain(if failed == 0 { "the target has no endpoints" } else { &self.error });
            return PickResult::Fail(FailCode::Unavailable);
        }
        match self.key.of(info) {
            Some(hash) => self.first_that_may_serve(hash, info),
            // One connection at a time. Otherwise each of many RPCs would connect another endpoint.
            None if ready == 0 && (connecting > 0 || std::mem::replace(&mut self.woken, true)) => {
                PickResult::Queue
            }
            None if ready == 0 => self.first_that_may_serve(info.random, info),
            None => self.first_ready(info),
        }
    }
}

impl RingHash {
    /// Picks the owner of a hash, or the next endpoint if the owner has failed or if this is a retry that has tried it.
    /// An idle endpoint is connected, and the RPC waits for it.
    fn first_that_may_serve(&self, hash: u64, info: &PickInfo) -> PickResult {
        let mut may_serve = self.ring.from(hash).filter(|id| !self.states.has_failed(*id));
        let first = may_serve.next();
        let is_tried = |id: SubConn| info.attempt > 0 && call::tried(id);
        let untried = first.filter(|id| !is_tried(*id)).or_else(|| may_serve.find(|id| !is_tried(*id)));
        // With fewer points than endpoints, all endpoints that have points may have failed.
        untried.or(first).map_or(PickResult::Fail(FailCode::Unavailable), PickResult::Pick)
    }

    /// Picks for an RPC that may go to any endpoint: a ready one, so that it need not wait. On the way, connects an
    /// idle one, one at a time, so that the load spreads (gRFC A76).
    fn first_ready(&self, info: &PickInfo) -> PickResult {
        let mut may_connect = self.states.count(ConnectivityState::Connecting) == 0;
        let mut first = None;
        for id in self.ring.from(info.random) {
            match self.states.of(id) {
                ConnectivityState::Ready => {
                    first.get_or_insert(id);
                    if info.attempt == 0 || !call::tried(id) {
                        return PickResult::Pick(id);
                    }
                }
                ConnectivityState::Idle if may_connect => {
                    connections::connect(id);
                    may_connect = false;
                }
                _ => {}
            }
        }
        // If no ready endpoint has a point on the ring, connect one that has.
        first.map_or_else(|| self.first_that_may_serve(info.random, info), PickResult::Pick)
    }
}

impl Connectivity for RingHash {
    fn connectivity(&mut self, id: SubConn, state: ConnectivityState, message: &str, _now: Nanos) {
        self.woken = false;
        let before = self.states.note(id, state);
        if state == ConnectivityState::TransientFailure {
            self.error = format!("no endpoint can be reached; last error: {message}");
        }
        // A failed endpoint reconnects by itself, because no RPC is sent to it.
        if before == ConnectivityState::TransientFailure && state == ConnectivityState::Idle {
            connections::connect(id);
        }
    }
}

impl About for RingHash {
    fn describe() -> Description {
        Description::of::<Config>("Consistent hashing on a ring: the same key goes to the same endpoint.")
    }
}

hotpick_guest::export!(RingHash: Connectivity, About);

#[cfg(test)]
mod tests {
    use hotpick_guest::testing::{FakeHost, Rpc, endpoint};

    use super::*;

    fn start(config: &str, n: u32) -> FakeHost<RingHash> {
        let mut host = FakeHost::start(config).expect("started");
        assert!(host.is_lazy());
        host.change(&(0..n).map(|id| endpoint(id, &[])).collect::<Vec<_>>(), &[]);
        host
    }

    fn all_ready(n: u32) -> FakeHost<RingHash> {
        let mut host = start("{}", n);
        for id in 0..n {
            host.connectivity(id, ConnectivityState::Ready, "");
        }
        host
    }

    fn rpc(key: u32) -> Rpc {
        Rpc::with_metadata("hash-key", &format!("user-{key}"))
    }

    fn owner(host: &mut FakeHost<RingHash>, key: u32) -> SubConn {
        match host.pick(&rpc(key)) {
            PickResult::Pick(id) => id,
            other => panic!("{other:?}"),
        }
    }

    fn owners(host: &mut FakeHost<RingHash>) -> Vec<SubConn> {
        (0..1_000).map(|key| owner(host, key)).collect()
    }

    #[test]
    fn the_same_key_goes_to_the_same_endpoint_and_few_keys_move() {
        let mut host = all_ready(10);
        let before = owners(&mut host);
        assert_eq!(owners(&mut host), before);
        host.change(&[], &[3]);
        let after = owners(&mut host);
        let moved =
            before.iter().zip(&after).filter(|(before, after)| before != after && **before != 3).count();
        // In addition to its own hundred: nine endpoints have 114 points each on a ring of 1,024, ten have 103.
        assert!(moved < 150, "{moved} keys of others");
        host.change(&[endpoint(3, &[])], &[]);
        assert_eq!(owners(&mut host), before);
    }

    #[test]
    fn the_owner_is_connected_and_the_rpc_waits_for_it() {
        let mut host = start("{}", 3);
        assert!(host.take_connects().is_empty(), "nothing without an RPC");
        let own = owner(&mut host, 1);
        host.connectivity(own, ConnectivityState::Connecting, "");
        assert_eq!(owner(&mut host, 1), own);
        host.connectivity(own, ConnectivityState::TransientFailure, "refused");
        let next = owner(&mut host, 1);
        assert_ne!(next, own);
        // RPCs do not wait for it between two attempts, or during them.
        host.connectivity(own, ConnectivityState::Idle, "");
        assert_eq!(host.take_connects(), [(own, true)]);
        host.connectivity(own, ConnectivityState::Connecting, "");
        assert_eq!(owner(&mut host, 1), next);
        host.connectivity(own, ConnectivityState::Ready, "");
        assert_eq!(owner(&mut host, 1), own);
    }

    #[test]
    fn if_all_have_failed_rpcs_fail_with_the_reason() {
        let mut host = start("{}", 3);
        for id in 0..3 {
            host.connectivity(id, ConnectivityState::TransientFailure, "connection refused");
        }
        assert_eq!(host.pick(&rpc(1)), PickResult::Fail(FailCode::Unavailable));
        let text = "no endpoint can be reached; last error: connection refused";
        assert_eq!(host.explanation().as_deref(), Some(text));
    }

    #[test]
    fn rpcs_without_the_key_go_where_it_is_ready_and_connect_one_more() {
        let mut host = start("{}", 4);
        host.connectivity(2, ConnectivityState::Ready, "");
        let mut connects = Vec::new();
        for _ in 0..50 {
            assert_eq!(host.pick(&Rpc::default()), PickResult::Pick(2));
            for (id, _) in host.take_connects() {
                host.connectivity(id, ConnectivityState::Connecting, "");
                connects.push(id);
            }
        }
        assert_eq!(connects.len(), 1, "one at a time");
    }

    #[test]
    fn rpcs_without_the_key_connect_one_at_a_time_if_none_is_ready() {
        let mut host = start("{}", 4);
        let first = host.picks(1)[0];
        assert_eq!(host.picks(50), [], "they wait");
        host.connectivity(first, ConnectivityState::Connecting, "");
        assert_eq!(host.picks(50), []);
        host.connectivity(first, ConnectivityState::TransientFailure, "refused");
        assert!(host.picks(1).first().is_some_and(|second| *second != first));
    }

    #[test]
    fn a_retry_goes_to_the_next_on_the_ring() {
        let mut host = all_ready(5);
        let own = owner(&mut host, 1);
        let mut tried = rpc(1);
        tried.tried.push(own);
        let PickResult::Pick(next) = host.pick(&tried) else { panic!("no endpoint") };
        assert_ne!(next, own);
        host.change(&[], &[own]);
        assert_eq!(owner(&mut host, 1), next, "where the key would move");
        let mut alone = all_ready(1);
        tried.tried = vec![0];
        assert_eq!(alone.pick(&tried), PickResult::Pick(0), "there is no other");
    }

    #[test]
    fn nothing_is_no_key_and_several_values_are_one() {
        let mut host = all_ready(10);
        let mut picked = host.picks_for(&Rpc::with_metadata("hash-key", ""), 200);
        picked.sort_unstable();
        picked.dedup();
        assert!(picked.len() > 5, "{picked:?}");
        // gRFC A76: several values are joined.
        let several = Rpc::with_metadata("hash-key", "a").and_metadata("hash-key", "b");
        assert_eq!(host.pick(&several), host.pick(&Rpc::with_metadata("hash-key", "a,b")));
        let other =
            (0..20).map(|n| Rpc::with_metadata("hash-key", "a").and_metadata("hash-key", &format!("{n}")));
        let mut picked: Vec<_> = other.flat_map(|rpc| host.picks_for(&rpc, 1)).collect();
        picked.dedup();
        assert!(picked.len() > 5, "{picked:?}");
    }

    #[test]
    fn without_an_endpoint_it_says_so() {
        let mut host = start("{}", 1);
        host.change(&[], &[0]);
        assert_eq!(host.pick(&rpc(1)), PickResult::Fail(FailCode::Unavailable));
        assert_eq!(host.explanation().as_deref(), Some("the target has no endpoints"));
    }

    #[test]
    fn the_method_can_be_the_key() {
        let mut host = start(r#"{"hashOn":"method"}"#, 10);
        let method = |name: &str| {
            let mut rpc = Rpc::default();
            name.clone_into(&mut rpc.method);
            rpc
        };
        let mut picked: Vec<_> = (0..20).map(|n| host.pick(&method(&format!("/a.B/{n}")))).collect();
        assert_eq!(host.pick(&method("/a.B/7")), picked[7]);
        picked.dedup();
        assert!(picked.len() > 5);
    }

    #[test]
    fn bad_configuration_is_refused_by_the_name_of_its_field() {
        for (config, field) in [
            (r#"{"minRingSize":0}"#, "minRingSize: must be a whole number, 1 to 32768, not 0"),
            (r#"{"maxRingSize":-1}"#, "maxRingSize: "),
            (r#"{"maxRingSize":1e12}"#, "maxRingSize: "),
            (r#"{"minRingSize":8192}"#, "minRingSize: must not be greater than maxRingSize"),
            (r#"{"hashOn":"cookie"}"#, "hashOn: must be \"metadata:\" and a key"),
            (r#"{"hashOn":"metadata:"}"#, "hashOn: "),
            (r#"{"hashOn":"metadata:User Id"}"#, "hashOn: "),
            (r#"{"hashOn":"metadata:key-bin"}"#, "hashOn: must not be a binary key"),
            (r#"{"hashOn":7}"#, "hashOn: "),
            (r#"{"requestHashHeader":"x"}"#, "requestHashHeader: no such field"),
        ] {
            let error = FakeHost::<RingHash>::start(config).expect_err(config);
            assert!(error.starts_with(field), "{config}: {error}");
        }
    }
}
