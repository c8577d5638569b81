//! `weighted_round_robin`: RPCs in proportion to weights, interleaved as evenly as in round robin.
//!
//! Follows gRFC A58 and grpc-go's `balancer/weightedroundrobin`. The weights come from the servers' load reports
//! (ORCA, gRFC A51, in the trailers of RPCs): queries per second divided by utilization, less a penalty for errors.
//! While fewer than two endpoints have reported, the weights of the endpoints themselves are used. If those are equal,
//! the policy is round robin. Reports are handed over at a swap.

#[cfg(test)]
mod model;

use hotpick_guest::config::Config as _;
use hotpick_guest::group::Rotation;
use hotpick_guest::metrics::Counter;
use hotpick_guest::stride::Stride;
use hotpick_guest::{
    About, Alarms, Description, Duration, Endpoint, Handover, Nanos, Outcome, Outcomes, PickInfo, PickResult,
    Placement, Plan, Plans, Policy, Saved, SubConn, SubConnMap, call, env, nanos, timers,
};

hotpick_guest::config! {
    /// RPCs in proportion to weights.
    struct Config {
        /// Whether the weights come from the servers' load reports. Otherwise they are those of the endpoints.
        load_reports: bool = true,
        /// How long an endpoint must report before its weight is used.
        #[range(0.0..=86_400.0)]
        blackout_period: Duration = Duration::from_secs(10),
        /// How long a weight is used after its last report.
        #[range(0.0..=86_400.0)]
        weight_expiration_period: Duration = Duration::from_secs(180),
        /// How often the weights are recomputed.
        #[range(0.1..=3600.0)]
        weight_update_period: Duration = Duration::from_secs(1),
        /// Factor by which errors (errors per second divided by queries per second) add to the utilization.
        #[range(0.0..=1_000.0)]
        error_utilization_penalty: f64 = 1.0,
    }
}

/// Bounds of a plausible weight (queries per second divided by utilization). Other reports are ignored.
const LIGHTEST: f64 = 1e-9;
const HEAVIEST: f64 = 1e12;
/// Number of the timer that recomputes the weights.
const UPDATE: u32 = 0;

#[derive(Debug)]
struct WeightedRoundRobin {
    config: Config,
    endpoints: SubConnMap<Weighted>,
    /// Restored reports, until the list is known. Reports of endpoints that are not on it are dropped.
    restored: Vec<(SubConn, Report)>,
    /// Number of notifications of ready subconns.
    notified: u64,
    turns: Rotation,
    /// Schedule over the members of `turns`, if their weights differ.
    stride: Option<Stride>,
    counters: Counters,
}

/// Counters by gRPC's names (gRFC A78), counted each time that the weights are recomputed.
#[derive(Debug)]
struct Counters {
    /// Fewer than two endpoints had a reported weight.
    rr_fallback: Counter,
    /// Endpoints without a report, or in their blackout period.
    not_yet_usable: Counter,
    /// Endpoints whose last report was too old.
    stale: Counter,
}

/// Whether the reported weight of an endpoint counts.
enum Reported {
    Weight(f64),
    NotYetUsable,
    Stale,
}

/// Weight of an endpoint.
#[derive(Debug)]
struct Weighted {
    /// Weight of the endpoint itself.
    given: u32,
    report: Option<Report>,
    /// Value of `notified` when the endpoint was last ready.
    ready_at: u64,
}

/// Load report of an endpoint's server.
#[derive(Clone, Copy, Debug)]
struct Report {
    weight: f64,
    /// Time of the first report since the endpoint became ready or its weight expired. `None`: no report since.
    first: Option<Nanos>,
    last: Nanos,
}

/// Format of the handed-over state: 28 bytes for each endpoint.
const SCHEMA: u32 = u32::from_be_bytes(*b"WRR1");
const ENTRY: usize = 28;
/// Most entries that are handed over. The host accepts 256 KiB.
const HANDED_OVER: usize = 9_000;

