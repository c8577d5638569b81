//! gRFC A58, implemented independently as in its text, and compared with the policy in random histories.

use std::collections::BTreeMap;

use hotpick_guest::random::Random;
use hotpick_guest::testing::{FakeHost, endpoint, histories, outcome};
use hotpick_guest::{Duration, Load, Outcome, StatusCode, SubConn};

use super::WeightedRoundRobin;

/// An endpoint's weight, as in A58. Times in seconds; infinity means never.
#[derive(Clone)]
struct Endpoint {
    weight: f64,
    non_empty_since: f64,
    last_update_time: f64,
    is_ready: bool,
}

const EXPIRATION: f64 = 60.0;

impl Endpoint {
    fn update(&mut self, load: &Load, penalty: f64, now: f64) {
        let utilization = if load.application > 0.0 { load.application } else { load.cpu };
        let weight = if load.rps > 0.0 && utilization > 0.0 {
            load.rps / (utilization + load.eps / load.rps * penalty)
        } else {
            0.0
        };
        if weight > 0.0 {
            if self.non_empty_since == f64::INFINITY {
                self.non_empty_since = now;
            }
            self.last_update_time = now;
            self.weight = weight;
        }
    }

    fn get_weight(&mut self, blackout: f64, now: f64) -> f64 {
        if now - self.last_update_time >= EXPIRATION {
            self.non_empty_since = f64::INFINITY;
            return 0.0;
        }
        if blackout > 0.0 && now - self.non_empty_since < blackout {
            return 0.0;
        }
        self.weight
    }
}

/// Shares of the scheduler, by weight. A weight counts as at most ten times and at least a hundredth of the mean.
/// Endpoints without a weight get the mean. With fewer than two weights, all are equal.
fn shares(weights: &[f64]) -> Vec<f64> {
    let known: Vec<_> = weights.iter().copied().filter(|weight| *weight > 0.0).collect();
    if known.len() < 2 {
        return vec![1.0 / weights.len() as f64; weights.len()];
    }
    let mean = known.iter().sum::<f64>() / known.len() as f64;
    let bounded = |weight: &f64| {
        if *weight > 0.0 { weight.clamp(mean / 100.0, mean * 10.0) } else { mean }
    };
    let sum: f64 = weights.iter().map(bounded).sum();
    weights.iter().map(|weight| bounded(weight) / sum).collect()
}

fn history(mut random: Random) {
    let blackout = [0.0, 10.0][random.below(2)];
    let penalty = [0.0, 1.0, 2.5][random.below(3)];
    let config = format!(
        r#"{{"blackoutPeriod":"{blackout}s","weightExpirationPeriod":"{EXPIRATION}s","errorUtilizationPenalty":{penalty}}}"#
    );
    let mut host = FakeHost::<WeightedRoundRobin>::start(&config).expect("started");
    let mut model: BTreeMap<SubConn, Endpoint> = BTreeMap::new();
    let (mut now, mut last) = (0.0, 0);
    for _ in 0..30 {
        match random.below(8) {
            0 | 1 => {
                last += 1;
                host.change(&[endpoint(last, &[])], &[]);
                let new = Endpoint {
                    weight: 0.0,
                    non_empty_since: f64::INFINITY,
                    last_update_time: f64::NEG_INFINITY,
                    is_ready: false,
                };
                model.insert(last, new);
            }
            2 => {
                if let Some(id) = model.keys().copied().nth(random.below(model.len() + 1)) {
                    let endpoint = model.get_mut(&id).expect("known");
                    endpoint.is_ready ^= true;
                    if endpoint.is_ready {
                        endpoint.non_empty_since = f64::INFINITY;
                    }
                }
            }
            3 => {
                // The next version takes over.
                let saved = host.save();
                let at = Duration::from_nanos(hotpick_guest::env::now());
                host = FakeHost::start(&config).expect("started");
                host.advance(at);
                host.restore(vec![saved]).expect("taken over");
                host.change(&model.keys().map(|id| endpoint(*id, &[])).collect::<Vec<_>>(), &[]);
            }
            4 => {
                let passes = [1, 5, 10, 30, 60][random.below(5)];
                host.run(Duration::from_secs(passes));
                now += passes as f64;
            }
            _ => {
                for (id, endpoint) in &mut model {
                    if random.below(2) == 0 {
                        let load = Load {
                            application: [0.0, 0.3][random.below(2)],
                            cpu: 0.1 + 0.2 * random.below(4) as f64,
                            memory: 0.0,
                            rps: [0.0, 50.0, 100.0][random.below(3)],
                            eps: [0.0, 25.0][random.below(2)],
                        };
                        endpoint.update(&load, penalty, now);
                        let ok = outcome(*id, StatusCode::Ok, Duration::ZERO);
                        host.done(&[Outcome { load: Some(load), ..ok }]);
                    }
                }
            }
        }
        let ready: Vec<_> =
            model.iter().filter(|(_, endpoint)| endpoint.is_ready).map(|(id, _)| *id).collect();
        // The policy recomputes the weights at each change.
        host.ready(&ready);
        if ready.is_empty() {
            continue;
        }
        let weights: Vec<_> =
            ready.iter().map(|id| model.get_mut(id).expect("known").get_weight(blackout, now)).collect();
        let picks = 400;
        let counts = host.counts(&ready, picks);
        for (count, share) in counts.iter().zip(shares(&weights)) {
            let off = (*count as f64 - share * picks as f64).abs();
            assert!(off < 6.0, "{counts:?} for {weights:?}, {config}");
        }
    }
}

#[test]
fn it_is_as_grfc_a58_in_random_histories() {
    histories(&[1581], history);
}
