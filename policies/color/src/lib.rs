//! `color`: routes each RPC to the endpoints of its color.
//!
//! The policy compares the values of an RPC's metadata keys with attributes of the endpoints, and balances RPCs over
//! the ready endpoints that match. This is the custom picker that most users of grpc-go write first. The usual example
//! always takes the first endpoint of the group; this policy balances.
//!
//! An endpoint's attribute is the value itself, a prefix of the value, or a regular expression for it. An RPC with some
//! of the configured keys is routed by the keys that it has. If it has none of them, or no ready endpoint matches, the
//! policy tries a chain of fallbacks.

mod config;
mod grouping;
mod labels;
#[cfg(test)]
mod model;
mod pattern;
mod search;

use std::rc::Rc;

use hotpick_guest::answers::Answers;
use hotpick_guest::config::Config as _;
use hotpick_guest::group::Group;
use hotpick_guest::recent::Recent;
use hotpick_guest::states::States;
use hotpick_guest::{
    About, Connectivity, ConnectivityState, Description, Endpoint, FailCode, Map, Nanos, PickInfo,
    PickResult, Placement, Policy, SubConn, SubConnMap, Weights, call, env,
};

use self::config::{Config, Fallback, Key, Matching};
use self::grouping::{ByLabel, Colour};
use self::labels::Labels;
use self::pattern::{Pattern, Room};
use self::search::{Asked, Matches};

/// Most combinations of values whose matches and groups are cached. The least recently used ones are evicted.
const GROUPS: usize = 2_048;
/// Most members of all cached groups together.
const MEMBERS: usize = 400_000;
/// Number of labels without an endpoint that are kept before they are cleaned up.
const SPARE: usize = 64;
/// Most keys in a configuration.
const KEYS: usize = 4;
/// Most steps of the expressions of all labels: some MiB.
const STORED: usize = 200_000;

/// Identifies the values of an RPC: the number that the host assigned to each value; 0 for a key that the RPC does not
/// have. Unlike hashes, numbers cannot collide, neither by chance nor by design.
type Numbers = [u64; KEYS];

/// Marks the numbers that stand for a fallback's values. Greater than all numbers of the host.
const CONFIGURED: u64 = 1 << 63;

#[derive(Debug)]
struct Color {
    config: Config,
    keys: Vec<call::Key>,
    /// The values of the attribute, for each key.
    labels: Vec<Labels>,
    /// Steps of all expressions.
    stored: usize,
    /// Whether an expression was rejected because of [`STORED`].
    is_full: bool,
    /// The endpoints of each label, for each key.
    endpoints_of: Vec<ByLabel>,
    known: SubConnMap<Known>,
    ready: Vec<SubConn>,
    /// The labels that values match, independent of which endpoints are ready.
    matches: Recent<Numbers, Rc<Matches>>,
    /// Values whose matches are still being searched.
    searches: Map<Numbers, Matches>,
    /// Whether the timer that continues searches is set.
    goes_on: bool,
    groups: Recent<Numbers, Colour>,
    weights: Weights,
    answers: Answers,
    room: Room,
    states: States,
    all: Group,
    unlabelled: Group,
}

/// An endpoint.
#[derive(Debug)]
struct Known {
    /// Index of the endpoint's label, for each key.
    labels: Vec<Option<usize>>,
    is_ready: bool,
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
                    return Err(format!(
                        "{name}[{at}].values: must have one value for each key, {} in all",
                        keys.len()
                    ));
                }
            }
        }
        let empty = || Group::new(config.balance);
        Ok(Self {
            labels: config.keys.iter().map(|key| Labels::new(key.matching)).collect(),
            stored: 0,
            is_full: false,
            endpoints_of: keys.iter().map(|_| ByLabel::default()).collect(),
            known: SubConnMap::default(),
            ready: Vec::new(),
            matches: Recent::new(GROUPS, MEMBERS),
            searches: Map::default(),
            goes_on: false,
            groups: Recent::new(GROUPS, MEMBERS),
            weights: Weights::default(),
            answers: Answers::default(),
            room: Room::default(),
            states: States::default(),
            all: empty(),
            unlabelled: empty(),
            keys,
            config,
        })
    }

    fn endpoints(&mut self, added: &[Endpoint], removed: &[SubConn], _now: Nanos) {
        self.weights.update(added, removed);
        removed.iter().for_each(|id| self.answers.forget(*id));
        for id in removed {
            self.known.remove(*id);
            self.states.remove(*id);
        }
        for endpoint in added {
            let labels = (0..self.keys.len()).map(|at| self.label(at, endpoint)).collect();
            let is_ready = self.known.get(endpoint.id).is_some_and(|known| known.is_ready);
            self.known.insert(endpoint.id, Known { labels, is_ready });
        }
        for at in 0..self.keys.len() {
            if self.labels[at].len() > 2 * self.known.len() + SPARE {
                self.drop_unused(at);
            }
        }
        for (at, of) in self.endpoints_of.iter_mut().enumerate() {
            let labelled = || self.known.iter().filter_map(|(id, known)| Some((id, known.labels[at]?)));
            *of = ByLabel::new(self.labels[at].len(), labelled);
        }
        self.matches.clear();
        self.searches.clear();
        // An endpoint's attributes may have changed while it stayed ready.
        self.regroup();
    }

    fn ready(&mut self, ready: &[SubConn], _now: Nanos) {
        self.ready = ready.to_vec();
        self.known.values_mut().for_each(|known| known.is_ready = false);
        for id in ready {
            if let Some(known) = self.known.get_mut(*id) {
                known.is_ready = true;
            }
        }
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
            let values = |of: &Self| {
                let value = |(key, number): (&call::Key, u64)| match call::metadata(*key) {
                    Some(text) => Asked::Text(text),
                    // The key has a value, but not text, so no attribute can equal it.
                    None if number != 0 => Asked::Other,
                    None => Asked::Nothing,
                };
                of.keys.iter().zip(numbers).map(value).collect()
            };
            if let Some(answer) = self.pick_for(numbers, values, info) {
                return answer;
            }
        }
        self.fall_back(asked, info)
    }
}

