//! `p2c_ewma`: of two ready subconns at random, the one with the lower load: its latency times the RPCs under
//! way.
//!
//! After Finagle's and linkerd's "peak EWMA" and go-zero's `p2c`. The latency is a moving average that follows a
//! rise at once and a fall slowly: one slow answer is believed, one fast answer is not. An endpoint of which
//! nothing is heard is forgiven with time, and one that has not been picked for a while is tried again, so that it
//! can show that it is well. An RPC that fails counts as a slow one: an endpoint that fails fast must not look like
//! the fastest.

use hotpick_guest::config::Config as _;
use hotpick_guest::random::two_below;
use hotpick_guest::{
    About, Description, Duration, Endpoint, Nanos, Outcome, Outcomes, PickInfo, PickResult, Placement,
    Policy, SubConn, SubConnMap, nanos, stats,
};

hotpick_guest::config! {
    /// The better of two at random, by latency and RPCs under way.
    struct Config {
        /// The time in which what is known of a latency loses two thirds of its weight.
        #[range(0.001..=3600.0)]
        decay: Duration = Duration::from_secs(10),
        /// What a failed RPC counts as, if it did not take longer.
        #[range(0.0..=3600.0)]
        failure_penalty: Duration = Duration::from_secs(1),
        /// After this time without a pick an endpoint is tried once, whatever its load.
        #[range(0.01..=3600.0)]
        probe_after: Duration = Duration::from_secs(1),
    }
}

#[derive(Debug)]
struct P2cEwma {
    config: Config,
    ready: Vec<SubConn>,
    latencies: SubConnMap<Latency>,
    /// Picks since one was a probe.
    since_probe: u32,
}

/// One pick in so many may be a probe.
const PROBES: u32 = 20;

/// A moving average that peaks.
#[derive(Debug, Default)]
struct Latency {
    /// In nanoseconds; 0 if nothing is known.
    average: f64,
    /// Of the average.
    at: Nanos,
    picked: Nanos,
}

impl Latency {
    /// How much of the average is left.
    #[expect(clippy::cast_precision_loss, reason = "times")]
    fn now(&self, now: Nanos, decay: f64) -> f64 {
        self.average * exp_minus(now.saturating_sub(self.at) as f64 / decay)
    }

    #[expect(clippy::cast_precision_loss, reason = "times")]
    fn observe(&mut self, seen: Nanos, now: Nanos, decay: f64) {
        let seen = seen as f64;
        let kept = exp_minus(now.saturating_sub(self.at) as f64 / decay);
        self.average = if seen > self.average { seen } else { self.average * kept + seen * (1.0 - kept) };
        self.at = now;
    }
}

/// e to the power of `-x`, to 1 %, for `x` of 0 or more: the exact one is more code than the rest of this.
fn exp_minus(x: f64) -> f64 {
    // (1 + x/256)^-256.
    let mut power = 1.0 / (1.0 + x / 256.0);
    for _ in 0..8 {
        power *= power;
    }
    power
}

impl Policy for P2cEwma {
    fn init(config: &str, _placement: &Placement) -> Result<Self, String> {
        let config = Config::parse(config)?;
        Ok(Self { config, ready: Vec::new(), latencies: SubConnMap::default(), since_probe: 0 })
    }

    fn endpoints(&mut self, _added: &[Endpoint], removed: &[SubConn], _now: Nanos) {
        for id in removed {
            self.latencies.remove(*id);
        }
    }

    fn ready(&mut self, ready: &[SubConn], now: Nanos) {
        self.ready = ready.to_vec();
        for id in ready {
            self.latencies.get_or_insert_with(*id, || Latency { average: 0.0, at: now, picked: 0 });
        }
    }

