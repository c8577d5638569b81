//! `outlier`: endpoints that fail more than the others are ejected for a while. RPCs are balanced over the others.
//!
//! Follows gRFC A50 (outlier detection), with the names and defaults of its configuration. In each interval the policy
//! counts the RPCs of each endpoint. An endpoint whose success rate is far below the mean, or that fails more than a
//! given percentage of its RPCs, is ejected, the worst first, and for longer each time. The share of ejected endpoints
//! is limited. If too many of the ready endpoints are ejected, all are used. Ejections are kept at a swap.

mod detector;
#[cfg(test)]
mod model;

use hotpick_guest::answers::Answers;
use hotpick_guest::config::Config as _;
use hotpick_guest::group::{Balance, Group};
use hotpick_guest::metrics::{Counter, Gauge};
use hotpick_guest::{
    About, Alarms, Description, Duration, Endpoint, Handover, Nanos, Outcome, Outcomes, PickInfo, PickResult,
    Placement, Policy, Saved, StatusCode, SubConn, Weights, nanos, timers,
};

use self::detector::Detector;

hotpick_guest::config! {
    /// Endpoints that fail more than the others are ejected for a while.
    struct Config {
        /// How often the endpoints are evaluated.
        #[range(0.1..=3600.0)]
        interval: Duration = Duration::from_secs(10),
        /// How long an endpoint is ejected the first time; the second time twice as long, and so on.
        #[range(0.1..=86_400.0)]
        base_ejection_time: Duration = Duration::from_secs(30),
        /// How long an endpoint is ejected at most.
        #[range(0.1..=86_400.0)]
        max_ejection_time: Duration = Duration::from_secs(300),
        /// Percentage of endpoints that may be ejected. The endpoint that reaches it is still ejected.
        #[range(0..=100)]
        max_ejection_percent: u32 = 10,
        /// Ejection by success rate. Active with its defaults if none of the three methods is configured.
        success_rate_ejection: Option<SuccessRate> = None,
        /// Number of consecutive failures that eject an endpoint at once. Not in gRPC.
        #[range(1..=1_000_000)]
        consecutive_failures: Option<u32> = None,
        /// Percentage of ejected endpoints among the ready ones from which all are used: the endpoints are not the
        /// cause.
        #[range(1..=100)]
        panic_percent: u32 = 100,
        /// Ejection by the percentage of failures.
        failure_percentage_ejection: Option<FailurePercentage> = None,
        /// How RPCs are balanced over the other endpoints.
        balance: Balance = Balance::RoundRobin,
    }
}

hotpick_guest::config! {
    /// Ejects endpoints whose success rate is far below the mean.
    struct SuccessRate {
        /// Distance below the mean, in thousandths of a standard deviation: 1900 is 1.9.
        #[range(0..=100_000)]
        stdev_factor: u32 = 1_900,
        /// Percentage of detected endpoints that are ejected.
        #[range(0..=100)]
        enforcement_percentage: u32 = 100,
        /// Number of endpoints that must have the request volume.
        #[range(1..=1_000_000)]
        minimum_hosts: u32 = 5,
        /// Number of RPCs in an interval that an endpoint must have.
        #[range(1..=1_000_000)]
        request_volume: u32 = 100,
    }
}

hotpick_guest::config! {
    /// Ejects endpoints by their percentage of failed RPCs.
    struct FailurePercentage {
        /// Percentage of failures above which an endpoint is ejected.
        #[range(0..=100)]
        threshold: u32 = 85,
        /// Percentage of detected endpoints that are ejected.
        #[range(0..=100)]
        enforcement_percentage: u32 = 100,
        /// Number of endpoints that must have the request volume.
        #[range(1..=1_000_000)]
        minimum_hosts: u32 = 5,
        /// Number of RPCs in an interval that an endpoint must have.
        #[range(1..=1_000_000)]
        request_volume: u32 = 50,
    }
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self { stdev_factor: 1_900, enforcement_percentage: 100, minimum_hosts: 5, request_volume: 100 }
    }
}

/// Number of the timer that evaluates the endpoints.
const LOOK: u32 = 0;
/// Format of the handed-over state.
const SCHEMA: u32 = u32::from_be_bytes(*b"OUT1");

#[derive(Debug)]
struct Outlier {
    config: Config,
    detector: Detector,
    ready: Vec<SubConn>,
    weights: Weights,
    answers: Answers,
    group: Group,
    ejected: Gauge,
    ejections: Counter,
}

