//! Compares two versions of a policy over the same interval. Pure.

use std::fmt;
use std::time::Duration;

use super::cohort::{Reading, SideReading};
use super::settings::{RolloutMode, RolloutSettings};

/// The verdict of an interval.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The new version is as good.
    Pass(String),
    /// The new version is worse.
    Fail(String),
    /// Too few RPCs to tell.
    NotEnough(String),
}

/// What chance makes once in thousands of comparisons does not count: so many standard deviations.
const DEVIATIONS: f64 = 4.0;
/// The same before there are enough RPCs.
const MANY_DEVIATIONS: f64 = 6.0;
/// RPCs of each version that say anything at all.
const FEWEST: u64 = 10;

/// Compares the two versions at the end of an interval.
pub(super) fn verdict(settings: &RolloutSettings, reading: &Reading) -> Verdict {
    if let Some(why) = severe(settings, reading) {
        return Verdict::Fail(why);
    }
    let Reading { active, candidate, .. } = reading;
    let numbers = numbers(settings, reading);
    let few = [("the new version", candidate), ("the active version", active)]
        .into_iter()
        .find(|(_, side)| side.tries() < settings.min_rpcs);
    if let Some((name, side)) = few {
        return Verdict::NotEnough(format!(
            "{} of {} RPCs of {name}: {numbers}",
            side.tries(),
            settings.min_rpcs
        ));
    }
    if let Some(why) = is_worse(settings, reading, DEVIATIONS, 0) {
        return Verdict::Fail(format!("{why}: {numbers}"));
    }
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99)] {
        if settings.mode == RolloutMode::Canary
            && is_slower(active, candidate, quantile, settings.max_latency_increase)
        {
            return Verdict::Fail(format!("its {name} is longer: {numbers}"));
        }
    }
    Verdict::Pass(numbers)
}

/// Returns why the new version must not go on, whatever else it does. This does not wait for the end of the interval: RPCs that
/// it keeps would never be enough for a verdict.
pub(super) fn severe(settings: &RolloutSettings, reading: &Reading) -> Option<String> {
    let Reading { active, candidate, .. } = reading;
    if candidate.tries().min(active.tries()) < FEWEST {
        return None;
    }
    let fallback = candidate.fallback as f64 / candidate.begun.max(1) as f64;
    // A fallback pick is a fault of the policy, not chance.
    let why = if candidate.fallback > 0 && fallback > settings.max_fallback {
        Some(format!("the fallback picked for {:.2} % of its RPCs", 100.0 * fallback))
    } else {
        is_worse(settings, reading, MANY_DEVIATIONS, FEWEST)
    };
    why.map(|why| format!("{why}: {}", numbers(settings, reading)))
}

/// Returns in what the new version is worse, by that many standard deviations and for so many RPCs.
fn is_worse(settings: &RolloutSettings, reading: &Reading, deviations: f64, fewest: u64) -> Option<String> {
    let failed = |side: &SideReading| (side.failed + side.unserved, side.tries());
    let unserved = |side: &SideReading| (side.unserved, side.tries());
    let unfinished = |side: &SideReading| (side.begun.saturating_sub(side.ended), side.begun);
    let measures: &[(&str, &Part)] = match settings.mode {
        RolloutMode::Canary => &[("fail", &failed), ("do not end", &unfinished)],
        // The RPCs of a shadow are the active version's.
        RolloutMode::Shadow => &[("find no endpoint", &unserved)],
    };
    measures.iter().find_map(|(what, of)| {
        let own = of(&reading.candidate);
        let (rate, other) = (Rate::of(own), Rate::of(of(&reading.active)));
        let is_so = own.0 >= fewest && rate.exceeds(other, settings.max_error_increase, deviations);
        is_so.then(|| {
            let [rate, other] = [rate, other].map(|rate| 100.0 * rate.value());
            format!("{rate:.2} % of its RPCs {what}, and {other:.2} % of the active version's")
        })
    })
}