    fn pick(&mut self, info: &PickInfo) -> PickResult {
        let n = self.ready.len();
        let picked = match n {
            0 => return PickResult::Queue,
            1 => self.ready[0],
            _ => {
                let (first, second) = two_below(n, info.random);
                let (first, second) = (self.ready[first], self.ready[second]);
                let (winner, picked) = self.better(first, second, info.now);
                self.since_probe = if picked == winner { self.since_probe.saturating_add(1) } else { 0 };
                picked
            }
        };
        if let Some(latency) = self.latencies.get_mut(picked) {
            latency.picked = info.now;
        }
        PickResult::Pick(picked)
    }
}

impl P2cEwma {
    /// The better of two, and the one to be picked.
    fn better(&self, first: SubConn, second: SubConn, now: Nanos) -> (SubConn, SubConn) {
        let (Some(a), Some(b)) = (self.latencies.get(first), self.latencies.get(second)) else {
            return (first, first);
        };
        let (load_a, load_b) = self.loads((first, a), (second, b), now);
        let (winner, loser, left_out) = if load_b < load_a { (second, first, a) } else { (first, second, b) };
        let is_due = now.saturating_sub(left_out.picked) > nanos(self.config.probe_after);
        // Where RPCs are rare all of them are due.
        if is_due && self.since_probe >= PROBES { (winner, loser) } else { (winner, winner) }
    }

    fn loads(
        &self,
        (first, a): (SubConn, &Latency),
        (second, b): (SubConn, &Latency),
        now: Nanos,
    ) -> (f64, f64) {
        #[expect(clippy::cast_precision_loss, reason = "times")]
        let decay = nanos(self.config.decay) as f64;
        let (mut of_a, mut of_b) = (a.now(now, decay), b.now(now, decay));
        // One of which nothing is known is taken to be like the other: it gets its share, and is known then.
        if of_a == 0.0 || of_b == 0.0 {
            of_a = of_a.max(of_b).max(1.0);
            of_b = of_a;
        }
        let rpcs = |id| f64::from(stats::in_flight(id)) + 1.0;
        (of_a * rpcs(first), of_b * rpcs(second))
    }
}

impl Outcomes for P2cEwma {
    fn done(&mut self, batch: &[Outcome], now: Nanos) {
        #[expect(clippy::cast_precision_loss, reason = "times")]
        let decay = nanos(self.config.decay) as f64;
        for outcome in batch.iter().filter(|outcome| !outcome.not_sent) {
            let Some(latency) = self.latencies.get_mut(outcome.subconn) else { continue };
            // A stream of a day says no more than that it was long.
            let mut seen = outcome.latency.min(nanos(self.config.decay));
            if outcome.is_failure() {
                seen = seen.max(nanos(self.config.failure_penalty));
            }
            // One that the client gave up would have taken longer: that it was short says nothing.
            #[expect(clippy::cast_precision_loss, reason = "times")]
            if !outcome.client_ended || seen as f64 > latency.average {
                latency.observe(seen, now, decay);
            }
        }
    }
}

impl About for P2cEwma {
    fn describe() -> Description {
        Description::of::<Config>("The better of two at random, by peak latency and RPCs under way.")
    }
}

hotpick_guest::export!(P2cEwma: Outcomes, About);

#[cfg(test)]
mod tests {
    use hotpick_guest::StatusCode;
    use hotpick_guest::stats::Summary;
    use hotpick_guest::testing::{FakeHost, chi_square, outcome, summary};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn start(n: u32) -> FakeHost<P2cEwma> {
        let mut host = FakeHost::start("{}").expect("started");
        host.ready(&(0..n).collect::<Vec<_>>());
        host
    }

    fn ended(host: &mut FakeHost<P2cEwma>, id: SubConn, code: StatusCode, latency: Duration) {
        host.done(&[outcome(id, code, latency)]);
    }

    #[test]
    fn of_two_the_one_with_the_lower_product_of_latency_and_rpcs() {
        let mut host = start(2);
        ended(&mut host, 0, StatusCode::Ok, 10 * MS);
        ended(&mut host, 1, StatusCode::Ok, 35 * MS);
        assert_eq!(host.counts(&[0, 1], 20), [20, 0]);
        host.set_stats(0, Summary { in_flight: 2, ..summary() });
        assert_eq!(host.counts(&[0, 1], 20), [20, 0]);
        host.set_stats(0, Summary { in_flight: 3, ..summary() });
        assert_eq!(host.counts(&[0, 1], 20), [0, 20]);
    }

