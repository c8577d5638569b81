//! Probability by weight, compared with the shares of the policy in random histories.

use std::collections::BTreeMap;

use hotpick_guest::random::Random as Numbers;
use hotpick_guest::testing::{FakeHost, Rpc, chi_square, endpoint, histories};
use hotpick_guest::{Endpoint, PickResult, SubConn};

use super::Random;

fn history(mut random: Numbers) {
    let weighted = random.below(4) > 0;
    let config = format!(r#"{{"weighted":{weighted}}}"#);
    let mut host = FakeHost::<Random>::start_with_seed(&config, random.next()).expect("started");
    let mut weights = BTreeMap::<SubConn, u32>::new();
    for _ in 0..10 {
        let id = SubConn::try_from(random.below(10)).expect("small");
        if random.below(4) == 0 {
            host.change(&[], &[id]);
            weights.remove(&id);
        } else {
            let weight = u32::try_from(1 + random.below(5)).expect("small");
            host.change(&[Endpoint { weight, ..endpoint(id, &[]) }], &[]);
            weights.insert(id, weight);
        }
        let ready: Vec<_> = weights.keys().copied().filter(|_| random.below(3) > 0).collect();
        host.ready(&ready);
        if ready.is_empty() {
            assert_eq!(host.pick(&Default::default()), PickResult::Queue);
            continue;
        }
        let shares: Vec<_> =
            ready.iter().map(|id| if weighted { f64::from(weights[id]) } else { 1.0 }).collect();
        let seen = chi_square(&host.counts(&ready, 300), &shares);
        // Some of 100,000 are as unlikely as once in a thousand. Chance alone does not exceed this bound in any.
        assert!(seen.is_likely() || seen.value < 50.0 + 2.0 * f64::from(seen.freedom), "{seen:?}");
    }
}

#[test]
fn shares_are_those_of_the_weights_in_random_histories() {
    histories(&[], history);
}

#[test]
fn a_retry_goes_to_an_endpoint_that_was_not_tried() {
    let mut host = FakeHost::<Random>::start("{}").expect("started");
    host.ready(&[0, 1, 2, 3, 4, 5, 6, 7]);
    let mut rpc = Rpc::default();
    rpc.tried = vec![0, 1, 2, 3, 4, 6, 7];
    for _ in 0..200 {
        assert_eq!(host.pick(&rpc), PickResult::Pick(5));
    }
    rpc.tried.push(5);
    assert!(matches!(host.pick(&rpc), PickResult::Pick(_)));
}
