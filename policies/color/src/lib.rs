//! `color`: an RPC goes to the endpoints of its colour.
//!
//! The values of metadata keys of the RPC are compared with attributes of the endpoints; among the ready endpoints
//! that match, RPCs are balanced. It is the custom picker that most users of grpc-go write first; the usual
//! example always takes the group's first endpoint, which this one does not.
//!
//! An endpoint's attribute is the value itself, or a prefix of it, or a regular expression for it. An RPC that has
//! some of several keys is routed by those that it has. If it has none of them, or no ready endpoint matches, a chain
//! of fallbacks is gone through.

mod config;
mod pattern;

use hotpick_guest::config::Config as _;
use hotpick_guest::group::Group;
use hotpick_guest::states::States;
use hotpick_guest::{
    About, Connectivity, ConnectivityState, Description, Endpoint, FailCode, Map, Nanos, PickInfo,
    PickResult, Placement, Policy, SubConn, SubConnMap, SubConnSet, call, env,
};

use self::config::{Config, Fallback, Key, Matching};
use self::pattern::Pattern;

/// So many combinations of values are remembered with their group, and so many members of all groups.
const GROUPS: usize = 1_024;
const MEMBERS: usize = 200_000;
/// A longer value matches no regular expression: picks have little time.
const LONGEST: usize = 256;
/// Labels of endpoints that are gone are kept up to so many.
const SPARE: usize = 64;
/// The most keys that a configuration may have.
const KEYS: usize = 4;
/// And so many steps have all of the expressions together, for one value.
const STEPS: usize = 100_000;

/// What stands for the values of an RPC: the number that the host gives each value, and none has by chance or by design
/// together with another; 0 for a key that it does not have. (Hashes would do for neither.)
type Numbers = [u64; KEYS];

/// For the values of a step of a chain of fallbacks, beyond all numbers of the host.
const CONFIGURED: u64 = 1 << 63;

#[derive(Debug)]
struct Color {
    config: Config,
    keys: Vec<call::Key>,
    /// For each key what the attributes are: each once.
    labels: Vec<Vec<Label>>,
    /// Their places, by their texts.
    places: Vec<Map<String, usize>>,
    /// Of each endpoint, for each key: its label's place.
    labels_of: SubConnMap<Vec<Option<usize>>>,
    ready: Vec<SubConn>,
    is_ready: SubConnSet,
    groups: Map<Numbers, Known>,
    /// In all groups.
    members: usize,
    states: States,
    all: Group,
    unlabelled: Group,
}

/// The ready endpoints for some values.
#[derive(Debug)]
struct Known {
    group: Group,
    /// None of them is ready, but one may be soon.
    is_coming: bool,
}

/// An attribute's value.
#[derive(Debug)]
struct Label {
    text: String,
    pattern: Option<Pattern>,
}

impl Label {
    /// How well it matches; 0 is not at all.
    fn matches(&self, matching: Matching, value: &str, steps: &mut usize) -> usize {
        match matching {
            Matching::Exact => (self.text == value).into(),
            Matching::Prefix if value.starts_with(&self.text) => self.text.len() + 1,
            Matching::Prefix => 0,
            Matching::Regex if value.len() > LONGEST => 0,
            Matching::Regex => {
                self.pattern.as_ref().is_some_and(|pattern| pattern.matches(value, steps)).into()
            }
        }
    }
}

impl Policy for Color {
    fn init(config: &str, _placement: &Placement) -> Result<Self, String> {
        let config = Config::parse(config)?;
        let declare =
            |(at, key): (usize, &Key)| call::declare(&key.metadata, &format!("keys[{at}].metadata"));
        let keys: Vec<_> = config.keys.iter().enumerate().map(declare).collect::<Result<_, _>>()?;
        call::declare_affinity_number(keys[0])?;
        for (name, chain) in [("missing", &config.missing), ("unmatched", &config.unmatched)] {
            for (at, step) in chain.0.iter().enumerate() {
                if let Fallback::Values(values) = step
                    && values.len() != keys.len()
                {
                    return Err(format!("{name}[{at}].values: must be one for each of keys, {}", keys.len()));
                }
            }
        }
        let empty = || Group::new(config.balance, Vec::new());
        Ok(Self {
            labels: keys.iter().map(|_| Vec::new()).collect(),
            places: keys.iter().map(|_| Map::default()).collect(),
            labels_of: SubConnMap::default(),
            ready: Vec::new(),
            is_ready: SubConnSet::default(),
            groups: Map::default(),
            members: 0,
            states: States::default(),
            all: empty(),
            unlabelled: empty(),
            keys,
            config,
        })
    }

