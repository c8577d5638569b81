//! The native round robin: serves when no other policy does.

use std::sync::Arc;

use super::{PickerBuilder, Placement, Policy, PolicyVersion, StartError};
use crate::picker::{Pick, PickInfo, PickResult, Picker, Rotation};
use crate::subconn::{ReadySet, SubConn};

/// Picks one ready subconn after the other, from a random start. The fallback of every channel.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct RoundRobin;

impl RoundRobin {
    /// Starts the policy in one channel.
    pub(crate) fn builder() -> Box<dyn PickerBuilder> {
        Box::new(Builder(Arc::new(Rotation::random())))
    }
}

impl Policy for RoundRobin {
    fn version(&self) -> PolicyVersion {
        PolicyVersion::new("round_robin", 0, "")
    }

    fn start(&self, _placement: &Placement, _ready: &ReadySet) -> Result<Box<dyn PickerBuilder>, StartError> {
        Ok(Self::builder())
    }
}

/// Builds the pickers of one channel. They share the rotation, so that a change that leaves the ready
/// subconns as they are does not disturb the order.
#[derive(Debug)]
struct Builder(Arc<Rotation>);

impl PickerBuilder for Builder {
    fn build(&mut self, ready: &ReadySet) -> Arc<dyn Picker> {
        Arc::new(RoundRobinPicker { ready: ready.clone(), rotation: Arc::clone(&self.0) })
    }
}

/// Endpoints that a retry looks at. It may have tried a few, not many.
const MAX_TURNS: usize = 16;

#[derive(Debug)]
struct RoundRobinPicker {
    ready: ReadySet,
    rotation: Arc<Rotation>,
}

impl Picker for RoundRobinPicker {
    fn pick(&self, info: &PickInfo<'_>) -> PickResult {
        let next = if info.tried.is_empty() { self.rotation.next(&self.ready) } else { self.untried(info) };
        next.map_or(PickResult::Queue, |subconn| PickResult::Pick(Pick::to(subconn)))
    }
}

impl RoundRobinPicker {
    /// Returns the next endpoint that the RPC has not tried, if there is one, otherwise the next one.
    #[cold]
    fn untried(&self, info: &PickInfo<'_>) -> Option<SubConn> {
        let turns = self.ready.ready().len().min(MAX_TURNS);
        let mut untried = (0..turns).filter_map(|_| self.rotation.next(&self.ready));
        let untried = untried.find(|subconn| !info.tried.contains(&subconn.id()));
        untried.or_else(|| self.rotation.next(&self.ready))
    }
}
