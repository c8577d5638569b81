//! `round_robin`: one ready subconn after the other.
//!
//! Follows grpc-go's `balancer/roundrobin`. The start is random, so that many clients do not all begin with the same
//! backend, and each pick is the next one in the resolver's order. grpc-go starts over at each change; this policy
//! keeps the turn, so that a flapping endpoint does not affect others.

#[cfg(test)]
mod model;

use hotpick_guest::config::Config as _;
use hotpick_guest::group::Rotation;
use hotpick_guest::{
    About, Description, Nanos, PickInfo, PickResult, Placement, Plan, Plans, Policy, SubConn, call,
};

hotpick_guest::config! {
    /// There is nothing to configure.
    struct Config {}
}

#[derive(Debug)]
struct RoundRobin(Rotation);

impl Policy for RoundRobin {
    fn init(config: &str, _placement: &Placement) -> Result<Self, String> {
        let Config {} = Config::parse(config)?;
        Ok(Self(Rotation::default()))
    }

    fn ready(&mut self, ready: &[SubConn], _now: Nanos) {
        self.0.update(ready.to_vec());
    }

    fn pick(&mut self, info: &PickInfo) -> PickResult {
        call::untried(info, || self.0.pick()).map_or(PickResult::Queue, PickResult::Pick)
    }
}

impl Plans for RoundRobin {
    fn plan(&mut self, budget: usize, _random: u64, _now: Nanos) -> Plan {
        self.0.plan(budget)
    }
}

impl About for RoundRobin {
    fn describe() -> Description {
        Description::of::<Config>("Picks one ready endpoint after the other, from a random start.")
    }
}

hotpick_guest::export!(RoundRobin: Plans, About);

#[cfg(test)]
mod tests {
    use hotpick_guest::testing::{FakeHost, chi_square};

    use super::*;

    fn start() -> FakeHost<RoundRobin> {
        FakeHost::start("{}").expect("no configuration is needed")
    }

    #[test]
    fn every_window_has_every_subconn_once() {
        for n in [1, 3, 10, 100, 1_000] {
            let mut host = start();
            let ready: Vec<SubConn> = (0..n).collect();
            host.ready(&ready);
            let picks = host.picks(3 * ready.len());
            for window in picks.windows(ready.len()) {
                let mut window = window.to_vec();
                window.sort_unstable();
                assert_eq!(window, ready);
            }
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
        assert!(chi_square(&firsts, &[1.0; 3]).is_likely(), "{firsts:?}");
    }

    #[test]
    fn a_flap_of_one_does_not_disturb_the_others() {
        let mut host = start();
        let mut picks = Vec::new();
        for round in 0..100 {
            host.ready(if round % 2 == 0 { &[1, 2, 3] } else { &[1, 2, 3, 4] });
            picks.extend(host.picks(2).into_iter().filter(|id| *id != 4));
        }
        for window in picks.windows(3) {
            let mut window = window.to_vec();
            window.sort_unstable();
            assert_eq!(window, [1, 2, 3]);
        }
    }

    #[test]
    fn a_plan_has_the_picks_that_would_follow() {
        let mut host = start();
        host.ready(&[4, 5, 6]);
        let turn = host.picks(3);
        for budget in [7, 1, 100] {
            let Plan::Sequence(planned) = host.plan(budget) else { panic!("no plan") };
            let called = host.picks(3 * budget - planned.len());
            let all: Vec<_> = planned.into_iter().chain(called).collect();
            assert_eq!(all, turn.repeat(budget));
        }
        host.ready(&[]);
        assert_eq!(host.plan(10), Plan::None);
    }

    /// As in a channel with few RPCs, whose endpoints change often.
    #[test]
    fn of_plans_that_are_hardly_used_each_subconn_gets_its_share() {
        for n in [2, 3, 8, 16, 64, 256] {
            let mut host = start();
            host.ready(&(0..n).collect::<Vec<_>>());
            let mut shares = vec![0; n as usize];
            for _ in 0..4 * n {
                let Plan::Sequence(planned) = host.plan(200_000) else { panic!("no plan") };
                shares[planned[0] as usize] += 1;
            }
            assert!(shares.iter().all(|share| *share == 4), "{n}: {shares:?}");
        }
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
        assert_eq!(error, "shuffle: no such field; there are none");
    }
}
