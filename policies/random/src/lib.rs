//! `random`: a random ready subconn, with probability in proportion to the weights of the endpoints.

#[cfg(test)]
mod model;

use hotpick_guest::config::Config as _;
use hotpick_guest::random::{Alias, Random as Numbers, mix};
use hotpick_guest::{
    About, Description, Endpoint, Nanos, PickInfo, PickResult, Placement, Plan, Plans, Policy, SubConn,
    Weights, below, call,
};

hotpick_guest::config! {
    /// Picks a random ready endpoint.
    struct Config {
        /// Whether the probability of an endpoint is proportional to its weight. Otherwise all are equally likely.
        weighted: bool = true,
    }
}

#[derive(Debug)]
struct Random {
    config: Config,
    ready: Vec<SubConn>,
    weights: Weights,
    /// `None` if the weights of the ready endpoints are equal.
    shares: Option<Alias>,
}

impl Policy for Random {
    fn init(config: &str, _placement: &Placement) -> Result<Self, String> {
        let config = Config::parse(config)?;
        Ok(Self { config, ready: Vec::new(), weights: Weights::default(), shares: None })
    }

    fn endpoints(&mut self, added: &[Endpoint], removed: &[SubConn], _now: Nanos) {
        if !self.config.weighted {
            return;
        }
        self.weights.update(added, removed);
        self.share();
    }

    fn ready(&mut self, ready: &[SubConn], _now: Nanos) {
        self.ready = ready.to_vec();
        self.share();
    }

    fn pick(&mut self, info: &PickInfo) -> PickResult {
        let mut random = info.random;
        let picked = call::untried(info, || {
            let drawn = self.choose(random);
            random = mix(random);
            drawn
        });
        let picked = picked.map(|drawn| if info.attempt > 0 { self.untried_or(drawn, info) } else { drawn });
        picked.map_or(PickResult::Queue, PickResult::Pick)
    }
}

impl Plans for Random {
    fn plan(&mut self, budget: usize, random: u64, _now: Nanos) -> Plan {
        let mut numbers = Numbers::new(random);
        Plan::sequence(budget, || self.choose(numbers.next()))
    }
}

impl Random {
    /// Returns an endpoint that the RPC has not tried, if chance has found none among a few endpoints.
    #[cold]
    fn untried_or(&self, drawn: SubConn, info: &PickInfo) -> SubConn {
        if !call::tried(drawn) {
            return drawn;
        }
        // One more than the RPC has tried is enough.
        let (n, most) = (self.ready.len(), info.attempt as usize + 1);
        let first = below(n, mix(info.random));
        let all = self.ready[first..].iter().chain(&self.ready[..first]).take(most);
        all.copied().find(|id| !call::tried(*id)).unwrap_or(drawn)
    }

    fn choose(&self, random: u64) -> Option<SubConn> {
        let at = match &self.shares {
            Some(shares) => shares.choose(random),
            None => below(self.ready.len(), random),
        };
        self.ready.get(at).copied()
    }

    fn share(&mut self) {
        let weight = |id: &SubConn| f64::from(self.weights.of(*id));
        let weights: Vec<f64> = self.ready.iter().map(weight).collect();
        let differ = weights.windows(2).any(|pair| pair[0] != pair[1]);
        self.shares = differ.then(|| Alias::new(&weights));
    }
}

impl About for Random {
    fn describe() -> Description {
        Description::of::<Config>("Picks a random ready endpoint, with probability by weight.")
    }
}

hotpick_guest::export!(Random: Plans, About);

#[cfg(test)]
mod tests {
    use hotpick_guest::testing::{FakeHost, chi_square, endpoint};

    use super::*;

    fn weighted(weights: &[u32]) -> Vec<Endpoint> {
        weights
            .iter()
            .zip(0..)
            .map(|(weight, id)| Endpoint { weight: *weight, ..endpoint(id, &[]) })
            .collect()
    }

    #[test]
    fn the_shares_are_even() {
        for n in [1, 3, 10, 100, 1_000] {
            let mut host = FakeHost::<Random>::start("{}").expect("no configuration is needed");
            let ids: Vec<SubConn> = (0..n).collect();
            host.ready(&ids);
            let mut counts = vec![0; ids.len()];
            host.picks(100 * ids.len()).into_iter().for_each(|id| counts[id as usize] += 1);
            assert!(chi_square(&counts, &vec![1.0; ids.len()]).is_likely(), "{n}: {counts:?}");
        }
    }

    #[test]
    fn the_shares_are_as_the_weights_also_after_flaps() {
        let mut host = FakeHost::<Random>::start("{}").expect("started");
        host.endpoints(&weighted(&[1, 2, 3, 4]));
        assert!(chi_square(&host.counts(&[0, 1, 2, 3], 10_000), &[1.0, 2.0, 3.0, 4.0]).is_likely());
        host.ready(&[3, 1]);
        assert!(chi_square(&host.counts(&[1, 3], 10_000), &[2.0, 4.0]).is_likely());
        host.ready(&[0, 1, 2, 3]);
        host.change(&weighted(&[5]), &[]);
        assert!(chi_square(&host.counts(&[0, 1, 2, 3], 10_000), &[5.0, 2.0, 3.0, 4.0]).is_likely());
    }

    #[test]
    fn the_shares_of_plans_are_the_same() {
        let mut host = FakeHost::<Random>::start("{}").expect("started");
        host.endpoints(&weighted(&[1, 2, 3, 4]));
        let mut counts = [0; 4];
        for _ in 0..100 {
            let Plan::Sequence(picks) = host.plan(100) else { panic!("no plan") };
            picks.into_iter().for_each(|id| counts[id as usize] += 1);
        }
        assert!(chi_square(&counts, &[1.0, 2.0, 3.0, 4.0]).is_likely(), "{counts:?}");
    }

    #[test]
    fn weights_can_be_ignored() {
        let mut host = FakeHost::<Random>::start(r#"{"weighted":false}"#).expect("started");
        host.endpoints(&weighted(&[1, 100]));
        assert!(chi_square(&host.counts(&[0, 1], 10_000), &[1.0, 1.0]).is_likely());
    }

    #[test]
    fn with_nothing_ready_rpcs_are_queued() {
        let mut host = FakeHost::<Random>::start("{}").expect("no configuration is needed");
        assert_eq!(host.pick(&Default::default()), PickResult::Queue);
    }

    #[test]
    fn bad_configuration_is_refused_by_the_name_of_its_field() {
        for config in [r#"{"weighted":1}"#, r#"{"weights":true}"#] {
            let error = FakeHost::<Random>::start(config).expect_err(config);
            assert!(error.starts_with("weight"), "{config}: {error}");
        }
    }
}