impl Connectivity for Color {
    fn connectivity(&mut self, id: SubConn, state: ConnectivityState, _message: &str, _now: Nanos) {
        let before = self.states.note(id, state);
        // RPCs do not wait for a subconn that has failed. `ready` handles the ready ones.
        if self.states.of(id) != before && state != ConnectivityState::Ready {
            self.groups.clear();
        }
    }
}

impl Color {
    /// Returns the index of the endpoint's label for a key.
    fn label(&mut self, at: usize, endpoint: &Endpoint) -> Option<usize> {
        let Key { attribute, matching, .. } = &self.config.keys[at];
        let text = endpoint.attribute(attribute)?;
        if let Some(known) = self.labels[at].place(text) {
            return Some(known);
        }
        let pattern = match matching {
            // Parsing expressions that would be rejected for space takes time, too.
            Matching::Regex if !self.is_full => self.pattern(text, endpoint),
            _ => None,
        };
        Some(self.labels[at].add(text.to_owned(), pattern))
    }

    /// Parses the expression of a label. `None`, with a warning in the log, if it is invalid or there is no space for
    /// it.
    fn pattern(&mut self, text: &str, endpoint: &Endpoint) -> Option<Pattern> {
        let warning = match Pattern::new(text) {
            Ok(pattern) if self.stored + pattern.len() <= STORED => {
                self.stored += pattern.len();
                return Some(pattern);
            }
            Ok(_) => {
                self.is_full = true;
                format!(
                    "the regular expressions take too much memory: {text} of endpoint {} and later ones are ignored",
                    endpoint.hash_key()
                )
            }
            Err(error) => {
                let name = endpoint.hash_key();
                format!("endpoint {name}: invalid regular expression {text}: {error}; it matches nothing")
            }
        };
        env::log(env::Level::Warn, &warning);
        None
    }

    /// Removes the labels that no endpoint has.
    fn drop_unused(&mut self, at: usize) {
        let kept = Labels::new(self.config.keys[at].matching);
        let mut before = std::mem::replace(&mut self.labels[at], kept);
        let mut moved: Vec<Option<usize>> = vec![None; before.len()];
        for known in self.known.values_mut() {
            let Some(place) = &mut known.labels[at] else { continue };
            let now = moved[*place].get_or_insert_with(|| {
                let (text, pattern) = before.take(*place);
                self.labels[at].add(text, pattern)
            });
            *place = *now;
        }
        self.stored = self.labels.iter().map(Labels::steps).sum();
        self.is_full = false;
    }

    /// Returns the result for some values. `None`: no endpoint matches. The RPC is queued while the search is running.
    fn pick_for(
        &mut self,
        numbers: Numbers,
        values: impl FnOnce(&Self) -> Vec<Asked>,
        info: &PickInfo,
    ) -> Option<PickResult> {
        if let Some(known) = self.groups.get_mut(numbers) {
            return known.pick(info, &mut self.answers);
        }
        let Some(matches) = self.matches(numbers, values) else {
            self.go_on_soon();
            return Some(PickResult::Queue);
        };
        let mut colour = self.group(&matches);
        let answer = colour.pick(info, &mut self.answers);
        let size = colour.group.members().len();
        self.groups.insert(numbers, colour, size);
        answer
    }

