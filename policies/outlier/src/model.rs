//! gRFC A50, implemented independently as in its text, and compared with the policy in random histories.

use std::collections::BTreeMap;

use hotpick_guest::random::Random;
use hotpick_guest::testing::{FakeHost, endpoint, histories, outcome};
use hotpick_guest::{Duration, StatusCode, SubConn};

use super::Outlier;

const SECOND: u64 = 1_000;
const BASE: u64 = 30 * SECOND;
const LONGEST: u64 = 300 * SECOND;

/// An entry of the address map. Times in milliseconds.
#[derive(Clone, Default)]
struct Entry {
    successes: u64,
    failures: u64,
    ejected_at: Option<u64>,
    multiplier: u64,
}

#[derive(Clone, Copy)]
struct Settings {
    stdev_factor: u64,
    by_success_rate: bool,
    threshold: u64,
    by_failures: bool,
    minimum_hosts: usize,
    volume: u64,
    max_percent: usize,
}

impl Settings {
    fn config(self) -> String {
        let Self { stdev_factor, threshold, minimum_hosts, volume, max_percent, .. } = self;
        let common = format!(r#""minimumHosts":{minimum_hosts},"requestVolume":{volume}"#);
        let mut config = format!(r#"{{"maxEjectionPercent":{max_percent}"#);
        if self.by_success_rate {
            config += &format!(r#","successRateEjection":{{"stdevFactor":{stdev_factor},{common}}}"#);
        }
        if self.by_failures {
            config += &format!(r#","failurePercentageEjection":{{"threshold":{threshold},{common}}}"#);
        }
        config + "}"
    }
}

/// Returns the addresses to eject by one algorithm. A50 leaves their order open.
fn by_success_rate(map: &BTreeMap<SubConn, Entry>, of: Settings) -> Vec<SubConn> {
    let rates: Vec<(SubConn, f64)> = map
        .iter()
        .filter(|(_, entry)| entry.successes + entry.failures >= of.volume)
        .map(|(id, entry)| (*id, 100.0 * entry.successes as f64 / (entry.successes + entry.failures) as f64))
        .collect();
    if rates.len() < of.minimum_hosts {
        return Vec::new();
    }
    let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / rates.len() as f64;
    let variance = rates.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / rates.len() as f64;
    let least = mean - variance.sqrt() * (of.stdev_factor as f64 / 1_000.0);
    rates.into_iter().filter(|(_, rate)| *rate < least).map(|(id, _)| id).collect()
}

fn by_failures(map: &BTreeMap<SubConn, Entry>, of: Settings) -> Vec<SubConn> {
    let counted: Vec<_> =
        map.iter().filter(|(_, entry)| entry.successes + entry.failures >= of.volume).collect();
    if counted.len() < of.minimum_hosts {
        return Vec::new();
    }
    let fails = |entry: &Entry| {
        100.0 * entry.failures as f64 / (entry.successes + entry.failures) as f64 > of.threshold as f64
    };
    counted.into_iter().filter(|(_, entry)| fails(entry)).map(|(id, _)| *id).collect()
}

/// Fires the timer of A50.
fn sweep(map: &mut BTreeMap<SubConn, Entry>, now: u64, of: Settings) {
    let mut found = Vec::new();
    if of.by_success_rate {
        found.extend(by_success_rate(map, of));
    }
    if of.by_failures {
        found.extend(by_failures(map, of));
    }
    // The worst first.
    found.sort_by(|one, other| {
        let rate = |id: &SubConn| {
            let Entry { successes, failures, .. } = map[id];
            successes as f64 / (successes + failures) as f64
        };
        rate(one).partial_cmp(&rate(other)).expect("rates").then(one.cmp(other))
    });
    for id in found {
        let ejected = map.values().filter(|entry| entry.ejected_at.is_some()).count();
        if ejected as f64 / map.len() as f64 >= of.max_percent as f64 / 100.0 {
            break;
        }
        let entry = map.get_mut(&id).expect("an address");
        if entry.ejected_at.is_none() {
            entry.ejected_at = Some(now);
            entry.multiplier += 1;
        }
    }
    for entry in map.values_mut() {
        (entry.successes, entry.failures) = (0, 0);
        match entry.ejected_at {
            None => entry.multiplier = entry.multiplier.saturating_sub(1),
            Some(at) => {
                if now > at + u64::min(BASE * entry.multiplier, u64::max(BASE, LONGEST)) {
                    entry.ejected_at = None;
                }
            }
        }
    }
}

fn history(mut random: Random) {
    let of = Settings {
        stdev_factor: [500, 1_000, 1_900][random.below(3)],
        by_success_rate: random.below(3) > 0,
        threshold: [20, 50, 85][random.below(3)],
        by_failures: random.below(2) > 0,
        minimum_hosts: [1, 3, 5][random.below(3)],
        volume: [1, 10, 100][random.below(3)],
        max_percent: [10, 30, 50, 100][random.below(4)],
    };
    let of = Settings { by_success_rate: of.by_success_rate || !of.by_failures, ..of };
    let mut host = FakeHost::<Outlier>::start(&of.config()).expect("started");
    let (mut map, mut now, mut last) = (BTreeMap::new(), 0, 0);
    for _ in 0..40 {
        if map.len() < 3 || random.below(6) == 0 {
            last += 1;
            map.insert(last, Entry::default());
            host.change(&[endpoint(last, &[])], &[]);
        } else if random.below(8) == 0 {
            let id = *map.keys().nth(random.below(map.len())).expect("some");
            map.remove(&id);
            host.change(&[], &[id]);
        }
        let ids: Vec<_> = map.keys().copied().collect();
        for id in &ids {
            let entry = map.get_mut(id).expect("an address");
            if entry.ejected_at.is_some() && random.below(4) > 0 {
                continue;
            }
            let total = [0, 5, 20, 120][random.below(4)];
            let failures =
                if random.below(3) == 0 { random.below(total + 1) } else { random.below(total / 20 + 1) };
            let code = |n: usize| if n < failures { StatusCode::Internal } else { StatusCode::Ok };
            host.done(&(0..total).map(|n| outcome(*id, code(n), Duration::ZERO)).collect::<Vec<_>>());
            entry.failures += failures as u64;
            entry.successes += (total - failures) as u64;
        }
        now += 10 * SECOND;
        host.run(Duration::from_secs(10));
        sweep(&mut map, now, of);
        host.ready(&ids);
        // The policy uses all if all are ejected.
        let mut expected: Vec<_> = ids.iter().copied().filter(|id| map[id].ejected_at.is_none()).collect();
        if expected.is_empty() {
            expected.clone_from(&ids);
        }
        let mut picked = host.picks(ids.len());
        picked.sort_unstable();
        picked.dedup();
        assert_eq!(picked, expected, "{}", of.config());
    }
}

#[test]
fn it_is_as_grfc_a50_in_random_histories() {
    histories(&[], history);
}
