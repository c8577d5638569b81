//! `canary`: sends a share of the RPCs to the endpoints of a new version, and the rest to the others.
//!
//! The split is in per mille, by attribute. An RPC with the override's metadata chooses its side. An RPC with a key
//! stays on its side while the split does not change, and a growing share keeps its RPCs: a user who has seen the new
//! version does not switch back and forth. A side without a ready endpoint takes no RPCs.

#[cfg(test)]
mod model;

use hotpick_guest::answers::Answers;
use hotpick_guest::config::{Config as _, Range, Refused, Setting, Value};
use hotpick_guest::group::{Balance, Group};
use hotpick_guest::key::{HashOn, Key};
use hotpick_guest::random::mix;
use hotpick_guest::{
    About, Description, Endpoint, Nanos, PickInfo, PickResult, Placement, Policy, SubConn, SubConnMap,
    Weights, call,
};

hotpick_guest::config! {
    /// Sends a share of the RPCs to endpoints with an attribute.
    struct Config {
        /// Per mille of the RPCs for the endpoints with an attribute, as {"version=v2": 50}. The rest goes to the
        /// endpoints that match no entry.
        split: Split = Split(Vec::new()),
        /// The metadata key by which an RPC chooses its side. Its value is an entry of the split, as "version=v2", or
        /// "rest".
        override_metadata: Option<String> = Some("hotpick-canary".to_owned()),
        /// What keeps RPCs on their side: "metadata:" and a key, "method", or "random".
        stable_on: HashOn = HashOn::Random,
        /// How RPCs are balanced on a side.
        balance: Balance = Balance::RoundRobin,
    }
}

const ALL: u32 = 1_000;

/// Shares, sorted by label.
#[derive(Clone, Debug)]
struct Split(Vec<Share>);

#[derive(Clone, Debug)]
struct Share {
    /// `attribute=value`.
    label: String,
    per_mille: u32,
}

impl Share {
    fn has(&self, endpoint: &Endpoint) -> bool {
        let (attribute, value) = self.label.split_once('=').unwrap_or_default();
        endpoint.attribute(attribute) == Some(value)
    }
}

impl Setting for Split {
    fn read(value: &Value, _range: Range) -> Result<Self, Refused> {
        let Value::Object(fields) = value else {
            return Err(Refused::kind("an object like {\"version=v2\": 50}", value));
        };
        let mut shares = Vec::new();
        for (label, share) in fields {
            let read = if label
                .split_once('=')
                .is_some_and(|(attribute, value)| !attribute.is_empty() && !value.is_empty())
            {
                u32::read(share, Range::from(0..=ALL))
            } else {
                Err(Refused::because("must be an attribute and a value, like \"version=v2\""))
            };
            let per_mille = read.map_err(|refused| refused.within(label))?;
            // Sort by label: the order of an object's fields has no meaning.
            let at = shares.partition_point(|share: &Share| share.label < *label);
            shares.insert(at, Share { label: label.clone(), per_mille });
        }
        if shares.iter().map(|share| share.per_mille).sum::<u32>() > ALL {
            return Err(Refused::because("the sum of the shares must not exceed 1000"));
        }
        Ok(Self(shares))
    }

    fn schema(_range: Range, out: &mut String) {
        out.push_str(
            "\"type\":\"object\",\"propertyNames\":{\"pattern\":\".=.\"},\"additionalProperties\":{",
        );
        u32::schema(Range::from(0..=ALL), out);
        out.push('}');
    }

    fn write(&self, out: &mut String) {
        out.push('{');
        for (at, share) in self.0.iter().enumerate() {
            out.push_str(if at > 0 { ",\"" } else { "\"" });
            out.push_str(&share.label);
            out.push_str("\":");
            share.per_mille.write(out);
        }
        out.push('}');
    }
}

#[derive(Debug)]
struct Canary {
    config: Config,
    key: Key,
    choice: Option<call::Key>,
    /// Index of each endpoint's side.
    side_of: SubConnMap<usize>,
    weights: Weights,
    answers: Answers,
    ready: Vec<SubConn>,
    /// One side for each share, then the rest.
    sides: Vec<Group>,
}