    /// Returns the values of a step of a fallback chain.
    fn configured(&self, asked: bool, at: usize) -> Vec<Asked> {
        let chain = if asked { &self.config.unmatched } else { &self.config.missing };
        match &chain.0[at] {
            Fallback::Values(values) => values.iter().cloned().map(Asked::Text).collect(),
            _ => Vec::new(),
        }
    }

    fn fall_back(&mut self, asked: bool, info: &PickInfo) -> PickResult {
        if self.ready.is_empty() {
            return PickResult::Queue;
        }
        let chain = if asked { &self.config.unmatched } else { &self.config.missing };
        for at in 0..chain.0.len() {
            let chain = if asked { &self.config.unmatched } else { &self.config.missing };
            let picked = match &chain.0[at] {
                Fallback::Any => self.all.pick(info, &mut self.answers),
                Fallback::Unlabelled => self.unlabelled.pick(info, &mut self.answers),
                Fallback::Values(_) => {
                    let numbers = [CONFIGURED + at as u64, u64::from(asked), 0, 0];
                    match self.pick_for(numbers, |of| of.configured(asked, at), info) {
                        Some(PickResult::Pick(picked)) => Some(picked),
                        // A fallback does not wait for endpoints to become ready, only for the search.
                        Some(_) if !self.groups.has(&numbers) => return PickResult::Queue,
                        _ => None,
                    }
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

    /// Explains to the caller why the RPC fails. Only RPCs that fail pay for this.
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
        Description::of::<Config>("Routes each RPC to the endpoints whose attributes match its metadata.")
    }
}

hotpick_guest::export!(Color: Connectivity, Alarms, About);

#[cfg(test)]
mod tests {
    use hotpick_guest::testing::{FakeHost, Rpc, endpoint};

    use super::*;

    /// Endpoints 1 and 3 are red, 2 is blue, 4 has no color.
    fn start(config: &str) -> FakeHost<Color> {
        let mut host = FakeHost::start(config).expect("a good configuration");
        // As with a real host: an endpoint that is not ready has failed, unless the test says otherwise.
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
        assert!(warning.contains("endpoint 10.0.0.3:80: invalid regular expression"), "{warning}");
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

    /// A value with the same XXH64 as "red".
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
    fn a_value_in_use_is_not_looked_for_again_whatever_callers_make_up() {
        let mut host = start("{}");
        for n in 0..10 * GROUPS {
            host.pick(&color(&format!("c{n}")));
            if n % 100 == 0 {
                assert_eq!(picks(&mut host, &color("blue"), 1), [2]);
            }
            assert!(n == 0 || host.policy().groups.iter().any(|(_, known)| known.group.members() == [2]));
        }
    }

    #[test]
    fn any_number_of_expressions_takes_bounded_time() {
        let start = |of: &dyn Fn(u32) -> String| {
            let mut host = FakeHost::<Color>::start(r#"{"keys":[{"matching":"regex"}]}"#).expect("started");
            let labelled = |id: u32| endpoint(id, &[("color", of(id).as_str())]);
            host.endpoints(&(0..10_000).map(labelled).collect::<Vec<_>>());
            host
        };
        // Most fail at their first letters, so that all of them are compared.
        let mut host = start(&|id| format!("tenant-{id}-.*"));
        assert_eq!(picks(&mut host, &color("tenant-9999-a"), 1), [9_999]);
        assert!(host.log().is_empty());
        // Each of these has to read the whole value.
        let mut host = start(&|id| format!(".*-{id}"));
        for (value, expected) in [
            ("tenant-7".to_owned(), PickResult::Pick(7)),
            (format!("{}-9999", "x".repeat(200)), PickResult::Pick(9_999)),
            ("x".repeat(256), PickResult::Fail(FailCode::Unavailable)),
        ] {
            let mut waited = 0;
            // However many RPCs ask in the meantime.
            for _ in 0..3 {
                host.run(hotpick_guest::Duration::from_millis(4));
                host.pick(&color(&value));
            }
            // The RPC waits until all expressions are compared. It is never sent elsewhere.
            while host.pick(&color(&value)) == PickResult::Queue {
                host.run(hotpick_guest::Duration::from_millis(10));
                waited += 1;
                assert!(waited < 100);
            }
            assert_eq!(host.pick(&color(&value)), expected);
        }
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
                "unmatched[0].values: must have one value for each key, 1 in all",
            ),
            (r#"{"missing":[{"value":["a"]}]}"#, "missing[0]: "),
            ("[", "configuration: invalid JSON"),
        ] {
            let error = FakeHost::<Color>::start(config).expect_err(config);
            assert!(error.starts_with(field), "{config}: {error}");
        }
    }
}
