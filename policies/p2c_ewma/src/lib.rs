//! `p2c_ewma`: of two random ready subconns, the one with the lower load: latency times the number of RPCs in flight.
//!
//! Follows the "peak EWMA" of Finagle and linkerd and go-zero's `p2c`, without the properties that make these send RPCs
//! to an endpoint that hangs; see [`Answers`].

use hotpick_guest::answers::{Answers, Cost};
use hotpick_guest::config::Config as _;
use hotpick_guest::group::random_pairs;
use hotpick_guest::random::mix;
use hotpick_guest::{
    About, Description, Duration, Endpoint, Nanos, PickInfo, PickResult, Placement, Policy, SubConn, Weights,
    below, call,
};

hotpick_guest::config! {
    /// Picks the better of two random endpoints, by latency and RPCs in flight.
    struct Config {
        /// Time after which the averages of an endpoint have lost two thirds of their weight.
        #[range(0.001..=3600.0)]
        decay: Duration = Duration::from_secs(10),
        /// Time without a pick after which an endpoint is probed with one RPC, whatever its load. Grows to 16 times
        /// this while probes show no improvement.
        #[range(0.01..=3600.0)]
        probe_after: Duration = Duration::from_secs(1),
    }
}

#[derive(Debug)]
struct P2cEwma {
    ready: Vec<SubConn>,
    weights: Weights,
    answers: Answers,
}

impl Policy for P2cEwma {
    fn init(config: &str, _placement: &Placement) -> Result<Self, String> {
        let config = Config::parse(config)?;
        let answers = Answers::new(config.decay, config.probe_after);
        Ok(Self { ready: Vec::new(), weights: Weights::default(), answers })
    }

    fn endpoints(&mut self, added: &[Endpoint], removed: &[SubConn], _now: Nanos) {
        self.weights.update(added, removed);
        removed.iter().for_each(|id| self.answers.forget(*id));
    }

    fn ready(&mut self, ready: &[SubConn], _now: Nanos) {
        self.ready = ready.to_vec();
    }

    fn pick(&mut self, info: &PickInfo) -> PickResult {
        let n = self.ready.len();
        if n < 2 {
            return self.ready.first().map_or(PickResult::Queue, |id| PickResult::Pick(*id));
        }
        let Self { ready, weights, answers } = self;
        let pairs = random_pairs(n, info.random).map(|at| (ready[at], f64::from(weights.of(ready[at]))));
        let mut picked = answers.pick(pairs, 2, Cost::Latency, info);
        if info.attempt > 0 && picked.is_some_and(call::tried) {
            // All that were drawn are tried. An untried one is preferred, so one more than the RPC has tried is enough.
            let (first, most) = (below(n, mix(info.random)), info.attempt as usize + 1);
            let all = (first..n).chain(0..first).map(|at| (ready[at], f64::from(weights.of(ready[at]))));
            picked = answers.pick(all.take(most.min(n)), 2, Cost::Latency, info).or(picked);
        }
        // If no endpoint has a free stream, the RPC waits for one.
        PickResult::Pick(picked.unwrap_or(ready[0]))
    }
}

impl About for P2cEwma {
    fn describe() -> Description {
        Description::of::<Config>(
            "Picks the better of two random endpoints, by peak latency and RPCs in flight.",
        )
    }
}

hotpick_guest::export!(P2cEwma: About);

#[cfg(test)]
mod tests {
    use hotpick_guest::stats::Summary;
    use hotpick_guest::testing::{BAD, FakeHost, Rpc, Server, World, chi_square, endpoint, summary};

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const WELL: Server = Server::well(Duration::from_millis(5));

    fn start(n: u32) -> FakeHost<P2cEwma> {
        let mut host = FakeHost::start("{}").expect("started");
        host.ready(&(0..n).collect::<Vec<_>>());
        host
    }

    #[test]
    fn a_bad_one_of_five_gets_under_2_percent_and_its_share_again_when_it_is_well() {
        for (what, bad, deadline) in BAD {
            let mut world = World::new(start(5), &[WELL; 5], 50).with_deadline(deadline);
            let (share, after) = world.bad_hour(bad);
            assert!(share < 0.02, "{what}: {share}");
            assert!(after > 0.15, "{what}: {after}");
        }
    }

