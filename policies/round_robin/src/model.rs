//! Round robin, implemented independently and without optimization, and compared with the policy in random histories.

use hotpick_guest::random::Random;
use hotpick_guest::testing::{FakeHost, Rpc, histories};
use hotpick_guest::{PickResult, SubConn};

use super::RoundRobin;

/// The turns, from the next one on. Removed endpoints are left out; new ones are where they are in the resolver's list.
struct Model(Vec<SubConn>);

impl Model {
    fn change(&mut self, list: &[SubConn]) {
        // The turn goes to the first endpoint that is still a member.
        let turn = self.0.iter().find_map(|id| list.iter().position(|other| other == id));
        let turn = turn.unwrap_or(0);
        self.0 = [&list[turn..], &list[..turn]].concat();
    }

    fn next(&mut self) -> Option<SubConn> {
        let next = *self.0.first()?;
        self.0.rotate_left(1);
        Some(next)
    }
}

fn history(mut random: Random) {
    let mut host = FakeHost::<RoundRobin>::start_with_seed("{}", random.next()).expect("started");
    let (mut present, mut model) = ([false; 8], Model(Vec::new()));
    for _ in 0..60 {
        let flaps = random.below(8);
        present[flaps] ^= true;
        let list: Vec<SubConn> = (0..8).filter(|id| present[*id as usize]).collect();
        let begins = !list.iter().any(|id| model.0.contains(id));
        host.ready(&list);
        model.change(&list);
        if begins && !list.is_empty() {
            // The start is random.
            let PickResult::Pick(first) = host.pick(&Rpc::default()) else { panic!("no pick") };
            while model.next() != Some(first) {}
        }
        for _ in 0..random.below(12) {
            let mut rpc = Rpc::default();
            if random.below(5) == 0 {
                // A retry goes to the next endpoint that the RPC has not tried, if there is one among the next 17.
                rpc.tried.extend(list.iter().filter(|_| random.below(2) == 0));
            }
            let mut expected = model.next();
            for _ in 0..16 {
                if !rpc.tried.is_empty() && expected.is_some_and(|id| rpc.tried.contains(&id)) {
                    expected = model.next();
                }
            }
            assert_eq!(host.pick(&rpc), expected.map_or(PickResult::Queue, PickResult::Pick));
        }
    }
}

#[test]
fn it_is_round_robin_in_random_histories() {
    histories(&[], history);
}
