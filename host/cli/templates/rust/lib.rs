//! round_robin: picks the ready endpoints in turn, from a random start.

use hotpick_guest::config::Config as _;
use hotpick_guest::group::Rotation;
use hotpick_guest::{Nanos, PickInfo, PickResult, Placement, Policy, SubConn};

hotpick_guest::config! {
    /// There is nothing to configure.
    struct Config {}
}

struct RoundRobin(Rotation);

impl Policy for RoundRobin {
    fn init(config: &str, _placement: &Placement) -> Result<Self, String> {
        let Config {} = Config::parse(config)?;
        Ok(Self(Rotation::default()))
    }

    fn ready(&mut self, ready: &[SubConn], _now: Nanos) {
        self.0.update(ready.to_vec());
    }

    fn pick(&mut self, _info: &PickInfo) -> PickResult {
        self.0.pick().map_or(PickResult::Queue, PickResult::Pick)
    }
}

hotpick_guest::export!(RoundRobin);