    #[test]
    fn a_rise_is_believed_at_once_and_forgiven_with_time() {
        let mut host = start(2);
        for id in [0, 1] {
            ended(&mut host, id, StatusCode::Ok, 10 * MS);
        }
        ended(&mut host, 0, StatusCode::Ok, 100 * MS);
        assert_eq!(host.counts(&[0, 1], 20), [0, 20]);
        host.advance(20_000 * MS);
        // Both decay; 1 is heard of again.
        ended(&mut host, 1, StatusCode::Ok, 20 * MS);
        let average = |host: &FakeHost<P2cEwma>, id: SubConn| {
            let P2cEwma { latencies, .. } = host.policy();
            latencies.get(id).map_or(0.0, |latency| latency.now(hotpick_guest::env::now(), 1e10) / 1e6)
        };
        assert!((average(&host, 0) - 13.5).abs() < 0.5, "{}", average(&host, 0));
        assert!((average(&host, 1) - 20.0).abs() < 0.1, "{}", average(&host, 1));
        // 0 is the better one now; but 1 has not been picked for long, too, and is tried once.
        assert_eq!(host.counts(&[0, 1], 20), [19, 1]);
    }

    #[test]
    fn one_that_fails_fast_is_not_the_fastest() {
        let mut host = start(2);
        ended(&mut host, 0, StatusCode::Unavailable, MS / 10);
        ended(&mut host, 1, StatusCode::NotFound, 50 * MS);
        assert_eq!(host.counts(&[0, 1], 20), [0, 20]);
    }

    #[test]
    fn one_that_is_given_up_early_says_nothing_and_late_that_it_is_slow() {
        let mut host = start(2);
        ended(&mut host, 0, StatusCode::Ok, 50 * MS);
        ended(&mut host, 1, StatusCode::Ok, 60 * MS);
        host.advance(10 * MS);
        let given_up =
            |id, latency| Outcome { client_ended: true, ..outcome(id, StatusCode::Cancelled, latency) };
        host.done(&[given_up(1, MS)]);
        assert_eq!(host.counts(&[0, 1], 20), [20, 0]);
        host.done(&[given_up(0, 500 * MS)]);
        assert_eq!(host.counts(&[0, 1], 20), [0, 20]);
    }

    #[test]
    fn one_that_is_left_out_is_tried_from_time_to_time() {
        let mut host = start(2);
        ended(&mut host, 0, StatusCode::Ok, 10 * MS);
        ended(&mut host, 1, StatusCode::Ok, 1_000 * MS);
        let mut tried = 0;
        for _ in 0..500 {
            host.advance(10 * MS);
            tried += host.counts(&[1], 1)[0];
        }
        assert!((3..=5).contains(&tried), "{tried} in 5 s");
    }

    #[test]
    fn those_of_which_nothing_is_known_are_alike() {
        let mut host = start(10);
        let counts = host.counts(&(0..10).collect::<Vec<_>>(), 10_000);
        assert!(chi_square(&counts, &[1.0; 10]).is_likely(), "{counts:?}");
    }

    #[test]
    fn the_exponential_is_good_enough() {
        for x in [0.0, 0.1, 1.0, 3.0, 1_000.0] {
            assert!((exp_minus(x) - f64::exp(-x)).abs() < 0.01, "{x}");
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
            (r#"{"failurePenalty":"-1s"}"#, "failurePenalty: "),
            (r#"{"probeAfter":"1e9s"}"#, "probeAfter: "),
            (r#"{"penalty":1}"#, "penalty: no such field"),
        ] {
            let error = FakeHost::<P2cEwma>::start(config).expect_err(config);
            assert!(error.starts_with(field), "{config}: {error}");
        }
    }
}