    fn endpoints(&mut self, added: &[Endpoint], removed: &[SubConn], _now: Nanos) {
        for id in removed {
            self.labels_of.remove(*id);
            self.states.remove(*id);
        }
        for endpoint in added {
            let labels = (0..self.keys.len()).map(|at| self.label(at, endpoint)).collect();
            self.labels_of.insert(endpoint.id, labels);
        }
        for at in 0..self.keys.len() {
            if self.labels[at].len() > 2 * self.labels_of.len() + SPARE {
                self.drop_unused(at);
            }
        }
        // An endpoint may have changed its colour and stayed ready.
        self.regroup();
    }

    fn ready(&mut self, ready: &[SubConn], _now: Nanos) {
        self.ready = ready.to_vec();
        self.is_ready = ready.into();
        self.regroup();
    }

    fn pick(&mut self, info: &PickInfo) -> PickResult {
        let mut numbers = Numbers::default();
        for (at, key) in self.keys.iter().enumerate() {
            let number = if at == 0 { info.affinity } else { call::metadata_number(*key) };
            numbers[at] = number.unwrap_or(0);
        }
        let asked = numbers != Numbers::default();
        if asked {
            if !self.groups.contains_key(&numbers) {
                let value = |(key, number): (&call::Key, u64)| match call::metadata(*key) {
                    Some(text) => Asked::Text(text),
                    // There is a value, and it is no text that an attribute could be.
                    None if number != 0 => Asked::Other,
                    None => Asked::Nothing,
                };
                let values: Vec<_> = self.keys.iter().zip(numbers).map(value).collect();
                self.remember(numbers, &values);
            }
            match self.groups.get_mut(&numbers) {
                Some(known) if known.is_coming => return PickResult::Queue,
                Some(known) => {
                    if let Some(picked) = known.group.pick(info.random) {
                        return PickResult::Pick(picked);
                    }
                }
                None => {}
            }
        }
        self.fall_back(asked, info.random)
    }
}

/// What an RPC has for a key.
#[derive(Debug)]
enum Asked {
    Nothing,
    Text(String),
    /// A value that no attribute can be.
    Other,
}

impl Connectivity for Color {
    fn connectivity(&mut self, id: SubConn, state: ConnectivityState, _message: &str, _now: Nanos) {
        let before = self.states.note(id, state);
        // Those that wait for it, wait no more. What is ready is told apart.
        if self.states.of(id) != before && state != ConnectivityState::Ready {
            self.forget();
        }
    }
}

impl Color {
    /// The place of an endpoint's label for a key.
    fn label(&mut self, at: usize, endpoint: &Endpoint) -> Option<usize> {
        let Key { attribute, matching, .. } = &self.config.keys[at];
        let text = endpoint.attribute(attribute)?;
        if let Some(known) = self.places[at].get(text) {
            return Some(*known);
        }
        let pattern = match matching {
            Matching::Regex => Pattern::new(text).map(Some),
            _ => Ok(None),
        };
        let pattern = pattern.unwrap_or_else(|error| {
            let name = endpoint.hash_key();
            let warning = format!(
                "{attribute}={text} of {name} is no regular expression ({error}): it matches nothing"
            );
            env::log(env::Level::Warn, &warning);
            None
        });
        let labels = &mut self.labels[at];
        labels.push(Label { text: text.to_owned(), pattern });
        self.places[at].insert(text.to_owned(), labels.len() - 1);
        Some(labels.len() - 1)
    }