impl Policy for Outlier {
    fn init(config: &str, placement: &Placement) -> Result<Self, String> {
        let mut config = Config::parse(config)?;
        placement.must_be_alone("each of several would see only a part of the RPCs, and eject on its own")?;
        if config.failure_percentage_ejection.is_none() && config.consecutive_failures.is_none() {
            config.success_rate_ejection.get_or_insert_default();
        }
        timers::schedule(LOOK, nanos(config.interval))?;
        Ok(Self {
            detector: Detector::new(placement.seed),
            ready: Vec::new(),
            weights: Weights::default(),
            answers: Answers::default(),
            group: Group::new(config.balance),
            ejected: Gauge::new("ejected", "Endpoints that are ejected now.")?,
            ejections: Counter::new(
                "grpc_lb_outlier_detection_ejections_enforced",
                "Ejections of endpoints so far.",
            )?,
            config,
        })
    }

    fn endpoints(&mut self, added: &[Endpoint], removed: &[SubConn], now: Nanos) {
        self.weights.update(added, removed);
        removed.iter().for_each(|id| self.answers.forget(*id));
        self.detector.keep(added, &self.config, now);
        added.iter().for_each(|endpoint| self.detector.add(endpoint.id));
        removed.iter().for_each(|id| self.detector.remove(*id));
    }

    fn ready(&mut self, ready: &[SubConn], _now: Nanos) {
        self.ready = ready.to_vec();
        self.regroup();
    }

    fn pick(&mut self, info: &PickInfo) -> PickResult {
        self.group.pick(info, &mut self.answers).map_or(PickResult::Queue, PickResult::Pick)
    }
}

impl Outlier {
    fn regroup(&mut self) {
        let mut members = self.ready.clone();
        members.retain(|id| !self.detector.is_ejected(*id));
        // An endpoint that fails is better than none.
        let out = self.ready.len() - members.len();
        let panics = out * 100 >= self.config.panic_percent as usize * self.ready.len();
        self.group.update(if panics { self.ready.clone() } else { members }, &self.weights);
        #[expect(clippy::cast_precision_loss, reason = "a number of endpoints")]
        self.ejected.set(self.detector.ejected() as f64);
    }
}

impl Outcomes for Outlier {
    fn done(&mut self, batch: &[Outcome], now: Nanos) {
        // An RPC that the client cancelled says nothing about the server. One that exceeded its deadline does.
        let counts = |outcome: &&Outcome| !outcome.not_sent && outcome.code != StatusCode::Cancelled;
        let mut ejections = 0;
        for outcome in batch.iter().filter(counts) {
            let well = outcome.code == StatusCode::Ok;
            ejections += u64::from(self.detector.ended(outcome.subconn, well, &self.config, now));
        }
        if ejections > 0 {
            self.ejections.add(ejections);
            self.regroup();
        }
    }
}

impl Alarms for Outlier {
    fn fired(&mut self, _id: u32, now: Nanos) {
        self.ejections.add(self.detector.look(&self.config, now));
        self.regroup();
        let _ = timers::schedule(LOOK, nanos(self.config.interval));
    }
}

impl Handover for Outlier {
    fn save(&mut self) -> Saved {
        Saved { schema: SCHEMA, data: self.detector.save() }
    }

    fn restore(&mut self, parts: Vec<Saved>) -> Result<(), String> {
        parts.iter().try_for_each(|part| match part.schema {
            SCHEMA => self.detector.restore(&part.data),
            other => Err(format!("unknown format {other} of saved ejections")),
        })
    }
}

impl About for Outlier {
    fn describe() -> Description {
        Description::of::<Config>("Ejects endpoints that fail more than the others for a while.")
    }
}

hotpick_guest::export!(Outlier: Outcomes, Alarms, Handover, About);

#[cfg(test)]
mod tests {
    use hotpick_guest::testing::{FakeHost, Server, World, endpoint, outcome};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn start(config: &str, n: u32) -> FakeHost<Outlier> {
        let mut host = FakeHost::start(config).expect("started");
        host.endpoints(&(0..n).map(|id| endpoint(id, &[])).collect::<Vec<_>>());
        host
    }

    /// Runs an interval in which each endpoint has a hundred RPCs, with these numbers of failures.
    fn interval(host: &mut FakeHost<Outlier>, failures: &[usize]) {
        for (failures, id) in failures.iter().zip(0..) {
            let code = |n| if n < *failures { StatusCode::Internal } else { StatusCode::Ok };
            host.done(&(0..100).map(|n| outcome(id, code(n), SECOND)).collect::<Vec<_>>());
        }
        host.run(10 * SECOND);
    }