impl Policy for WeightedRoundRobin {
    fn init(config: &str, _placement: &Placement) -> Result<Self, String> {
        let config = Config::parse(config)?;
        if config.weight_expiration_period < config.blackout_period {
            return Err("weightExpirationPeriod: must not be less than blackoutPeriod".to_owned());
        }
        if config.load_reports {
            timers::schedule(UPDATE, nanos(config.weight_update_period))?;
        }
        let (endpoints, turns) = (SubConnMap::default(), Rotation::default());
        let counters = Counters {
            rr_fallback: Counter::new(
                "grpc_lb_wrr_rr_fallback",
                "Updates of the weights with fewer than two reported ones",
            )?,
            not_yet_usable: Counter::new(
                "grpc_lb_wrr_endpoint_weight_not_yet_usable",
                "Endpoints without a usable report, summed over the updates of the weights",
            )?,
            stale: Counter::new(
                "grpc_lb_wrr_endpoint_weight_stale",
                "Endpoints whose last report is too old, summed over the updates of the weights",
            )?,
        };
        Ok(Self { config, endpoints, restored: Vec::new(), notified: 0, turns, stride: None, counters })
    }

    fn endpoints(&mut self, added: &[Endpoint], removed: &[SubConn], now: Nanos) {
        for id in removed {
            self.endpoints.remove(*id);
        }
        for endpoint in added {
            let new = || Weighted { given: 0, report: None, ready_at: 0 };
            self.endpoints.get_or_insert_with(endpoint.id, new).given = endpoint.weight;
        }
        // The first list contains all endpoints.
        for (id, mut report) in std::mem::take(&mut self.restored) {
            // A damaged time in the future must not keep a weight forever.
            report.last = report.last.min(now);
            report.first = report.first.map(|first| first.min(now));
            if let Some(endpoint) = self.endpoints.get_mut(id) {
                let is_later = endpoint.report.is_none_or(|known| known.last < report.last);
                endpoint.report = if is_later { Some(report) } else { endpoint.report };
            }
        }
        self.schedule(now);
    }

    fn ready(&mut self, ready: &[SubConn], now: Nanos) {
        self.notified += 1;
        for id in ready {
            let Some(endpoint) = self.endpoints.get_mut(*id) else { continue };
            let was_ready = std::mem::replace(&mut endpoint.ready_at, self.notified) + 1 == self.notified;
            // A58: after a reconnect, the weight is used when the endpoint has reported for the blackout period again.
            // Endpoints that were ready under the previous version are not new.
            if let Some(report) = &mut endpoint.report
                && !was_ready
                && self.notified > 1
            {
                report.first = None;
            }
        }
        self.turns.update(ready.to_vec());
        self.schedule(now);
    }

    fn pick(&mut self, info: &PickInfo) -> PickResult {
        call::untried(info, || self.next()).map_or(PickResult::Queue, PickResult::Pick)
    }
}

impl Plans for WeightedRoundRobin {
    fn plan(&mut self, budget: usize, _random: u64, _now: Nanos) -> Plan {
        match &mut self.stride {
            Some(_) => Plan::sequence(budget, || self.next()),
            None => self.turns.plan(budget),
        }
    }
}

impl WeightedRoundRobin {
    fn next(&mut self) -> Option<SubConn> {
        match &mut self.stride {
            Some(stride) => self.turns.members().get(stride.next()).copied(),
            None => self.turns.pick(),
        }
    }

    /// Recomputes the weights.
    fn schedule(&mut self, now: Nanos) {
        let Self { config, endpoints, turns, counters, .. } = self;
        let (mut known, mut not_yet_usable, mut stale) = (0, 0, 0);
        let mut weights: Vec<f64> = Vec::with_capacity(turns.members().len());
        for id in turns.members() {
            let reported = endpoints.get_mut(*id).map(|endpoint| endpoint.reported(config, now));
            weights.push(match reported.unwrap_or(Reported::NotYetUsable) {
                Reported::Weight(weight) => {
                    known += 1;
                    weight
                }
                Reported::NotYetUsable => {
                    not_yet_usable += 1;
                    0.0
                }
                Reported::Stale => {
                    stale += 1;
                    0.0
                }
            });
        }
        if config.load_reports && !weights.is_empty() {
            for (counter, count) in [
                (counters.rr_fallback, u64::from(known < 2)),
                (counters.not_yet_usable, not_yet_usable),
                (counters.stale, stale),
            ] {
                if count > 0 {
                    counter.add(count);
                }
            }
        }
        if known < 2 {
            let given = |id: &SubConn| endpoints.get(*id).map_or(1.0, |endpoint| f64::from(endpoint.given));
            weights = turns.members().iter().map(given).collect();
            if weights.windows(2).all(|pair| pair[0] == pair[1]) {
                self.stride = None;
                return;
            }
        }
        // Keep the position: with few RPCs between two updates, each would otherwise start over.
        let at = self.stride.as_ref().map_or_else(|| env::random() >> 32, Stride::position);
        self.stride = Stride::new(&weights, at);
    }
}

