//! An instance whose actions have no effect.

use http::{HeaderMap, HeaderValue};

use super::fault::{Fault, InstanceError};
use super::instance::{Instance, Role};
use super::program::Program;
use crate::lifecycle::{Placement, SavedState};
use crate::picker::{PickInfo, PickResult};

/// An instance for trial picks, checks and conformance tests, which are scripts for it.
pub(crate) struct Rehearsal {
    pub(crate) instance: Instance,
}

/// Number of picks that a script makes in each situation.
pub(crate) const PICKS: usize = 256;

impl Rehearsal {
    pub(crate) fn start(
        program: &Program,
        placement: &Placement,
        saved: &[SavedState],
    ) -> Result<Self, InstanceError> {
        let instance = Instance::new(program, placement, Role::Rehearsal, saved)?;
        Ok(Self { instance })
    }

    /// Picks [`PICKS`] times. Every other RPC has `value` for each metadata key that the policy reads. Returns the
    /// number of picks that were queued.
    pub(crate) fn picks(&mut self, method: &str, value: &'static str) -> Result<usize, Fault> {
        let (bare, full) = (HeaderMap::new(), self.metadata(value));
        let mut queued = 0;
        for number in 0..PICKS {
            let metadata = if number % 2 == 0 { &bare } else { &full };
            let answer = self.instance.pick(&PickInfo::new(method, metadata))?;
            queued += usize::from(matches!(answer.result, PickResult::Queue));
        }
        Ok(queued)
    }

    /// Returns metadata with this value for each key that the policy reads.
    pub(crate) fn metadata(&self, value: &'static str) -> HeaderMap {
        let keys = self.instance.state().keys().iter();
        keys.map(|key| (key.clone(), HeaderValue::from_static(value))).collect()
    }
}