    /// Forgets the labels that no endpoint has any more.
    fn drop_unused(&mut self, at: usize) {
        let mut before: Vec<_> = std::mem::take(&mut self.labels[at]).into_iter().map(Some).collect();
        let mut moved: Vec<usize> = vec![0; before.len()];
        let kept = &mut self.labels[at];
        self.places[at].clear();
        for labels in self.labels_of.values_mut() {
            let Some(place) = labels[at] else { continue };
            if let Some(label) = before[place].take() {
                moved[place] = kept.len();
                self.places[at].insert(label.text.clone(), kept.len());
                kept.push(label);
            }
            labels[at] = Some(moved[place]);
        }
    }

    fn regroup(&mut self) {
        self.forget();
        self.all.update(self.ready.clone());
        let labelled =
            |id: &SubConn| self.labels_of.get(*id).is_some_and(|labels| labels.iter().any(Option::is_some));
        let unlabelled = self.ready.iter().copied().filter(|id| !labelled(id)).collect();
        self.unlabelled.update(unlabelled);
    }

    fn forget(&mut self) {
        self.groups.clear();
        self.members = 0;
    }

    /// Finds the endpoints for values that were not asked for since the last change.
    fn remember(&mut self, numbers: Numbers, values: &[Asked]) {
        if self.groups.len() >= GROUPS || self.members >= MEMBERS {
            self.forget();
        }
        let (mut members, mut is_coming) = (Vec::new(), false);
        // First those that are ready, then those that may come to be.
        for ready in [true, false] {
            let all = self.labels_of.iter();
            let mut found: Vec<_> = all.filter(|(id, _)| self.is_ready.has(*id) == ready).collect();
            for (at, value) in values.iter().enumerate() {
                let value = match value {
                    Asked::Nothing => continue,
                    Asked::Other => {
                        found.clear();
                        break;
                    }
                    Asked::Text(value) => value,
                };
                let (matching, mut steps) = (self.config.keys[at].matching, STEPS);
                let labels = self.labels[at].iter();
                let scores: Vec<_> = labels.map(|label| label.matches(matching, value, &mut steps)).collect();
                let score = |labels: &[Option<usize>]| labels[at].map_or(0, |label| scores[label]);
                let best = found.iter().map(|(_, labels)| score(labels)).max().unwrap_or(0).max(1);
                found.retain(|(_, labels)| score(labels) == best);
            }
            if !ready {
                is_coming = found.iter().any(|(id, _)| self.may_come(*id));
            } else if !found.is_empty() {
                members = found.iter().map(|(id, _)| *id).collect();
                break;
            }
        }
        self.members += members.len();
        let group = Group::new(self.config.balance, members);
        self.groups.insert(numbers, Known { group, is_coming });
    }

    /// It is not ready, and has not failed: an RPC can wait for it.
    fn may_come(&self, id: SubConn) -> bool {
        matches!(self.states.of(id), ConnectivityState::Connecting | ConnectivityState::Idle)
    }

    fn fall_back(&mut self, asked: bool, random: u64) -> PickResult {
        if self.ready.is_empty() {
            return PickResult::Queue;
        }
        let chain = if asked { &self.config.unmatched } else { &self.config.missing };
        for at in 0..chain.0.len() {
            let chain = if asked { &self.config.unmatched } else { &self.config.missing };
            let picked = match &chain.0[at] {
                Fallback::Any => self.all.pick(random),
                Fallback::Unlabelled => self.unlabelled.pick(random),
                Fallback::Values(values) => {
                    let numbers = [CONFIGURED + at as u64, u64::from(asked), 0, 0];
                    if !self.groups.contains_key(&numbers) {
                        let values: Vec<_> = values.iter().cloned().map(Asked::Text).collect();
                        self.remember(numbers, &values);
                    }
                    self.groups.get_mut(&numbers).and_then(|known| known.group.pick(random))
                }
                Fallback::Fail => break,
            };
            if let Some(picked) = picked {
                return PickResult::Pick(picked);
            }
        }
        self.explain(asked);
        PickResult::Fail(FailCode::Unavailable)
    }

