//! `color`: an RPC goes to the endpoints of its colour.
//!
//! The value of a metadata key of the RPC is compared with an attribute of the endpoints; among the
//! ready endpoints that match, RPCs go round robin. It is the custom picker that most users of grpc-go
//! write first; the usual example always takes the group's first endpoint, which this one does not.
//!
//! ```json
//! { "metadata": "color", "attribute": "color", "missing": "any", "unmatched": "fail" }
//! ```
//!
//! `missing` is for RPCs without the key, `unmatched` for those whose value no ready endpoint has:
//! `"fail"` ends them with UNAVAILABLE, `"any"` sends them to any ready endpoint, round robin.

use std::collections::HashMap;

use hotpick_guest::{
    Endpoint, FailCode, Nanos, PickInfo, PickResult, Placement, Policy, SubConn, below, call, env, hash,
    parse_config,
};

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    metadata: String,
    attribute: String,
    missing: Otherwise,
    unmatched: Otherwise,
}

/// What to do with an RPC that asks for no colour, or for one that is not there.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Otherwise {
    Fail,
    Any,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            metadata: "color".to_owned(),
            attribute: "color".to_owned(),
            missing: Otherwise::Any,
            unmatched: Otherwise::Fail,
        }
    }
}

#[derive(Debug)]
struct Color {
    config: Config,
    key: call::Key,
    /// Each endpoint's colour, hashed as the host hashes metadata, so that no pick reads a string.
    colors: HashMap<SubConn, u64>,
    groups: HashMap<u64, Rotation>,
    all: Rotation,
}

/// Round robin from a random start.
#[derive(Debug, Default)]
struct Rotation {
    ready: Vec<SubConn>,
    next: usize,
}

impl Rotation {
    fn new(ready: Vec<SubConn>) -> Self {
        let next = below(ready.len(), env::random());
        Self { ready, next }
    }

    fn pick(&mut self) -> Option<SubConn> {
        let picked = *self.ready.get(self.next)?;
        self.next = if self.next + 1 == self.ready.len() { 0 } else { self.next + 1 };
        Some(picked)
    }
}

impl Policy for Color {
    fn init(config: &str, _placement: &Placement) -> Result<Self, String> {
        let config: Config = parse_config(config)?;
        let key = call::declare_metadata(&config.metadata).map_err(|error| format!("metadata: {error}"))?;
        call::declare_affinity(key)?;
        if config.attribute.is_empty() {
            return Err("attribute: must not be empty".to_owned());
        }
        Ok(Self { config, key, colors: HashMap::new(), groups: HashMap::new(), all: Rotation::default() })
    }

    fn endpoints(&mut self, added: &[Endpoint], removed: &[SubConn], _now: Nanos) {
        for id in removed {
            self.colors.remove(id);
        }
        for endpoint in added {
            let color = endpoint.attributes.iter().find(|attribute| attribute.key == self.config.attribute);
            match color {
                Some(color) => self.colors.insert(endpoint.id, hash(color.value.as_bytes())),
                None => self.colors.remove(&endpoint.id),
            };
        }
        // An endpoint may have changed its colour and stayed ready.
        let ready = std::mem::take(&mut self.all.ready);
        self.regroup(ready);
    }

    fn ready(&mut self, ready: &[SubConn], _now: Nanos) {
        self.regroup(ready.to_vec());
    }

    fn pick(&mut self, info: &PickInfo) -> PickResult {
        let (group, otherwise) = match info.affinity {
            Some(color) => (self.groups.get_mut(&color), self.config.unmatched),
            None => (None, self.config.missing),
        };
        if let Some(picked) = group.and_then(Rotation::pick) {
            return PickResult::Pick(picked);
        }
        match otherwise {
            Otherwise::Any => self.all.pick().map_or(PickResult::Queue, PickResult::Pick),
            Otherwise::Fail => {
                self.explain();
                PickResult::Fail(FailCode::Unavailable)
            }
        }
    }
}

impl Color {
    fn regroup(&mut self, ready: Vec<SubConn>) {
        let mut groups: HashMap<u64, Vec<SubConn>> = HashMap::new();
        for id in &ready {
            if let Some(color) = self.colors.get(id) {
                groups.entry(*color).or_default().push(*id);
            }
        }
        self.groups = groups.into_iter().map(|(color, ready)| (color, Rotation::new(ready))).collect();
        self.all = Rotation::new(ready);
    }