/// Returns a part of the RPCs, and their number.
type Part = dyn Fn(&SideReading) -> (u64, u64);

/// A part of a number of RPCs.
#[derive(Clone, Copy)]
struct Rate {
    part: f64,
    of: f64,
}

impl Rate {
    fn of((part, of): (u64, u64)) -> Self {
        Self { part: part as f64, of: of as f64 }
    }

    fn value(self) -> f64 {
        self.part / self.of.max(1.0)
    }

    /// Returns whether this is greater than another rate by more than that, and not by chance.
    fn exceeds(self, other: Self, by: f64, deviations: f64) -> bool {
        let difference = self.value() - other.value();
        let together = (self.part + other.part) / (self.of + other.of).max(1.0);
        let deviation =
            (together * (1.0 - together) * (1.0 / self.of.max(1.0) + 1.0 / other.of.max(1.0))).sqrt();
        difference > by && difference > deviations * deviation
    }
}

/// Returns whether the candidate's latency at a quantile is longer, by more than that and not by chance: more of its RPCs
/// take longer than the active version's quantile than the active version's own.
fn is_slower(active: &SideReading, candidate: &SideReading, quantile: f64, by: f64) -> bool {
    let of = |side: &SideReading| side.quantile(quantile).map(|latency| latency.as_secs_f64());
    let (Some(own), Some(other), Some(bucket)) = (of(candidate), of(active), active.bucket_at(quantile))
    else {
        return false;
    };
    let above = |side: &SideReading| Rate::of((side.above(bucket), side.ended));
    own > other * (1.0 + by) && above(candidate).exceeds(above(active), 0.0, DEVIATIONS)
}

fn numbers(settings: &RolloutSettings, reading: &Reading) -> String {
    if settings.mode == RolloutMode::Shadow {
        let Reading { compared, agreed, candidate, .. } = reading;
        let share = 100.0 * *agreed as f64 / (*compared).max(1) as f64;
        let SideReading { unserved, fallback, .. } = candidate;
        return format!(
            "{agreed} of {compared} picks are the same ({share:.1} %), {unserved} found no endpoint, {fallback} by the fallback"
        );
    }
    let side = |side: &SideReading| {
        let ms = |latency: Option<Duration>| {
            latency.map_or_else(|| "-".to_owned(), |latency| format!("{:.2}", latency.as_secs_f64() * 1e3))
        };
        let (p50, p99) = (ms(side.quantile(0.5)), ms(side.quantile(0.99)));
        let failed = 100.0 * side.failure_rate();
        format!("{} RPCs, {failed:.2} % failed, p50 {p50} ms, p99 {p99} ms", side.begun)
    };
    format!("new {}; active {}", side(&reading.candidate), side(&reading.active))
}