impl Weighted {
    /// Returns the weight to use now.
    fn reported(&mut self, config: &Config, now: Nanos) -> Reported {
        let Some(report) = &mut self.report else { return Reported::NotYetUsable };
        if now.saturating_sub(report.last) >= nanos(config.weight_expiration_period) {
            // The blackout period starts again with the next report.
            report.first = None;
            return Reported::Stale;
        }
        let blackout = nanos(config.blackout_period);
        let counts = |first: Nanos| now.saturating_sub(first) >= blackout;
        if blackout == 0 || report.first.is_some_and(counts) {
            Reported::Weight(report.weight)
        } else {
            Reported::NotYetUsable
        }
    }

    fn reports(&mut self, load: hotpick_guest::Load, penalty: f64, now: Nanos) {
        let utilization = if load.application > 0.0 { load.application } else { load.cpu };
        if load.rps > 0.0 && utilization > 0.0 {
            let errors = if load.eps > 0.0 { load.eps / load.rps * penalty } else { 0.0 };
            let weight = load.rps / (utilization + errors);
            // No real server has such a weight.
            if (LIGHTEST..HEAVIEST).contains(&weight) {
                let first = self.report.and_then(|before| before.first).or(Some(now));
                self.report = Some(Report { weight, first, last: now });
            }
        }
    }
}

impl Outcomes for WeightedRoundRobin {
    fn done(&mut self, batch: &[Outcome], now: Nanos) {
        if !self.config.load_reports {
            return;
        }
        for outcome in batch {
            if let (Some(load), Some(endpoint)) = (outcome.load, self.endpoints.get_mut(outcome.subconn)) {
                endpoint.reports(load, self.config.error_utilization_penalty, now);
            }
        }
    }
}

impl Alarms for WeightedRoundRobin {
    fn fired(&mut self, _id: u32, now: Nanos) {
        self.schedule(now);
        let _ = timers::schedule(UPDATE, nanos(self.config.weight_update_period));
    }
}

impl Handover for WeightedRoundRobin {
    fn save(&mut self) -> Saved {
        let mut data = Vec::new();
        let reports = self.endpoints.iter().filter_map(|(id, endpoint)| Some((id, endpoint.report?)));
        for (id, report) in reports.take(HANDED_OVER) {
            data.extend(id.to_le_bytes());
            data.extend(report.weight.to_le_bytes());
            data.extend(report.first.unwrap_or(Nanos::MAX).to_le_bytes());
            data.extend(report.last.to_le_bytes());
        }
        Saved { schema: SCHEMA, data }
    }

    fn restore(&mut self, parts: Vec<Saved>) -> Result<(), String> {
        for part in &parts {
            if part.schema != SCHEMA || part.data.len() % ENTRY != 0 {
                return Err("the state does not contain weights of this format".to_owned());
            }
            self.restored.extend(part.data.chunks_exact(ENTRY).filter_map(restored));
        }
        Ok(())
    }
}

/// Parses a handed-over entry. `None` if it is invalid.
fn restored(entry: &[u8]) -> Option<(SubConn, Report)> {
    let (id, rest) = entry.split_first_chunk()?;
    let (weight, rest) = rest.split_first_chunk()?;
    let (first, last) = rest.split_first_chunk()?;
    let weight = f64::from_le_bytes(*weight);
    let first = Some(Nanos::from_le_bytes(*first)).filter(|first| *first < Nanos::MAX);
    let report = Report { weight, first, last: Nanos::from_le_bytes(*last.first_chunk()?) };
    (LIGHTEST..HEAVIEST).contains(&weight).then_some((SubConn::from_le_bytes(*id), report))
}

impl About for WeightedRoundRobin {
    fn describe() -> Description {
        Description::of::<Config>("RPCs in proportion to weights, from load reports or from the endpoints.")
    }
}

hotpick_guest::export!(WeightedRoundRobin: Plans, Outcomes, Alarms, Handover, About);

