//! `round_robin`: one ready subconn after the other.
//!
//! After grpc-go's `balancer/roundrobin`: the start is random, so that many clients do not all begin
//! with the same backend, and each pick is the next one in the resolver's order. It has no
//! configuration.

use hotpick_guest::{Nanos, PickInfo, PickResult, Placement, Policy, SubConn, below, env, parse_config};

#[derive(Debug)]
struct RoundRobin {
    ready: Vec<SubConn>,
    /// Of the next pick, in `ready`.
    next: usize,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {}

impl Policy for RoundRobin {
    fn init(config: &str, _placement: &Placement) -> Result<Self, String> {
        let Config {} = parse_config(config)?;
        Ok(Self { ready: Vec::new(), next: 0 })
    }

    fn ready(&mut self, ready: &[SubConn], _now: Nanos) {
        self.ready = ready.to_vec();
        self.next = below(ready.len(), env::random());
    }

    fn pick(&mut self, _info: &PickInfo) -> PickResult {
        let Some(picked) = self.ready.get(self.next) else { return PickResult::Queue };
        self.next += 1;
        if self.next == self.ready.len() {
            self.next = 0;
        }
        PickResult::Pick(*picked)
    }
}

hotpick_guest::export!(RoundRobin);

#[cfg(test)]
mod tests {
    use hotpick_guest::testing::FakeHost;

    use super::*;

    fn start() -> FakeHost<RoundRobin> {
        FakeHost::start("{}").expect("no configuration is needed")
    }

    #[test]
    fn every_window_has_every_subconn_once() {
        let mut host = start();
        host.ready(&[3, 5, 8]);
        let picks = host.picks(300);
        for window in picks.windows(3) {
            let mut window = window.to_vec();
            window.sort_unstable();
            assert_eq!(window, [3, 5, 8]);
        }
    }

    #[test]
    fn the_start_is_random() {
        let mut firsts = [0; 3];
        for seed in 0..300 {
            let mut host = FakeHost::<RoundRobin>::start_with_seed("{}", seed).expect("started");
            host.ready(&[0, 1, 2]);
            firsts[host.picks(1)[0] as usize] += 1;
        }
        assert!(firsts.iter().all(|n| (70..130).contains(n)), "{firsts:?}");
    }

    #[test]
    fn with_nothing_ready_rpcs_are_queued() {
        let mut host = start();
        assert_eq!(host.pick(&Default::default()), PickResult::Queue);
        host.ready(&[1]);
        host.ready(&[]);
        assert_eq!(host.pick(&Default::default()), PickResult::Queue);
    }

    #[test]
    fn a_configuration_is_refused_by_the_name_of_its_field() {
        let error = FakeHost::<RoundRobin>::start(r#"{"shuffle":true}"#).expect_err("no such field");
        assert!(error.contains("shuffle"), "{error}");
    }
}
