//! `least_request`: the ready subconn with the fewest RPCs in flight, of some that are chosen at random, or of all.
//!
//! Follows gRFC A48 and Envoy's least request balancer. With two choices, the load of the fullest endpoint falls
//! exponentially (Mitzenmacher, 2001), and clients do not all send to the one endpoint that they see empty. The counts
//! are the host's: they cover all RPCs of the channel, and survive a swap.
//!
//! An endpoint that fails most of its RPCs, or responds to none, counts as fuller than it is ([`Answers`]). Otherwise
//! an endpoint that fails fast would always look empty.
//!
//! An endpoint whose connection has no free stream (the peer's MAX_CONCURRENT_STREAMS) is picked only if no other one
//! has a free stream. If none has, RPCs wait for the first stream to become free.

#[cfg(test)]
mod model;

use hotpick_guest::answers::{Answers, Cost};
use hotpick_guest::config::Config as _;
use hotpick_guest::group::random_pairs;
use hotpick_guest::random::{Random, mix};
use hotpick_guest::{
    About, Alarms, Description, Endpoint, Nanos, Outcome, Outcomes, PickInfo, PickResult, Placement, Policy,
    SubConn, Weights, below, call, timers,
};

hotpick_guest::config! {
    /// Picks the ready endpoint with the fewest RPCs in flight.
    struct Config {
        /// How the candidates are chosen.
        selection_method: Selection = Selection::NChoices,
        /// Number of endpoints that n_choices compares.
        #[range(2..=100)]
        choice_count: u32 = 2,
    }
}

hotpick_guest::config! {
    /// How the candidates are chosen, with Envoy's names.
    enum Selection {
        /// Some at random.
        NChoices,
        /// All, up to a thousand. Exact, but slow with many endpoints.
        FullScan,
    }
}

/// Most endpoints that a pick compares, because a pick has only 2 ms.
const MOST: usize = 1_000;
/// Number of the timer that looks for a free stream.
const LOOK_AGAIN: u32 = 0;
/// Delay of the timer [ns].
const RETRY: Nanos = 20_000_000;

#[derive(Debug)]
struct LeastRequest {
    config: Config,
    ready: Vec<SubConn>,
    weights: Weights,
    answers: Answers,
    /// Whether the timer is set.
    looks_again: bool,
}

impl Policy for LeastRequest {
    fn init(config: &str, _placement: &Placement) -> Result<Self, String> {
        let config = Config::parse(config)?;
        let (weights, answers) = (Weights::default(), Answers::default());
        Ok(Self { config, ready: Vec::new(), weights, answers, looks_again: false })
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
        let best = match self.config.selection_method {
            Selection::NChoices if n > self.config.choice_count as usize => self
                .choose(info)
                .filter(|id| info.attempt == 0 || !call::tried(*id))
                .or_else(|| self.scan(info)),
            _ => self.scan(info),
        };
        if let Some(best) = best {
            return PickResult::Pick(best);
        }
        if n > 0 {
            // Streams may be held by RPCs that another version picked for, whose end is not reported to this one. The
            // timer is set only once: a timer that is set again and again never fires.
            self.looks_again = self.looks_again || timers::schedule(LOOK_AGAIN, RETRY).is_ok();
        }
        PickResult::Queue
    }
}

impl LeastRequest {
    /// Returns the best of some random endpoints.
    fn choose(&mut self, info: &PickInfo) -> Option<SubConn> {
        let n = self.ready.len();
        let choices = self.config.choice_count as usize;
        if choices == 2 {
            return self.best(random_pairs(n, info.random), 2, info);
        }
        // With repetition, as in gRFC A48.
        let mut random = Random::new(info.random);
        self.best((0..2 * choices).map(|_| random.below(n)), choices, info)
    }

    /// Returns the best of all endpoints, or of a thousand from a random one on if there are more.
    fn scan(&mut self, info: &PickInfo) -> Option<SubConn> {
        let n = self.ready.len();
        let first = below(n, mix(info.random));
        self.best((first..n).chain(0..first).take(MOST), MOST, info)
    }

    fn best(
        &mut self,
        among: impl Iterator<Item = usize>,
        enough: usize,
        info: &PickInfo,
    ) -> Option<SubConn> {
        let Self { ready, weights, answers, .. } = self;
        let weighted = among.map(|at| (ready[at], f64::from(weights.of(ready[at]))));
        answers.pick(weighted, enough, Cost::Rpcs, info)
    }
}

/// Outcomes are not evaluated. They are requested because the host picks again for waiting RPCs after a report, when a
/// stream may be free.
impl Outcomes for LeastRequest {
    fn done(&mut self, _batch: &[Outcome], _now: Nanos) {}
}

impl Alarms for LeastRequest {
    fn fired(&mut self, _id: u32, _now: Nanos) {
        self.looks_again = false;
    }
}

impl About for LeastRequest {
    fn describe() -> Description {
        Description::of::<Config>(
            "Picks the ready endpoint with the fewest RPCs in flight, of some or of all.",
        )
    }
}

hotpick_guest::export!(LeastRequest: Outcomes, Alarms, About);