#[cfg(test)]
mod tests {
    use hotpick_guest::testing::{FakeHost, endpoint, outcome};
    use hotpick_guest::{Load, StatusCode};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn start(config: &str) -> FakeHost<WeightedRoundRobin> {
        let mut host = FakeHost::start(config).expect("started");
        host.endpoints(&[endpoint(0, &[]), endpoint(1, &[]), endpoint(2, &[])]);
        host
    }

    fn report(host: &mut FakeHost<WeightedRoundRobin>, id: SubConn, cpu: f64, rps: f64, eps: f64) {
        let load = Some(Load { application: 0.0, cpu, memory: 0.0, rps, eps });
        host.done(&[Outcome { load, ..outcome(id, StatusCode::Ok, SECOND) }]);
    }

    /// Asserts the counts of 600 picks, within 2.
    fn shares(host: &mut FakeHost<WeightedRoundRobin>, expected: [usize; 3]) {
        let counts = host.counts(&[0, 1, 2], 600);
        assert!(
            counts.iter().zip(expected).all(|(count, expected)| count.abs_diff(expected) <= 2),
            "{counts:?}"
        );
    }

    #[test]
    fn the_weights_of_the_endpoints_count_without_reports() {
        let mut host = start("{}");
        shares(&mut host, [200, 200, 200]);
        host.change(&[Endpoint { weight: 4, ..endpoint(1, &[]) }], &[]);
        shares(&mut host, [100, 400, 100]);
        host.ready(&[0, 1]);
        shares(&mut host, [120, 480, 0]);
        host.ready(&[]);
        assert_eq!(host.pick(&Default::default()), PickResult::Queue);
    }

    #[test]
    fn a_plan_has_the_picks_that_would_follow() {
        let weighted = [endpoint(0, &[]), Endpoint { weight: 4, ..endpoint(1, &[]) }, endpoint(2, &[])];
        let [mut called, mut planned] = [start("{}"), start("{}")];
        for host in [&mut called, &mut planned] {
            host.endpoints(&weighted);
        }
        // Each host starts at its own position.
        let all = called.picks(12);
        let Plan::Sequence(picks) = planned.plan(6) else { panic!("no plan") };
        assert!(all.windows(6).any(|window| window == picks), "{picks:?} in {all:?}");
    }

