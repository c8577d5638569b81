//! The policy's documentation, implemented independently and without optimization, and compared in random histories.

use std::collections::BTreeMap;

use hotpick_guest::ConnectivityState::{Connecting, Idle, Ready, TransientFailure};
use hotpick_guest::random::Random;
use hotpick_guest::testing::{FakeHost, Rpc, endpoint, histories};
use hotpick_guest::{ConnectivityState, PickResult, SubConn};

use super::Color;

/// Texts that are prefixes of one another, and expressions that match the same.
const VALUES: [&str; 6] = ["a", "ab", "abc", "b", "ba", "c"];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Matching {
    Exact,
    Prefix,
    Regex,
}

struct Endpoint {
    labels: [Option<&'static str>; 2],
    state: ConnectivityState,
}

struct Model {
    matching: [Matching; 2],
    endpoints: BTreeMap<SubConn, Endpoint>,
}

#[derive(Debug, PartialEq)]
enum Answer {
    /// One of these.
    Of(Vec<SubConn>),
    Queue,
    Fail,
}

impl Model {
    /// Returns how well an endpoint matches what an RPC asks for. `None`: it does not match.
    fn score(&self, endpoint: &Endpoint, asked: [Option<&str>; 2]) -> Option<Vec<usize>> {
        let mut scores = Vec::new();
        for ((label, value), matching) in endpoint.labels.iter().zip(asked).zip(self.matching) {
            let Some(value) = value else { continue };
            let label = (*label)?;
            let (matches, score) = match matching {
                Matching::Exact => (label == value, 0),
                Matching::Prefix => (value.starts_with(label), label.len()),
                // The label's expression is its text and anything after it.
                Matching::Regex => (value.starts_with(label), 0),
            };
            if !matches {
                return None;
            }
            scores.push(score);
        }
        Some(scores)
    }

    fn best(&self, asked: [Option<&str>; 2]) -> Vec<SubConn> {
        let ready = || self.endpoints.iter().filter(|(_, endpoint)| endpoint.state == Ready);
        let Some(best) = ready().filter_map(|(_, endpoint)| self.score(endpoint, asked)).max() else {
            return Vec::new();
        };
        ready().filter(|(_, of)| self.score(of, asked).as_ref() == Some(&best)).map(|(id, _)| *id).collect()
    }

    fn pick(&self, asked: [Option<&str>; 2]) -> Answer {
        let is_ready = |endpoint: &&Endpoint| endpoint.state == Ready;
        let all: Vec<_> = self.endpoints.iter().filter(|(_, of)| is_ready(of)).map(|(id, _)| *id).collect();
        let bare = |id: &SubConn| self.endpoints[id].labels == [None, None];
        let unlabelled: Vec<_> = all.iter().copied().filter(bare).collect();
        if asked == [None, None] {
            return if all.is_empty() { Answer::Queue } else { Answer::Of(all) };
        }
        let best = self.best(asked);
        if !best.is_empty() {
            return Answer::Of(best);
        }
        let may_come =
            |of: &Endpoint| matches!(of.state, Idle | Connecting) && self.score(of, asked).is_some();
        if all.is_empty() || self.endpoints.values().any(may_come) {
            return Answer::Queue;
        }
        // By the fallback chain of the configuration.
        let configured = self.best([Some("b"), Some("b")]);
        [configured, unlabelled].into_iter().find(|some| !some.is_empty()).map_or(Answer::Fail, Answer::Of)
    }
}

fn history(mut random: Random) {
    let matching = [0, 1].map(|_| [Matching::Exact, Matching::Prefix, Matching::Regex][random.below(3)]);
    let name = |matching| match matching {
        Matching::Exact => "exact",
        Matching::Prefix => "prefix",
        Matching::Regex => "regex",
    };
    let config = format!(
        r#"{{"keys":[{{"metadata":"x","attribute":"x","matching":"{}"}},{{"metadata":"y","attribute":"y","matching":"{}"}}],
        "unmatched":[{{"values":["b","b"]}},"unlabelled"]}}"#,
        name(matching[0]),
        name(matching[1])
    );
    let mut host = FakeHost::<Color>::start(&config).expect("started");
    let mut model = Model { matching, endpoints: BTreeMap::new() };
    for _ in 0..40 {
        let id = SubConn::try_from(random.below(8)).expect("small");
        match (random.below(8), model.endpoints.contains_key(&id)) {
            (0 | 1, known) => {
                let labels = [0, 1].map(|_| VALUES.get(random.below(VALUES.len() + 3)).copied());
                let texts: Vec<_> = ["x", "y"]
                    .into_iter()
                    .zip(labels)
                    .zip(matching)
                    .filter_map(|((key, label), matching)| {
                        let suffix = if matching == Matching::Regex { ".*" } else { "" };
                        Some((key, format!("{}{suffix}", label?)))
                    })
                    .collect();
                let attributes: Vec<_> = texts.iter().map(|(key, text)| (*key, text.as_str())).collect();
                host.change(&[endpoint(id, &attributes)], &[]);
                let state = if known { model.endpoints[&id].state } else { Idle };
                model.endpoints.insert(id, Endpoint { labels, state });
            }
            (2, true) => {
                model.endpoints.remove(&id);
                host.change(&[], &[id]);
            }
            (3..=5, true) => {
                let state = [Ready, Idle, Connecting, TransientFailure][random.below(4)];
                host.connectivity(id, state, "");
                let known = &mut model.endpoints.get_mut(&id).expect("known").state;
                // A failed subconn counts as failed until it is ready.
                if *known != TransientFailure || state == Ready {
                    *known = state;
                }
            }
            _ => {}
        }
        let ready: Vec<_> =
            model.endpoints.iter().filter(|(_, of)| of.state == Ready).map(|(id, _)| *id).collect();
        host.ready(&ready);
        let asked = [0, 1].map(|_| VALUES.get(random.below(VALUES.len() + 2)).copied());
        let mut rpc = Rpc::default();
        for (key, value) in ["x", "y"].into_iter().zip(asked) {
            if let Some(value) = value {
                rpc = rpc.and_metadata(key, value);
            }
        }
        let answer = match host.pick(&rpc) {
            PickResult::Pick(first) => {
                let mut of = host.picks_for(&rpc, 2 * ready.len());
                of.push(first);
                of.sort_unstable();
                of.dedup();
                Answer::Of(of)
            }
            PickResult::Queue => Answer::Queue,
            _ => Answer::Fail,
        };
        assert_eq!(answer, model.pick(asked), "{asked:?}, {matching:?}");
    }
}

#[test]
fn it_is_as_its_page_says_in_random_histories() {
    histories(&[], history);
}