#[cfg(test)]
mod tests {
    use hotpick_guest::Duration;
    use hotpick_guest::stats::Summary;
    use hotpick_guest::testing::{BAD, FakeHost, Server, World, chi_square, endpoint, summary};

    use super::*;

    fn start(config: &str, in_flight: &[u32]) -> FakeHost<LeastRequest> {
        let mut host = FakeHost::start(config).expect("started");
        let ids: Vec<SubConn> = in_flight.iter().zip(0..).map(|(_, id)| id).collect();
        for (in_flight, id) in in_flight.iter().zip(0..) {
            host.set_stats(id, Summary { in_flight: *in_flight, ..summary() });
        }
        host.ready(&ids);
        host
    }

    #[test]
    fn of_two_at_random_the_one_with_fewer_rpcs() {
        let mut host = start("{}", &[0, 1, 2, 3]);
        // Of the six pairs, the least loaded endpoint wins three, the next one two, the next one one.
        let counts = host.counts(&[0, 1, 2, 3], 6_000);
        assert!(chi_square(&counts, &[3.0, 2.0, 1.0, 0.0]).is_likely(), "{counts:?}");
    }

    #[test]
    fn of_all_the_one_with_fewest_and_equal_ones_alike() {
        let mut host = start(r#"{"selectionMethod":"full_scan"}"#, &[5, 2, 7, 2, 2]);
        let counts = host.counts(&[0, 1, 2, 3, 4], 3_000);
        assert!(chi_square(&counts, &[0.0, 1.0, 0.0, 1.0, 1.0]).is_likely(), "{counts:?}");
        let mut busy = [5; 100];
        (busy[98], busy[99]) = (0, 0);
        let counts = start(r#"{"selectionMethod":"full_scan"}"#, &busy).counts(&[98, 99], 10_000);
        assert!(chi_square(&counts, &[1.0, 1.0]).is_likely(), "{counts:?}");
        // As many choices as there are endpoints.
        let counts = start(r#"{"choiceCount":5}"#, &[5, 5, 5, 0, 0]).counts(&[3, 4], 10_000);
        assert!(chi_square(&counts, &[1.0, 1.0]).is_likely(), "{counts:?}");
    }

    #[test]
    fn a_bad_one_of_five_gets_under_2_percent_and_its_share_again_when_it_is_well() {
        // Comparing all endpoints takes longer in this test, so two kinds must do.
        for (config, kinds) in [("{}", &BAD[..]), (r#"{"selectionMethod":"full_scan"}"#, &BAD[5..7])] {
            for (what, bad, deadline) in kinds.iter().copied() {
                let well = Server::well(Duration::from_millis(5));
                let world = World::new(start(config, &[0; 5]), &[well; 5], 200);
                let (share, after) = world.with_deadline(deadline).bad_hour(bad);
                assert!(share < 0.02, "{config}, {what}: {share}");
                assert!(after > 0.15, "{config}, {what}: {after}");
            }
        }
    }

    #[test]
    fn more_choices_are_more_often_right() {
        let mut host = start(r#"{"choiceCount":3}"#, &[0, 9, 9, 9, 9, 9, 9, 9, 9, 9]);
        let counts = host.counts(&[0], 10_000);
        let shares = [1.0 - 0.9f64.powi(3), 0.9f64.powi(3)];
        assert!(chi_square(&[counts[0], 10_000 - counts[0]], &shares).is_likely(), "{counts:?}");
    }

    #[test]
    fn a_connection_without_a_free_stream_is_left_out() {
        let mut host = start("{}", &[0, 0, 0]);
        for id in [0, 1] {
            host.set_stats(id, Summary { in_flight: 1, max_streams: 1, ..summary() });
        }
        host.set_stats(2, Summary { in_flight: 50, ..summary() });
        assert_eq!(host.counts(&[2], 100), [100]);
        host.set_stats(2, Summary { in_flight: 100, ..summary() });
        assert_eq!(host.pick(&Default::default()), PickResult::Queue);
    }

    #[test]
    fn an_endpoint_of_twice_the_weight_has_twice_the_rpcs() {
        let mut host = start(r#"{"selectionMethod":"full_scan"}"#, &[3, 2]);
        host.change(&[Endpoint { weight: 2, ..endpoint(0, &[]) }], &[]);
        assert_eq!(host.counts(&[0, 1], 10), [10, 0]);
        host.set_stats(0, Summary { in_flight: 6, ..summary() });
        assert_eq!(host.counts(&[0, 1], 10), [0, 10]);
    }

    #[test]
    fn bad_configuration_is_refused_by_the_name_of_its_field() {
        for (config, field) in [
            (r#"{"choiceCount":1}"#, "choiceCount: must be a whole number, 2 to 100, not 1"),
            (r#"{"choiceCount":-2}"#, "choiceCount: "),
            (r#"{"choiceCount":1e9}"#, "choiceCount: "),
            (r#"{"selectionMethod":"all"}"#, "selectionMethod: must be one of n_choices, full_scan"),
            (r#"{"choices":2}"#, "choices: no such field"),
        ] {
            let error = FakeHost::<LeastRequest>::start(config).expect_err(config);
            assert!(error.starts_with(field), "{config}: {error}");
        }
    }
}