    #[test]
    fn reported_weights_count_after_the_blackout_and_until_they_expire() {
        let mut host = start(r#"{"weightExpirationPeriod":"60s"}"#);
        for (id, cpu) in [(0, 0.25), (1, 0.5), (2, 0.5)] {
            report(&mut host, id, cpu, 100.0, 0.0);
        }
        host.run(9 * SECOND);
        shares(&mut host, [200, 200, 200]);
        host.run(2 * SECOND);
        shares(&mut host, [300, 150, 150]);
        host.run(48 * SECOND);
        shares(&mut host, [300, 150, 150]);
        host.run(2 * SECOND);
        shares(&mut host, [200, 200, 200]);
        // A report after expiry starts a new blackout period.
        for id in [0, 1, 2] {
            report(&mut host, id, 0.1 * f64::from(1 + id), 100.0, 0.0);
        }
        host.run(9 * SECOND);
        shares(&mut host, [200, 200, 200]);
    }

    #[test]
    fn errors_count_against_an_endpoint_and_the_application_knows_best() {
        let mut host = start(r#"{"blackoutPeriod":"0s","errorUtilizationPenalty":2}"#);
        // 100 / (0.5 + 25 / 100 * 2) = 100; 100 / 0.5 = 200; the third uses its application's utilization: 300.
        report(&mut host, 0, 0.5, 100.0, 25.0);
        report(&mut host, 1, 0.5, 100.0, 0.0);
        let load = Some(Load { application: 1.0 / 3.0, cpu: 0.9, memory: 0.0, rps: 100.0, eps: 0.0 });
        host.done(&[Outcome { load, ..outcome(2, StatusCode::Ok, SECOND) }]);
        host.run(SECOND);
        shares(&mut host, [100, 200, 300]);
    }

    #[test]
    fn one_that_has_not_reported_has_the_mean() {
        let mut host = start(r#"{"blackoutPeriod":"0s"}"#);
        report(&mut host, 0, 0.5, 100.0, 0.0);
        report(&mut host, 1, 0.25, 100.0, 0.0);
        // Implausible reports are ignored.
        report(&mut host, 2, 0.0, 100.0, 0.0);
        report(&mut host, 2, f64::NAN, -1.0, 0.0);
        report(&mut host, 2, 0.5, f64::INFINITY, 0.0);
        report(&mut host, 2, 1e-308, 1e300, 0.0);
        host.run(SECOND);
        shares(&mut host, [133, 267, 200]);
    }

    #[test]
    fn a_new_connection_begins_anew() {
        let mut host = start(r#"{"blackoutPeriod":"5s"}"#);
        for (id, cpu) in [(0, 0.25), (1, 0.5), (2, 0.5)] {
            report(&mut host, id, cpu, 100.0, 0.0);
        }
        host.run(6 * SECOND);
        shares(&mut host, [300, 150, 150]);
        host.ready(&[1, 2]);
        host.ready(&[0, 1, 2]);
        // 0 gets the mean of the other two.
        shares(&mut host, [200, 200, 200]);
    }

    #[test]
    fn without_a_blackout_a_new_connection_changes_nothing() {
        let mut host = start(r#"{"blackoutPeriod":"0s"}"#);
        for (id, cpu) in [(0, 0.25), (1, 0.5), (2, 0.5)] {
            report(&mut host, id, cpu, 100.0, 0.0);
        }
        host.ready(&[1, 2]);
        host.ready(&[0, 1, 2]);
        shares(&mut host, [300, 150, 150]);
    }

    #[test]
    fn weights_are_handed_over() {
        let mut host = start("{}");
        for (id, cpu) in [(0, 0.25), (1, 0.5), (2, 0.5)] {
            report(&mut host, id, cpu, 100.0, 0.0);
        }
        host.run(11 * SECOND);
        shares(&mut host, [300, 150, 150]);
        let saved = host.save();
        let mut next = FakeHost::<WeightedRoundRobin>::start("{}").expect("started");
        next.advance(11 * SECOND);
        next.restore(vec![saved]).expect("taken over");
        next.endpoints(&[endpoint(0, &[]), endpoint(1, &[]), endpoint(2, &[])]);
        shares(&mut next, [300, 150, 150]);
        next.run(170 * SECOND);
        shares(&mut next, [200, 200, 200]);
        assert!(next.restore(vec![Saved { schema: SCHEMA, data: vec![0; 27] }]).is_err());
        assert!(next.restore(vec![Saved { schema: 1, data: Vec::new() }]).is_err());
    }

    #[test]
    fn the_shares_are_right_also_if_rpcs_are_rare() {
        let mut host = start(r#"{"blackoutPeriod":"0s","weightExpirationPeriod":"86400s"}"#);
        for (id, cpu) in [(0, 0.1), (1, 0.1), (2, 0.8)] {
            report(&mut host, id, cpu, 100.0, 0.0);
        }
        host.run(SECOND);
        let mut counts = [0usize; 3];
        for _ in 0..1_700 {
            host.run(SECOND);
            counts[host.picks(1)[0] as usize] += 1;
        }
        assert!(counts[0].abs_diff(800) <= 2 && counts[2].abs_diff(100) <= 2, "{counts:?}");
    }

    #[test]
    fn reports_can_be_ignored() {
        let mut host = start(r#"{"loadReports":false,"blackoutPeriod":"0s"}"#);
        for id in [0, 1, 2] {
            report(&mut host, id, 0.1 * f64::from(1 + id), 100.0, 0.0);
        }
        host.run(10 * SECOND);
        shares(&mut host, [200, 200, 200]);
    }

    #[test]
    fn bad_configuration_is_refused_by_the_name_of_its_field() {
        for (config, field) in [
            (r#"{"blackoutPeriod":10}"#, "blackoutPeriod: must be a duration"),
            (r#"{"blackoutPeriod":"-1s"}"#, "blackoutPeriod: "),
            (r#"{"weightUpdatePeriod":"0s"}"#, "weightUpdatePeriod: "),
            (
                r#"{"weightExpirationPeriod":"9s"}"#,
                "weightExpirationPeriod: must not be less than blackoutPeriod",
            ),
            (r#"{"errorUtilizationPenalty":-1}"#, "errorUtilizationPenalty: "),
            (r#"{"enableOobLoadReport":true}"#, "enableOobLoadReport: no such field"),
        ] {
            let error = FakeHost::<WeightedRoundRobin>::start(config).expect_err(config);
            assert!(error.starts_with(field), "{config}: {error}");
        }
    }
}