impl Policy for Canary {
    fn init(config: &str, _placement: &Placement) -> Result<Self, String> {
        let config = Config::parse(config)?;
        let choice = match &config.override_metadata {
            Some(key) => Some(call::declare(key, "overrideMetadata")?),
            None => None,
        };
        let key = Key::declare(config.stable_on.clone(), "stableOn")?;
        let sides = vec![Group::new(config.balance); config.split.0.len() + 1];
        Ok(Self {
            config,
            key,
            choice,
            side_of: SubConnMap::default(),
            weights: Weights::default(),
            answers: Answers::default(),
            ready: Vec::new(),
            sides,
        })
    }

    fn endpoints(&mut self, added: &[Endpoint], removed: &[SubConn], _now: Nanos) {
        self.weights.update(added, removed);
        removed.iter().for_each(|id| self.answers.forget(*id));
        for id in removed {
            self.side_of.remove(*id);
        }
        let shares = &self.config.split.0;
        for endpoint in added {
            let side = shares.iter().position(|share| share.has(endpoint)).unwrap_or(shares.len());
            self.side_of.insert(endpoint.id, side);
        }
        self.divide();
    }

    fn ready(&mut self, ready: &[SubConn], _now: Nanos) {
        self.ready = ready.to_vec();
        self.divide();
    }

    fn pick(&mut self, info: &PickInfo) -> PickResult {
        let chosen = self.choice.and_then(call::metadata).and_then(|choice| self.named(&choice));
        let side = chosen.unwrap_or_else(|| self.drawn(info));
        if let Some(picked) = self.sides[side].pick(info, &mut self.answers) {
            return PickResult::Pick(picked);
        }
        // The rest first, then any side with a ready endpoint.
        let picked = self.sides.iter_mut().rev().find_map(|side| side.pick(info, &mut self.answers));
        picked.map_or(PickResult::Queue, PickResult::Pick)
    }
}

impl Canary {
    fn divide(&mut self) {
        let mut members = vec![Vec::new(); self.sides.len()];
        for id in &self.ready {
            members[self.side_of.get(*id).copied().unwrap_or(self.sides.len() - 1)].push(*id);
        }
        for (side, members) in self.sides.iter_mut().zip(members) {
            side.update(members, &self.weights);
        }
    }

    /// Returns the side that an RPC asks for. `None` if there is no such side.
    fn named(&self, choice: &str) -> Option<usize> {
        let shares = &self.config.split.0;
        let named = shares.iter().position(|share| share.label == choice);
        named.or_else(|| (choice == "rest").then_some(shares.len()))
    }

    /// Returns the side for the RPC's key, or a random side if it has none.
    fn drawn(&mut self, info: &PickInfo) -> usize {
        // Mix, because the same hash may choose the endpoint within the side.
        let number = mix(self.key.of(info).unwrap_or(info.random));
        let mut drawn = hotpick_guest::below(ALL as usize, number);
        let shares = &self.config.split.0;
        for (at, share) in shares.iter().enumerate() {
            match drawn.checked_sub(share.per_mille as usize) {
                None => return at,
                Some(left) => drawn = left,
            }
        }
        shares.len()
    }
}

impl About for Canary {
    fn describe() -> Description {
        Description::of::<Config>("Sends a share of the RPCs to endpoints with an attribute, in per mille.")
    }
}

hotpick_guest::export!(Canary: About);

#[cfg(test)]
mod tests {
    use hotpick_guest::testing::{FakeHost, Rpc, chi_square, endpoint};

    use super::*;

    /// Endpoints 0 and 1 are v1, 2 is v2, 3 is v3.
    fn start(config: &str) -> FakeHost<Canary> {
        let mut host = FakeHost::start(config).expect("started");
        let versions = ["v1", "v1", "v2", "v3"];
        let endpoints: Vec<_> =
            versions.iter().zip(0..).map(|(version, id)| endpoint(id, &[("version", version)])).collect();
        host.endpoints(&endpoints);
        host
    }

