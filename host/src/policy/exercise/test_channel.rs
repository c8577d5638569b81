//! A policy on endpoints without connections, for tools and tests.

use std::fmt;
use std::time::Duration;

use super::test_bed::TestBed;
use crate::connectivity::ConnectivityState;
use crate::lifecycle::{Placement, Policy as _, PolicyVersion, StartError};
use crate::picker::{PickInfo, PickResult};
use crate::policy::instance::InstanceError;
use crate::policy::wasm_policy::WasmPolicy;
use crate::resolver::Endpoint;

/// An instance of a policy on endpoints without connections. The policy is notified of the endpoints and picks, but
/// nothing is connected or sent. Calls may block, so do not make them on a worker thread of a runtime.
///
/// With a [seed](Placement::with_seed) a policy whose picks do not depend on time picks the same each time.
pub struct TestChannel {
    version: PolicyVersion,
    rehearsal: TestBed,
}

impl TestChannel {
    /// Starts the policy, without endpoints.
    ///
    /// # Errors
    ///
    /// If the policy refuses its configuration, or fails.
    pub fn start(policy: &WasmPolicy, placement: &Placement) -> Result<Self, StartError> {
        let rehearsal = TestBed::start(policy.program(), placement, &[])?;
        Ok(Self { version: policy.version(), rehearsal })
    }

    /// Replaces the endpoints, in this order and in these states, and notifies the policy. An endpoint is identified
    /// by its first address; subconns are numbered from 0 in the order in which they first appear. Returns how long the
    /// notification took.
    ///
    /// # Errors
    ///
    /// If the policy fails. The test channel must not be used any more.
    pub fn update(
        &mut self,
        endpoints: impl IntoIterator<Item = (Endpoint, ConnectivityState)>,
    ) -> Result<Duration, StartError> {
        self.rehearsal.set(endpoints).map_err(InstanceError::from)?;
        Ok(self.rehearsal.notified_in)
    }

    /// Picks for an RPC.
    ///
    /// # Errors
    ///
    /// If the policy fails, or picks a subconn that does not exist. The test channel must not be used any more.
    pub fn pick(&mut self, info: &PickInfo<'_>) -> Result<PickResult, StartError> {
        let answer = self.rehearsal.instance.pick(info).map_err(InstanceError::Trial)?;
        Ok(answer.result)
    }

    /// Returns the bytes of memory that the policy uses.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.rehearsal.instance.memory()
    }
}

impl fmt::Debug for TestChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TestChannel({})", self.version)
    }
}