impl Verdict {
    /// Returns the verdict in one word or two.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Pass(_) => "pass",
            Self::Fail(_) => "fail",
            Self::NotEnough(_) => "not enough",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Pass(why) | Self::Fail(why) | Self::NotEnough(why)) = self;
        write!(f, "{}: {why}", self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::super::cohort::Cohort;
    use super::*;
    use crate::picker::PickedBy;
    use crate::subconn::DoneInfo;
    use tonic::Code;

    fn settings() -> RolloutSettings {
        RolloutSettings::default()
    }

    /// Returns a reading of so many RPCs of each side; `code` and latency (ms) by side and number.
    fn reading(counts: [u64; 2], rpc: impl Fn(usize, u64) -> (Code, f64)) -> Reading {
        let cohort = Cohort::default();
        for (side, count) in counts.into_iter().enumerate() {
            let counters = [&cohort.active, &cohort.candidate][side];
            for number in 0..count {
                counters.begins(PickedBy::Called);
                let (code, ms) = rpc(side, number);
                let latency = Duration::from_secs_f64(ms / 1e3);
                counters.ends(&DoneInfo { code: Some(code), client_ended: false, trailers: None, latency });
            }
        }
        cohort.read()
    }

    /// Exponential latencies, from the quantiles themselves in an order that looks random.
    fn exponential(number: u64, mean: f64) -> f64 {
        let uniform = (number as f64 * 0.618_033_988_75).fract();
        -mean * (1.0 - uniform).ln()
    }

    #[test]
    fn the_same_is_as_good() {
        let same = reading([10_000, 200], |_, number| (Code::Ok, exponential(number, 5.0)));
        assert!(matches!(verdict(&settings(), &same), Verdict::Pass(_)), "{}", verdict(&settings(), &same));
    }

    #[test]
    fn few_rpcs_are_not_enough_unless_they_are_that_bad() {
        let with = |counts: [u64; 2], code: Code| {
            reading(counts, move |side, _| if side == 1 { (code, 900.0) } else { (Code::Ok, 1.0) })
        };
        // Slow ones may be so by chance, and so may all be of a handful.
        let few = [([10_000, 199], Code::Ok), ([199, 10_000], Code::Ok), ([10_000, 9], Code::Internal)];
        for (counts, code) in few {
            assert!(matches!(verdict(&settings(), &with(counts, code)), Verdict::NotEnough(_)));
        }
        assert!(matches!(verdict(&settings(), &with([10_000, 10], Code::Internal)), Verdict::Fail(_)));
        assert!(matches!(verdict(&settings(), &Reading::default()), Verdict::NotEnough(_)));
    }

    #[test]
    fn errors_are_found_and_chance_is_not() {
        let with = |bad: u64| {
            reading([20_000, 200], move |side, number| {
                let is_bad = if side == 1 { number < bad } else { number % 100 == 0 };
                (if is_bad { Code::Unavailable } else { Code::Ok }, exponential(number, 5.0))
            })
        };
        // The active version fails 1 %: 3 of 200 is chance, 12 of 200 is not.
        assert!(matches!(verdict(&settings(), &with(3)), Verdict::Pass(_)));
        let said = verdict(&settings(), &with(12)).to_string();
        assert!(said.starts_with("fail: 6.00 % of its RPCs fail, and 1.00 %"), "{said}");
    }

    #[test]
    fn a_longer_latency_is_found() {
        let slower = |factor: f64| {
            reading([20_000, 1000], move |side, number| {
                (Code::Ok, exponential(number, if side == 1 { 5.0 * factor } else { 5.0 }))
            })
        };
        assert!(matches!(verdict(&settings(), &slower(1.1)), Verdict::Pass(_)));
        assert!(verdict(&settings(), &slower(1.6)).to_string().starts_with("fail: its p50 is longer"));
        // Only the slowest 4 % are slower.
        let tail = reading([20_000, 2000], |side, number| {
            let is_slow = side == 1 && number % 25 == 0;
            (Code::Ok, exponential(number, 5.0) + if is_slow { 200.0 } else { 0.0 })
        });
        assert!(verdict(&settings(), &tail).to_string().starts_with("fail: its p99 is longer"));
    }

    #[test]
    fn rpcs_that_do_not_end_count() {
        let cohort = Cohort::default();
        for number in 0..10_000u64 {
            cohort.active.begins(PickedBy::Called);
            let latency = Duration::from_millis(1);
            if number % 100 > 0 {
                cohort.active.ends(&DoneInfo {
                    code: Some(Code::Ok),
                    client_ended: false,
                    trailers: None,
                    latency,
                });
            }
            if number < 300 {
                cohort.candidate.begins(PickedBy::Called);
            }
        }
        let said = verdict(&settings(), &cohort.read()).to_string();
        assert!(said.starts_with("fail: 100.00 % of its RPCs do not end, and 1.00 %"), "{said}");
    }

    #[test]
    fn fallback_picks_fail_before_there_are_enough_rpcs() {
        let cohort = Cohort::default();
        (0..10).for_each(|_| cohort.candidate.begins(PickedBy::Fallback));
        (0..10).for_each(|_| cohort.active.begins(PickedBy::Called));
        assert!(matches!(verdict(&settings(), &cohort.read()), Verdict::Fail(_)));
    }
}
