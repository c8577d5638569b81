//! The policy's documentation, implemented independently and without optimization, and compared in random histories.

use std::collections::BTreeMap;

use hotpick_guest::ConnectivityState::{Connecting, Idle, Ready, TransientFailure};
use hotpick_guest::random::Random;
use hotpick_guest::testing::{FakeHost, Rpc, endpoint, histories};
use hotpick_guest::{ConnectivityState, Duration, PickResult, SubConn};

use super::Sticky;

const TTL: u64 = 100;

#[derive(Default)]
struct Model {
    now: u64,
    /// Endpoints. A failed one counts as failed until it is ready.
    states: BTreeMap<SubConn, ConnectivityState>,
    /// The endpoint of each session, and when the session was last used.
    sessions: BTreeMap<usize, (SubConn, u64)>,
}

impl Model {
    /// Returns whether the policy's result is right.
    fn accepts(&mut self, session: usize, answer: &PickResult) -> bool {
        let live = self.sessions.get_mut(&session).filter(|(_, used)| self.now - *used < TTL);
        // An RPC that waits counts as a use, too.
        let home = live.map(|(home, used)| {
            *used = self.now;
            *home
        });
        let home = home.filter(|home| self.states.get(home).is_some_and(|state| *state != TransientFailure));
        let any_ready = self.states.values().any(|state| *state == Ready);
        match (home, answer) {
            (Some(home), PickResult::Pick(picked)) if *picked == home => {}
            (None, PickResult::Pick(picked)) if self.states.get(picked) == Some(&Ready) => {}
            (None, PickResult::Queue) => return !any_ready,
            _ => return false,
        }
        if let PickResult::Pick(picked) = answer {
            self.sessions.insert(session, (*picked, self.now));
        }
        true
    }
}

fn history(mut random: Random) {
    let config = format!(r#"{{"ttl":"{TTL}s"}}"#);
    let mut host = FakeHost::<Sticky>::start_with_seed(&config, random.next()).expect("started");
    let (mut model, mut last) = (Model::default(), 0);
    for _ in 0..80 {
        let known: Vec<_> = model.states.keys().copied().collect();
        match random.below(10) {
            0 => {
                last += 1;
                host.change(&[endpoint(last, &[])], &[]);
                model.states.insert(last, Idle);
            }
            1 if known.len() > 2 => {
                let id = known[random.below(known.len())];
                host.change(&[], &[id]);
                model.states.remove(&id);
            }
            2..=4 if !known.is_empty() => {
                let id = known[random.below(known.len())];
                let state = [Ready, Ready, Idle, Connecting, TransientFailure][random.below(5)];
                host.connectivity(id, state, "");
                if model.states[&id] != TransientFailure || state == Ready {
                    model.states.insert(id, state);
                }
            }
            5 => {
                let passes = [1, 50, 99, 100][random.below(4)];
                host.advance(Duration::from_secs(passes));
                model.now += passes;
            }
            6 => {
                // The next version takes over. Saved ages are rounded, so this is done only when no session has an age.
                if model.sessions.values().any(|(_, used)| *used != model.now && model.now - used < TTL) {
                    continue;
                }
                let saved = host.save();
                let now = Duration::from_nanos(hotpick_guest::env::now());
                host = FakeHost::start_with_seed(&config, random.next()).expect("started");
                host.advance(now);
                host.restore(vec![saved]).expect("taken over");
                host.change(&known.iter().map(|id| endpoint(*id, &[])).collect::<Vec<_>>(), &[]);
                for (id, state) in &model.states {
                    host.connectivity(*id, *state, "");
                }
            }
            _ => {}
        }
        let is_ready = |(_, state): &(&SubConn, &ConnectivityState)| **state == Ready;
        host.ready(&model.states.iter().filter(is_ready).map(|(id, _)| *id).collect::<Vec<_>>());
        let session = random.below(6);
        let answer = host.pick(&Rpc::with_metadata("session-id", &format!("s{session}")));
        assert!(model.accepts(session, &answer), "{answer:?}, {:?}, {:?}", model.states, model.sessions);
    }
}

#[test]
fn it_is_as_its_page_says_in_random_histories() {
    histories(&[], history);
}