    fn summary_of(in_flight: u32, latency: Duration, failed: u64) -> Summary {
        let latency_ewma = hotpick_guest::nanos(latency);
        Summary { in_flight, latency_ewma, succeeded: 100 - failed, failed, ..summary() }
    }

    /// Sets the counts, with picks before and after, so that the policy counts all of them as new.
    fn seen(host: &mut FakeHost<P2cEwma>, summaries: &[Summary]) {
        host.picks(50);
        for (summary, id) in summaries.iter().zip(0..) {
            host.set_stats(id, *summary);
        }
        host.advance(10 * MS);
        host.picks(1);
    }

    #[test]
    fn of_two_the_one_with_the_lower_product_of_latency_and_rpcs() {
        let mut host = start(2);
        for (in_flight, expected) in [(0, [20, 0]), (2, [20, 0]), (3, [0, 20])] {
            seen(&mut host, &[summary_of(in_flight, 10 * MS, 0), summary_of(0, 35 * MS, 0)]);
            assert_eq!(host.counts(&[0, 1], 20), expected);
        }
    }

    #[test]
    fn a_weight_is_so_much_more_load() {
        let mut host = start(2);
        host.change(&[Endpoint { weight: 4, ..endpoint(1, &[]) }], &[]);
        seen(&mut host, &[summary_of(0, 10 * MS, 0), summary_of(0, 35 * MS, 0)]);
        assert_eq!(host.counts(&[0, 1], 20), [0, 20]);
    }

    #[test]
    fn one_that_fails_fast_is_not_the_fastest_and_some_failures_change_nothing() {
        for (failed, expected) in [(100, [0, 20]), (50, [0, 20]), (5, [20, 0])] {
            let mut host = start(2);
            seen(&mut host, &[summary_of(0, 20 * MS, failed), summary_of(0, 30 * MS, 0)]);
            assert_eq!(host.counts(&[0, 1], 20), expected, "{failed}");
        }
    }

    #[test]
    fn the_configuration_is_what_it_goes_by() {
        // With this configuration a slow endpoint is forgotten sooner, and probed more often.
        let share = |config: &str| {
            let mut host = FakeHost::<P2cEwma>::start(config).expect("started");
            host.ready(&[0, 1, 2, 3, 4]);
            let mut world = World::new(host, &[WELL; 5], 50);
            world.becomes(0, Server::well(500 * MS));
            world.run(60_000 * MS);
            world.run(600_000 * MS)[0]
        };
        let of = ["{}", r#"{"probeAfter":"100s"}"#, r#"{"decay":"0.5s","probeAfter":"100s"}"#].map(share);
        assert!(of[1] < of[0] && of[0] < of[2] && of[2] > 2.0 * of[1], "{of:?}");
    }

    #[test]
    fn those_of_which_nothing_is_known_are_alike() {
        let mut host = start(10);
        let counts = host.counts(&(0..10).collect::<Vec<_>>(), 10_000);
        assert!(chi_square(&counts, &[1.0; 10]).is_likely(), "{counts:?}");
    }

    /// Even if those that were tried look far better.
    #[test]
    fn a_retry_goes_to_an_endpoint_that_was_not_tried() {
        let mut host = start(5);
        seen(&mut host, &[summary_of(0, MS, 0); 5]);
        host.set_stats(3, summary_of(40, 500 * MS, 0));
        let mut rpc = Rpc::default();
        rpc.tried = vec![0, 1, 2, 4];
        for _ in 0..200 {
            assert_eq!(host.pick(&rpc), PickResult::Pick(3));
        }
    }

    #[test]
    fn bad_configuration_is_refused_by_the_name_of_its_field() {
        for (config, field) in [
            (
                r#"{"decay":"0s"}"#,
                "decay: must be a duration like \"1.5s\", 0.001 to 3600 seconds, not \"0s\"",
            ),
            (r#"{"decay":10}"#, "decay: "),
            (r#"{"probeAfter":"1e9s"}"#, "probeAfter: "),
            (r#"{"failurePenalty":"1s"}"#, "failurePenalty: no such field"),
        ] {
            let error = FakeHost::<P2cEwma>::start(config).expect_err(config);
            assert!(error.starts_with(field), "{config}: {error}");
        }
    }
}