    fn picked(host: &mut FakeHost<Outlier>) -> Vec<SubConn> {
        let mut picked = host.picks(100);
        picked.sort_unstable();
        picked.dedup();
        picked
    }

    #[test]
    fn the_one_that_fails_most_is_out_and_longer_each_time() {
        let mut host = start("{}", 10);
        let bad = [0, 0, 1, 50, 0, 2, 0, 0, 1, 0];
        interval(&mut host, &bad);
        assert_eq!(picked(&mut host), [0, 1, 2, 4, 5, 6, 7, 8, 9]);
        assert_eq!(
            (host.measured("ejected"), host.measured("grpc_lb_outlier_detection_ejections_enforced")),
            (Some(1.0), Some(1.0))
        );
        // More than 30 s: until the first evaluation after that.
        host.run(39 * SECOND);
        assert_eq!(picked(&mut host).len(), 9);
        host.run(SECOND);
        assert_eq!(picked(&mut host).len(), 10);
        // Ejected again, for more than 60 s.
        interval(&mut host, &bad);
        host.run(69 * SECOND);
        assert_eq!(picked(&mut host).len(), 9);
        host.run(SECOND);
        assert_eq!(picked(&mut host).len(), 10);
        assert_eq!(host.measured("ejected"), Some(0.0));
        // Good intervals reduce the time: the next ejection takes 30 s again.
        host.run(20 * SECOND);
        interval(&mut host, &bad);
        host.run(40 * SECOND);
        assert_eq!(picked(&mut host).len(), 10);
    }

    #[test]
    fn where_all_fail_alike_none_is_an_outlier() {
        let mut host = start("{}", 10);
        interval(&mut host, &[50; 10]);
        assert_eq!(picked(&mut host).len(), 10);
    }