    /// Leaves a text for the caller; only RPCs that fail pay for it.
    fn explain(&self, asked: bool) {
        let mut text = String::from(if asked { "no ready endpoint has" } else { "the RPC has no metadata" });
        for (at, (key, config)) in self.keys.iter().zip(&self.config.keys).enumerate() {
            let value = call::metadata(*key);
            if asked && value.is_none() {
                continue;
            }
            text.push_str(if at > 0 { ", " } else { " " });
            text.push_str(if asked { &config.attribute } else { &config.metadata });
            if let Some(value) = value {
                text.push('=');
                text.push_str(&value);
            }
        }
        call::explain(&text);
    }
}

impl About for Color {
    fn describe() -> Description {
        Description::of::<Config>("RPCs go to the endpoints whose attributes match their metadata.")
    }
}

hotpick_guest::export!(Color: Connectivity, About);

#[cfg(test)]
mod tests {
    use hotpick_guest::testing::{FakeHost, Rpc, endpoint};

    use super::*;

    /// 1 and 3 are red, 2 is blue, 4 has no colour.
    fn start(config: &str) -> FakeHost<Color> {
        let mut host = FakeHost::start(config).expect("a good configuration");
        // As a host does: what is not ready has failed, unless it says otherwise.
        (1..=4).for_each(|id| host.connectivity(id, ConnectivityState::TransientFailure, "refused"));
        host.endpoints(&[
            endpoint(1, &[("color", "red")]),
            endpoint(2, &[("color", "blue"), ("zone", "a")]),
            endpoint(3, &[("color", "red"), ("zone", "b")]),
            endpoint(4, &[("zone", "b")]),
        ]);
        host
    }

    fn picks(host: &mut FakeHost<Color>, rpc: &Rpc, n: usize) -> Vec<SubConn> {
        let mut picks = host.picks_for(rpc, n);
        assert_eq!(picks.len(), n);
        picks.sort_unstable();
        picks
    }

    fn color(value: &str) -> Rpc {
        Rpc::with_metadata("color", value)
    }

    #[test]
    fn a_colour_is_shared_by_its_endpoints_round_robin() {
        let mut host = start("{}");
        assert_eq!(picks(&mut host, &color("red"), 6), [1, 1, 1, 3, 3, 3]);
        assert_eq!(picks(&mut host, &color("blue"), 2), [2, 2]);
    }

    #[test]
    fn a_colour_that_is_not_there_fails_and_says_so() {
        let mut host = start("{}");
        assert_eq!(host.pick(&color("green")), PickResult::Fail(FailCode::Unavailable));
        assert_eq!(host.explanation().as_deref(), Some("no ready endpoint has color=green"));
        host.ready(&[2, 4]);
        assert_eq!(host.pick(&color("red")), PickResult::Fail(FailCode::Unavailable));
        host.ready(&[2, 3, 4]);
        assert_eq!(picks(&mut host, &color("red"), 2), [3, 3]);
        host.ready(&[]);
        assert_eq!(host.pick(&color("red")), PickResult::Queue);
    }

