//! A policy on endpoints that are not there, for tools and tests.

use std::fmt;
use std::time::{Duration, Instant};

use super::WasmPolicy;
use super::instance::{InitError, Instance, Role};
use crate::connectivity::ConnectivityState;
use crate::picker::{PickInfo, PickResult, Placement, StartError};
use crate::resolver::Endpoint;
use crate::subconn::FakeSubConns;

/// An instance of a policy at work on endpoints that are not there: it is told of them and picks, but nothing is
/// connected, and nothing sent. Made and used within a tokio runtime, and off its workers: it may block.
///
/// With a [seed](Placement::with_seed) a policy whose picks do not depend on time picks the same each time.
pub struct Trial {
    policy: WasmPolicy,
    instance: Instance,
    endpoints: FakeSubConns,
}

impl Trial {
    /// Starts the policy, and tells it of nothing yet.
    ///
    /// # Errors
    ///
    /// It refuses its configuration, or fails.
    pub fn start(policy: &WasmPolicy, placement: &Placement) -> Result<Self, StartError> {
        let instance = Instance::new(policy, placement, Role::Trial, &[]).map_err(failed)?;
        Ok(Self { policy: policy.clone(), instance, endpoints: FakeSubConns::default() })
    }

    /// Tells the policy that its endpoints are these, in this order and in these states. One is known again by its
    /// first address; subconns are numbered from 0 as they come. Gives the time that telling it took.
    ///
    /// # Errors
    ///
    /// The policy fails: it is not to be used any more.
    pub fn tell(
        &mut self,
        endpoints: impl IntoIterator<Item = (Endpoint, ConnectivityState)>,
    ) -> Result<Duration, StartError> {
        let ready = self.endpoints.set(endpoints);
        let begin = Instant::now();
        self.instance.tell(&ready).map_err(|fault| failed(fault.into()))?;
        Ok(begin.elapsed())
    }

    /// Has the policy pick for an RPC.
    ///
    /// # Errors
    ///
    /// The policy fails, or picks a subconn that does not exist: it is not to be used any more.
    pub fn pick(&mut self, info: &PickInfo<'_>) -> Result<PickResult, StartError> {
        let answer = self.instance.pick(info).map_err(|fault| failed(InitError::Trial(fault)))?;
        Ok(answer.result)
    }

    /// Bytes of memory that it has in use.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.instance.memory()
    }
}

impl fmt::Debug for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trial({})", self.policy.terms.version)
    }
}

pub(super) fn failed(error: InitError) -> StartError {
    StartError::at(error.stage(), error.to_string())
}