    /// Leaves a text for the caller; only RPCs that fail pay for it.
    fn explain(&self) {
        let Config { metadata, attribute, .. } = &self.config;
        call::explain(&match call::metadata(self.key) {
            Some(value) => format!("no ready endpoint has {attribute}={value}"),
            None => format!("the RPC has no metadata {metadata:?} to choose an endpoint by"),
        });
    }
}

hotpick_guest::export!(Color);

#[cfg(test)]
mod tests {
    use hotpick_guest::testing::{FakeHost, Rpc, endpoint};

    use super::*;

    /// 1 and 3 are red, 2 is blue, 4 has no colour.
    fn start(config: &str) -> FakeHost<Color> {
        let mut host = FakeHost::start(config).expect("a good configuration");
        host.endpoints(&[
            endpoint(1, &[("color", "red")]),
            endpoint(2, &[("color", "blue"), ("zone", "a")]),
            endpoint(3, &[("color", "red"), ("zone", "b")]),
            endpoint(4, &[("zone", "b")]),
        ]);
        host
    }

    fn picks(host: &mut FakeHost<Color>, rpc: &Rpc, n: usize) -> Vec<SubConn> {
        let pick = |_| match host.pick(rpc) {
            PickResult::Pick(id) => id,
            other => panic!("{other:?}"),
        };
        let mut picks: Vec<_> = (0..n).map(pick).collect();
        picks.sort_unstable();
        picks
    }

    #[test]
    fn a_colour_is_shared_by_its_endpoints_round_robin() {
        let mut host = start("{}");
        assert_eq!(picks(&mut host, &Rpc::with_metadata("color", "red"), 6), [1, 1, 1, 3, 3, 3]);
        assert_eq!(picks(&mut host, &Rpc::with_metadata("color", "blue"), 2), [2, 2]);
    }

    #[test]
    fn a_colour_that_is_not_there_fails_and_says_so() {
        let mut host = start("{}");
        let green = Rpc::with_metadata("color", "green");
        assert_eq!(host.pick(&green), PickResult::Fail(FailCode::Unavailable));
        assert_eq!(host.explanation().as_deref(), Some("no ready endpoint has color=green"));
    }

    #[test]
    fn a_colour_whose_endpoints_are_not_ready_is_not_there() {
        let mut host = start("{}");
        host.ready(&[2, 3, 4]);
        assert_eq!(picks(&mut host, &Rpc::with_metadata("color", "red"), 2), [3, 3]);
        host.ready(&[2, 4]);
        let red = Rpc::with_metadata("color", "red");
        assert_eq!(host.pick(&red), PickResult::Fail(FailCode::Unavailable));
    }

    #[test]
    fn the_configuration_says_what_happens_otherwise() {
        let mut host = start(r#"{"unmatched":"any"}"#);
        assert_eq!(picks(&mut host, &Rpc::with_metadata("color", "green"), 4), [1, 2, 3, 4]);
        let mut host = start("{}");
        assert_eq!(picks(&mut host, &Rpc::default(), 4), [1, 2, 3, 4]);
        let mut host = start(r#"{"missing":"fail"}"#);
        assert_eq!(host.pick(&Rpc::default()), PickResult::Fail(FailCode::Unavailable));
        let text = host.explanation().expect("a text");
        assert_eq!(text, r#"the RPC has no metadata "color" to choose an endpoint by"#);
    }

    #[test]
    fn key_and_attribute_are_configuration() {
        let mut host = start(r#"{"metadata":"x-zone","attribute":"zone"}"#);
        assert_eq!(picks(&mut host, &Rpc::with_metadata("x-zone", "b"), 4), [3, 3, 4, 4]);
    }

    #[test]
    fn an_endpoint_can_change_its_colour_while_it_is_ready() {
        let mut host = start("{}");
        host.change(&[endpoint(4, &[("color", "blue")]), endpoint(2, &[])], &[]);
        assert_eq!(picks(&mut host, &Rpc::with_metadata("color", "blue"), 2), [4, 4]);
    }

    #[test]
    fn bad_configuration_is_refused_by_the_name_of_its_field() {
        for (config, name) in [
            (r#"{"colour":"x"}"#, "colour"),
            (r#"{"metadata":"Color"}"#, "metadata"),
            (r#"{"metadata":7}"#, "7"),
            (r#"{"attribute":""}"#, "attribute"),
            (r#"{"unmatched":"ignore"}"#, "ignore"),
            ("[", "configuration"),
        ] {
            let error = FakeHost::<Color>::start(config).expect_err(config);
            assert!(error.contains(name), "{config}: {error}");
        }
    }
}