    #[test]
    fn an_rpc_waits_for_an_endpoint_that_is_being_connected() {
        let mut host = start(r#"{"unmatched":"any"}"#);
        host.connectivity(2, ConnectivityState::Ready, "");
        host.ready(&[1, 2, 3, 4]);
        assert_eq!(picks(&mut host, &color("blue"), 1), [2]);
        host.connectivity(2, ConnectivityState::Idle, "");
        host.ready(&[1, 3, 4]);
        assert_eq!(host.pick(&color("blue")), PickResult::Queue);
        host.connectivity(2, ConnectivityState::Connecting, "");
        assert_eq!(host.pick(&color("blue")), PickResult::Queue);
        host.connectivity(2, ConnectivityState::TransientFailure, "refused");
        assert_eq!(picks(&mut host, &color("blue"), 3), [1, 3, 4]);
    }

    #[test]
    fn a_value_that_is_no_text_matches_nothing() {
        let mut host = start("{}");
        let mut odd = Rpc::default();
        odd.metadata.push(("color".to_owned(), b"r\xffd".to_vec()));
        assert_eq!(host.pick(&odd), PickResult::Fail(FailCode::Unavailable));
    }

    #[test]
    fn without_the_key_it_may_be_any_or_none() {
        let mut host = start("{}");
        assert_eq!(picks(&mut host, &Rpc::default(), 4), [1, 2, 3, 4]);
        let mut host = start(r#"{"missing":"fail"}"#);
        assert_eq!(host.pick(&Rpc::default()), PickResult::Fail(FailCode::Unavailable));
        assert_eq!(host.explanation().as_deref(), Some("the RPC has no metadata color"));
    }

    #[test]
    fn fallbacks_are_gone_through_in_order() {
        let config = r#"{"unmatched":[{"values":["green"]},{"values":["blue"]},"unlabelled","fail"],"missing":["unlabelled"]}"#;
        let mut host = start(config);
        assert_eq!(picks(&mut host, &color("pink"), 2), [2, 2]);
        assert_eq!(picks(&mut host, &Rpc::default(), 2), [4, 4]);
        host.ready(&[1, 3, 4]);
        assert_eq!(picks(&mut host, &color("pink"), 2), [4, 4]);
        host.ready(&[1, 3]);
        assert_eq!(host.pick(&color("pink")), PickResult::Fail(FailCode::Unavailable));
        assert_eq!(host.pick(&Rpc::default()), PickResult::Fail(FailCode::Unavailable));
    }

    #[test]
    fn several_keys_must_all_match_as_far_as_the_rpc_has_them() {
        let mut host = start(r#"{"keys":[{},{"metadata":"x-zone","attribute":"zone"}]}"#);
        assert_eq!(picks(&mut host, &color("red").and_metadata("x-zone", "b"), 2), [3, 3]);
        assert_eq!(picks(&mut host, &Rpc::with_metadata("x-zone", "b"), 4), [3, 3, 4, 4]);
        assert_eq!(picks(&mut host, &color("red"), 4), [1, 1, 3, 3]);
        let none = color("red").and_metadata("x-zone", "a");
        assert_eq!(host.pick(&none), PickResult::Fail(FailCode::Unavailable));
        assert_eq!(host.explanation().as_deref(), Some("no ready endpoint has color=red, zone=a"));
    }

    #[test]
    fn an_attribute_can_be_a_prefix_and_the_longest_wins() {
        let mut host =
            FakeHost::start(r#"{"keys":[{"metadata":"tenant","attribute":"tenants","matching":"prefix"}]}"#)
                .expect("started");
        host.connectivity(4, ConnectivityState::Ready, "");
        host.endpoints(&[
            endpoint(1, &[("tenants", "a")]),
            endpoint(2, &[("tenants", "acme-")]),
            endpoint(3, &[("tenants", "acme-")]),
            endpoint(4, &[]),
        ]);
        assert_eq!(picks(&mut host, &Rpc::with_metadata("tenant", "acme-7"), 4), [2, 2, 3, 3]);
        assert_eq!(picks(&mut host, &Rpc::with_metadata("tenant", "abc"), 2), [1, 1]);
        assert_eq!(host.pick(&Rpc::with_metadata("tenant", "x")), PickResult::Fail(FailCode::Unavailable));
    }

    #[test]
    fn an_attribute_can_be_a_regular_expression() {
        let mut host = FakeHost::start(r#"{"keys":[{"matching":"regex"}]}"#).expect("started");
        host.endpoints(&[
            endpoint(1, &[("color", "(light|dark)red")]),
            endpoint(2, &[("color", "[^r].*")]),
            endpoint(3, &[("color", "(")]),
        ]);
        assert_eq!(picks(&mut host, &color("lightred"), 2), [1, 2]);
        assert_eq!(picks(&mut host, &color("blue"), 2), [2, 2]);
        assert_eq!(host.pick(&color("red")), PickResult::Fail(FailCode::Unavailable));
        assert_eq!(host.pick(&color(&"b".repeat(300))), PickResult::Fail(FailCode::Unavailable));
        let (_, warning) = &host.log()[0];
        assert!(warning.contains("of 10.0.0.3:80 is no regular expression"), "{warning}");
    }

    #[test]
    fn an_endpoint_can_change_its_colour_while_it_is_ready() {
        let mut host = start("{}");
        assert_eq!(picks(&mut host, &color("blue"), 2), [2, 2]);
        host.change(&[endpoint(4, &[("color", "blue")]), endpoint(2, &[])], &[]);
        assert_eq!(picks(&mut host, &color("blue"), 2), [4, 4]);
    }

    #[test]
    fn labels_of_endpoints_that_are_gone_are_forgotten() {
        let mut host = FakeHost::<Color>::start("{}").expect("started");
        for id in 0..2_000 {
            let (own, next) = (format!("c{id}"), format!("c{}", id + 1));
            host.change(&[endpoint(id, &[("color", &own)]), endpoint(id + 1, &[("color", &next)])], &[]);
            if id > 0 {
                host.change(&[], &[id - 1]);
            }
            host.ready(&[id, id + 1]);
            assert_eq!(host.picks_for(&color(&own), 2), [id, id]);
            assert_eq!(host.picks_for(&color(&next), 1), [id + 1]);
            assert!(host.policy().labels[0].len() <= 2 * 3 + SPARE);
        }
    }

    /// The value has the XXH64 of "red".
    #[test]
    fn a_value_with_the_hash_of_a_colour_is_another_value() {
        let other = color(r#"zpaaytlf].!d2U"L"#);
        assert_eq!(hotpick_guest::hash(b"red"), hotpick_guest::hash(&other.metadata[0].1));
        for keys in ["[{}]", r#"[{"metadata":"x-zone","attribute":"zone"},{}]"#] {
            let mut host = start(&format!(r#"{{"keys":{keys}}}"#));
            assert_eq!(host.pick(&other), PickResult::Fail(FailCode::Unavailable));
            assert_eq!(picks(&mut host, &color("red"), 2), [1, 3]);
            assert_eq!(host.pick(&other), PickResult::Fail(FailCode::Unavailable));
        }
    }

    #[test]
    fn any_number_of_values_takes_bounded_memory() {
        let mut host = start("{}");
        for n in 0..5_000 {
            host.pick(&color(&format!("c{n}")));
            assert!(host.policy().groups.len() <= GROUPS);
        }
        assert_eq!(picks(&mut host, &color("blue"), 1), [2]);
    }

    #[test]
    fn bad_configuration_is_refused_by_the_name_of_its_field() {
        for (config, field) in [
            (r#"{"colour":"x"}"#, "colour: no such field"),
            (r#"{"keys":[{"metadata":"Color"}]}"#, "keys[0].metadata: "),
            (r#"{"keys":[{},{"metadata":7}]}"#, "keys[1].metadata: must be a string, not a number"),
            (r#"{"keys":[{"attribute":""}]}"#, "keys[0].attribute: "),
            (r#"{"keys":[{"matching":"glob"}]}"#, "keys[0].matching: must be one of exact, prefix, regex"),
            (r#"{"keys":[]}"#, "keys: "),
            (r#"{"keys":[{},{},{},{},{}]}"#, "keys: must be an array, 1 to 4 items long, not 5"),
            (r#"{"unmatched":["ignore"]}"#, "unmatched[0]: must be \"any\""),
            (r#"{"unmatched":"ignore"}"#, "unmatched: must be \"any\""),
            (
                r#"{"unmatched":[{"values":["a","b"]}]}"#,
                "unmatched[0].values: must be one for each of keys, 1",
            ),
            (r#"{"missing":[{"value":["a"]}]}"#, "missing[0]: "),
            ("[", "configuration: not JSON"),
        ] {
            let error = FakeHost::<Color>::start(config).expect_err(config);
            assert!(error.starts_with(field), "{config}: {error}");
        }
    }
}
