//! `random`: any ready subconn, each with the same chance. It has no configuration.

use hotpick_guest::{Nanos, PickInfo, PickResult, Placement, Policy, SubConn, below, parse_config};

#[derive(Debug)]
struct Random {
    ready: Vec<SubConn>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {}

impl Policy for Random {
    fn init(config: &str, _placement: &Placement) -> Result<Self, String> {
        let Config {} = parse_config(config)?;
        Ok(Self { ready: Vec::new() })
    }

    fn ready(&mut self, ready: &[SubConn], _now: Nanos) {
        self.ready = ready.to_vec();
    }

    fn pick(&mut self, info: &PickInfo) -> PickResult {
        let at = below(self.ready.len(), info.random);
        self.ready.get(at).map_or(PickResult::Queue, |picked| PickResult::Pick(*picked))
    }
}

hotpick_guest::export!(Random);

#[cfg(test)]
mod tests {
    use hotpick_guest::testing::FakeHost;

    use super::*;

    #[test]
    fn the_shares_are_even() {
        let mut host = FakeHost::<Random>::start("{}").expect("no configuration is needed");
        host.ready(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let mut counts = [0f64; 10];
        for picked in host.picks(100_000) {
            counts[picked as usize] += 1.0;
        }
        let chi_square: f64 = counts.iter().map(|count| (count - 10_000.0).powi(2) / 10_000.0).sum();
        // 9 degrees of freedom: more than 27.9 has a chance of 0.1 %, and the seed is fixed.
        assert!(chi_square < 27.9, "chi-square {chi_square}, counts {counts:?}");
    }

    #[test]
    fn with_nothing_ready_rpcs_are_queued() {
        let mut host = FakeHost::<Random>::start("{}").expect("no configuration is needed");
        assert_eq!(host.pick(&Default::default()), PickResult::Queue);
    }
}
