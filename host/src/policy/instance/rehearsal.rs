//! An instance that is tried out, on endpoints without connections. Nothing that it does has an effect.

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue};

use super::fault::{Fault, InstanceError};
use super::instance::{Instance, Role};
use super::program::Program;
use crate::connectivity::ConnectivityState;
use crate::lifecycle::{Placement, SavedState};
use crate::picker::{PickInfo, PickResult};
use crate::resolver::Endpoint;
use crate::subconn::{FakeSubConns, ReadySet};

/// The engine of trial picks, checks and conformance runs, which are scripts for it.
pub(crate) struct Rehearsal {
    pub(crate) instance: Instance,
    endpoints: FakeSubConns,
    /// How long the last notification of endpoints took.
    pub(crate) notified_in: Duration,
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
        Ok(Self { instance, endpoints: FakeSubConns::default(), notified_in: Duration::ZERO })
    }

    /// Replaces the endpoints, and notifies the policy. An endpoint is identified by its first address; subconns
    /// are numbered from 0 in the order in which they first appear.
    pub(crate) fn set(
        &mut self,
        endpoints: impl IntoIterator<Item = (Endpoint, ConnectivityState)>,
    ) -> Result<ReadySet, Fault> {
        let ready = self.endpoints.set(endpoints);
        self.notify(&ready)?;
        Ok(ready)
    }

    /// Replaces the endpoints by `count` ready ones, and notifies the policy.
    pub(crate) fn set_ready(&mut self, count: u32) -> Result<ReadySet, Fault> {
        let ready = self.endpoints.ready(count);
        self.notify(&ready)?;
        Ok(ready)
    }

    fn notify(&mut self, ready: &ReadySet) -> Result<(), Fault> {
        let begin = Instant::now();
        self.instance.notify(ready)?;
        self.notified_in = begin.elapsed();
        Ok(())
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