    #[test]
    fn the_shares_are_as_configured() {
        let mut host = start(r#"{"split":{"version=v2":50,"version=v3":150}}"#);
        let counts = host.counts(&[0, 1, 2, 3], 20_000);
        assert!(chi_square(&[counts[0] + counts[1], counts[2], counts[3]], &[0.8, 0.05, 0.15]).is_likely());
        assert!(counts[0].abs_diff(counts[1]) <= 1, "round robin on each side: {counts:?}");
    }

    #[test]
    fn without_a_split_all_are_the_rest() {
        let mut host = start("{}");
        assert_eq!(host.counts(&[0, 1, 2, 3], 400), [100, 100, 100, 100]);
    }

    #[test]
    fn an_rpc_can_choose_its_side() {
        let mut host = start(r#"{"split":{"version=v2":0},"overrideMetadata":"x-version"}"#);
        assert_eq!(host.picks_for(&Rpc::with_metadata("x-version", "version=v2"), 3), [2, 2, 2]);
        assert!(!host.picks_for(&Rpc::with_metadata("x-version", "rest"), 9).contains(&2));
        assert!(!host.picks_for(&Rpc::with_metadata("x-version", "version=v9"), 9).contains(&2));
    }

    #[test]
    fn a_key_stays_on_its_side_also_when_the_share_grows() {
        let on_v2 = |per_mille: u32| {
            let config = format!(r#"{{"split":{{"version=v2":{per_mille}}},"stableOn":"metadata:user"}}"#);
            let mut host = start(&config);
            let is_v2 = |user: &usize| {
                let picks = host.picks_for(&Rpc::with_metadata("user", &format!("u{user}")), 3);
                assert!(picks.iter().all(|id| *id == 2) || !picks.contains(&2));
                picks[0] == 2
            };
            (0..2_000).filter(is_v2).collect::<Vec<_>>()
        };
        let (few, more) = (on_v2(50), on_v2(200));
        assert!(chi_square(&[few.len(), 2_000 - few.len()], &[0.05, 0.95]).is_likely(), "{}", few.len());
        assert!(few.iter().all(|user| more.contains(user)));
    }

    #[test]
    fn a_side_without_a_ready_endpoint_takes_no_rpcs() {
        let mut host = start(r#"{"split":{"version=v2":1000}}"#);
        assert_eq!(host.counts(&[2], 10), [10]);
        host.ready(&[0, 1, 3]);
        assert_eq!(host.counts(&[0, 1, 3], 9), [3, 3, 3]);
        host.ready(&[2]);
        assert_eq!(host.picks_for(&Rpc::with_metadata("hotpick-canary", "rest"), 1), [2]);
        host.ready(&[]);
        assert_eq!(host.pick(&Rpc::default()), PickResult::Queue);
    }

    #[test]
    fn an_endpoint_can_change_its_version() {
        let mut host = start(r#"{"split":{"version=v2":1000}}"#);
        host.change(&[endpoint(0, &[("version", "v2")])], &[]);
        assert_eq!(host.counts(&[0, 2], 10), [5, 5]);
    }

    #[test]
    fn bad_configuration_is_refused_by_the_name_of_its_field() {
        for (config, field) in [
            (
                r#"{"split":{"version=v2":1001}}"#,
                "split.version=v2: must be a whole number, 0 to 1000, not 1001",
            ),
            (r#"{"split":{"version=v2":-1}}"#, "split.version=v2: "),
            (r#"{"split":{"version=v2":"5%"}}"#, "split.version=v2: "),
            (r#"{"split":{"v2":50}}"#, "split.v2: must be an attribute and a value"),
            (r#"{"split":{"a=1":600,"a=2":600}}"#, "split: the sum of the shares must not exceed 1000"),
            (r#"{"split":[50]}"#, "split: must be an object"),
            (r#"{"overrideMetadata":"X"}"#, "overrideMetadata: "),
            (r#"{"stableOn":"user"}"#, "stableOn: "),
            (r#"{"balance":"random"}"#, "balance: must be one of round_robin, least_request, p2c"),
            (r#"{"shares":{}}"#, "shares: no such field"),
        ] {
            let error = FakeHost::<Canary>::start(config).expect_err(config);
            assert!(error.starts_with(field), "{config}: {error}");
        }
    }
}