    #[test]
    fn too_few_endpoints_or_rpcs_are_not_compared() {
        let mut host = start("{}", 4);
        interval(&mut host, &[100, 0, 0, 0]);
        assert_eq!(picked(&mut host).len(), 4);
        let mut host = start(r#"{"successRateEjection":{"requestVolume":101}}"#, 10);
        interval(&mut host, &[100, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(picked(&mut host).len(), 10);
    }

    #[test]
    fn by_failures_and_never_more_than_a_part() {
        let config = r#"{"failurePercentageEjection":{"threshold":40},"maxEjectionPercent":30}"#;
        let mut host = start(config, 10);
        interval(&mut host, &[80, 40, 41, 90, 70, 90, 90, 0, 0, 0]);
        assert_eq!(host.measured("ejected"), Some(3.0));
        assert_eq!(picked(&mut host), [0, 1, 2, 4, 7, 8, 9], "the worst go first");
    }

    #[test]
    fn failures_in_a_row_eject_at_once() {
        let mut host = start(r#"{"consecutiveFailures":3,"maxEjectionPercent":20}"#, 5);
        let fails = |id| outcome(id, StatusCode::Unavailable, SECOND);
        host.done(&[fails(1), fails(1), outcome(1, StatusCode::Ok, SECOND), fails(1), fails(1)]);
        assert_eq!(picked(&mut host).len(), 5);
        host.done(&[fails(1)]);
        assert_eq!(picked(&mut host), [0, 2, 3, 4]);
        host.done(&[fails(2), fails(2), fails(2)]);
        assert_eq!(picked(&mut host), [0, 2, 3, 4], "one of five is the limit");
        // Back in use, it can have as many failures again.
        host.run(40 * SECOND);
        assert_eq!(picked(&mut host).len(), 5);
        host.done(&[fails(1), fails(1)]);
        assert_eq!(picked(&mut host).len(), 5);
    }

    #[test]
    fn one_that_fails_fast_gets_little_of_an_hour() {
        let config = r#"{"consecutiveFailures":5}"#;
        for bad in [Server::fails(SECOND / 5_000), Server::fails(SECOND / 2)] {
            let well = Server::well(SECOND / 200);
            let world = World::new(start(config, 5), &[well; 5], 50).with_outcomes().with_alarms();
            let (share, _) = world.with_deadline(SECOND).bad_hour(bad);
            assert!(share < 0.02, "{share}");
        }
    }

    #[test]
    fn with_too_many_out_all_are_in() {
        let config = r#"{"consecutiveFailures":1,"maxEjectionPercent":100,"panicPercent":50}"#;
        let mut host = start(config, 6);
        for (id, in_use) in [(0, 5), (1, 4), (2, 6)] {
            host.done(&[outcome(id, StatusCode::Unavailable, SECOND)]);
            assert_eq!(picked(&mut host).len(), in_use);
        }
        assert_eq!(host.measured("ejected"), Some(3.0));
    }

    #[test]
    fn it_is_one_alone() {
        let error = FakeHost::<Outlier>::start_as_one_of_two("{}").expect_err("refused");
        assert!(error.starts_with("shards: must be 1"), "{error}");
    }

    #[test]
    fn if_none_is_left_all_are_in() {
        let config = r#"{"failurePercentageEjection":{"minimumHosts":1},"maxEjectionPercent":100}"#;
        let mut host = start(config, 3);
        interval(&mut host, &[100, 100, 100]);
        assert_eq!(host.measured("ejected"), Some(3.0));
        assert_eq!(picked(&mut host), [0, 1, 2]);
        interval(&mut host, &[]);
        host.ready(&[]);
        assert_eq!(host.pick(&Default::default()), PickResult::Queue);
    }

    #[test]
    fn enforcement_is_by_chance() {
        let config = r#"{"failurePercentageEjection":{"enforcementPercentage":25},"maxEjectionPercent":100}"#;
        let mut host = start(config, 400);
        interval(&mut host, &[100; 400]);
        let ejected = host.measured("ejected").expect("a gauge");
        assert!((65.0..135.0).contains(&ejected), "{ejected}");
    }

    #[test]
    fn what_the_client_ended_or_never_left_says_nothing() {
        let mut host = start("{}", 10);
        for _ in 0..100 {
            let ended = outcome(3, StatusCode::Cancelled, SECOND);
            host.done(&[Outcome { client_ended: true, ..ended }, Outcome { not_sent: true, ..ended }]);
        }
        interval(&mut host, &[0; 10]);
        assert_eq!(picked(&mut host).len(), 10);
        for _ in 0..100 {
            let ended = outcome(3, StatusCode::DeadlineExceeded, SECOND);
            host.done(&[Outcome { client_ended: true, ..ended }]);
        }
        interval(&mut host, &[0; 10]);
        assert_eq!(picked(&mut host).len(), 9, "that it did not answer in time does");
    }

    #[test]
    fn what_is_out_stays_out_at_a_swap() {
        let mut host = start("{}", 10);
        interval(&mut host, &[0, 0, 0, 80, 0, 0, 0, 0, 0, 0]);
        let saved = host.save();
        let mut next = FakeHost::<Outlier>::start("{}").expect("started");
        next.advance(10 * SECOND);
        next.restore(vec![saved]).expect("taken over");
        next.endpoints(&(0..10).map(|id| endpoint(id, &[])).collect::<Vec<_>>());
        assert!(!picked(&mut next).contains(&3));
        next.run(40 * SECOND);
        assert!(picked(&mut next).contains(&3));
        assert!(next.restore(vec![Saved { schema: SCHEMA, data: vec![0; 17] }]).is_err());
        assert!(next.restore(vec![Saved { schema: 1, data: Vec::new() }]).is_err());
    }

    #[test]
    fn bad_configuration_is_refused_by_the_name_of_its_field() {
        for (config, field) in [
            (
                r#"{"interval":"0s"}"#,
                "interval: must be a duration like \"1.5s\", 0.1 to 3600 seconds, not \"0s\"",
            ),
            (r#"{"baseEjectionTime":30}"#, "baseEjectionTime: "),
            (r#"{"maxEjectionTime":"-1s"}"#, "maxEjectionTime: "),
            (
                r#"{"maxEjectionPercent":101}"#,
                "maxEjectionPercent: must be a whole number, 0 to 100, not 101",
            ),
            (r#"{"successRateEjection":{"stdevFactor":-1}}"#, "successRateEjection.stdevFactor: "),
            (r#"{"successRateEjection":{"minimumHosts":0}}"#, "successRateEjection.minimumHosts: "),
            (r#"{"failurePercentageEjection":{"threshold":1e10}}"#, "failurePercentageEjection.threshold: "),
            (
                r#"{"failurePercentageEjection":{"volume":1}}"#,
                "failurePercentageEjection.volume: no such field",
            ),
            (r#"{"childPolicy":[]}"#, "childPolicy: no such field"),
        ] {
            let error = FakeHost::<Outlier>::start(config).expect_err(config);
            assert!(error.starts_with(field), "{config}: {error}");
        }
    }
}
