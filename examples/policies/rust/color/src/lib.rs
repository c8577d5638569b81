//! color: sends each RPC to the endpoints of its colour, in turn.
//!
//! The configuration says which metadata key of RPCs is compared with which attribute of endpoints. It also says what
//! happens to an RPC without a colour, and to one whose colour no ready endpoint has:
//!
//!     {"metadata": "color", "attribute": "color", "missing": "any", "unmatched": "fail"}

use std::collections::BTreeMap;

use hotpick_guest::config::Config as _;
use hotpick_guest::group::Rotation;
use hotpick_guest::{
    Endpoint, FailCode, Nanos, PickInfo, PickResult, Placement, Policy, SubConn, SubConnMap, call,
};

hotpick_guest::config! {
    /// Sends each RPC to the endpoints of its colour.
    struct Config {
        /// The metadata key of RPCs.
        metadata: String = "color".to_owned(),
        /// The attribute of endpoints.
        attribute: String = "color".to_owned(),
        /// For RPCs without a colour.
        missing: Fallback = Fallback::Any,
        /// For RPCs with a colour that no ready endpoint has.
        unmatched: Fallback = Fallback::Fail,
    }
}

hotpick_guest::config! {
    /// What happens to an RPC.
    enum Fallback {
        /// The RPC goes to any endpoint.
        Any,
        /// The RPC fails.
        Fail,
    }
}

struct Color {
    config: Config,
    key: call::Key,
    colors: SubConnMap<String>,
    ready: Vec<SubConn>,
    all: Rotation,
    groups: BTreeMap<String, Rotation>,
}

impl Policy for Color {
    fn init(config: &str, _placement: &Placement) -> Result<Self, String> {
        let config = Config::parse(config)?;
        let key = call::declare(&config.metadata, "metadata")?;
        let (all, groups) = (Rotation::default(), BTreeMap::new());
        Ok(Self { config, key, colors: SubConnMap::default(), ready: Vec::new(), all, groups })
    }

    fn endpoints(&mut self, added: &[Endpoint], removed: &[SubConn], _now: Nanos) {
        for id in removed {
            self.colors.remove(*id);
        }
        for endpoint in added {
            match endpoint.attribute(&self.config.attribute) {
                Some(color) => self.colors.insert(endpoint.id, color.to_owned()),
                None => self.colors.remove(endpoint.id),
            };
        }
        // A ready endpoint may have a new colour. `ready` is called after this only if the ready set changed.
        self.regroup();
    }

    fn ready(&mut self, ready: &[SubConn], _now: Nanos) {
        self.ready = ready.to_vec();
        self.regroup();
    }

    fn pick(&mut self, _info: &PickInfo) -> PickResult {
        if self.ready.is_empty() {
            return PickResult::Queue;
        }
        let color = call::metadata(self.key);
        if let Some(group) = color.as_ref().and_then(|color| self.groups.get_mut(color)) {
            return group.pick().map_or(PickResult::Queue, PickResult::Pick);
        }
        let (fallback, why) = match color {
            None => (&self.config.missing, "the RPC asks for no colour"),
            Some(_) => (&self.config.unmatched, "no endpoint has the colour that the RPC asks for"),
        };
        match fallback {
            Fallback::Any => self.all.pick().map_or(PickResult::Queue, PickResult::Pick),
            Fallback::Fail => {
                call::explain(why);
                PickResult::Fail(FailCode::Unavailable)
            }
        }
    }
}

impl Color {
    fn regroup(&mut self) {
        self.all.update(self.ready.clone());
        let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for id in &self.ready {
            if let Some(color) = self.colors.get(*id) {
                groups.entry(color.clone()).or_default().push(*id);
            }
        }
        self.groups = groups.into_iter().map(|(color, members)| (color, Rotation::new(members))).collect();
    }
}

hotpick_guest::export!(Color);
