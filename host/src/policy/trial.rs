//! A policy on endpoints that are not there, for tools and tests.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::WasmPolicy;
use super::instance::{InitError, Instance, Role};
use crate::connectivity::ConnectivityState;
use crate::picker::{PickInfo, PickResult, Placement, StartError};
use crate::resolver::{Address, Endpoint};
use crate::subconn::{Dialer, ReadySet, SubConn};

/// An instance of a policy at work on endpoints that are not there: it is told of them and picks, but nothing is
/// connected, and nothing sent. Made and used within a tokio runtime, and off its workers: it may block.
///
/// With a [seed](Placement::with_seed) a policy whose picks do not depend on time picks the same each time.
pub struct Trial {
    policy: WasmPolicy,
    instance: Instance,
    endpoints: StandIns,
}

impl Trial {
    /// Starts the policy, and tells it of nothing yet.
    ///
    /// # Errors
    ///
    /// It refuses its configuration, or fails.
    pub fn start(policy: &WasmPolicy, placement: &Placement) -> Result<Self, StartError> {
        let instance = Instance::new(policy, placement, Role::Trial, &[]).map_err(failed)?;
        Ok(Self { policy: policy.clone(), instance, endpoints: StandIns::default() })
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

/// Subconns that are never connected, in whatever states they are said to be in.
pub(super) struct StandIns {
    known: HashMap<Address, SubConn>,
    next: u32,
    events: mpsc::UnboundedSender<u32>,
}

impl Default for StandIns {
    fn default() -> Self {
        let (events, _) = mpsc::unbounded_channel();
        Self { known: HashMap::new(), next: 0, events }
    }
}

impl StandIns {
    /// So many of them, all ready.
    pub(super) fn ready(&mut self, count: u32) -> ReadySet {
        let endpoint = |number: u32| {
            // Of the block for benchmarks (RFC 2544).
            let address = std::net::Ipv4Addr::from_bits(0xc612_0000 + number);
            (
                Endpoint::new(Address::from(std::net::SocketAddr::from((address, 80)))),
                ConnectivityState::Ready,
            )
        };
        self.set((0..count).map(endpoint))
    }

    fn set(&mut self, endpoints: impl IntoIterator<Item = (Endpoint, ConnectivityState)>) -> ReadySet {
        let mut gone = std::mem::take(&mut self.known);
        let mut members = Vec::new();
        for (endpoint, state) in endpoints {
            let address = endpoint.addresses()[0].clone();
            let subconn = gone.remove(&address).unwrap_or_else(|| {
                self.next += 1;
                SubConn::spawn(self.next - 1, endpoint.clone(), Dialer::plain(), self.events.clone())
            });
            if *subconn.endpoint() != endpoint {
                subconn.update(endpoint);
            }
            self.known.insert(address, subconn.clone());
            members.push((subconn, state));
        }
        gone.values().for_each(SubConn::shutdown);
        ReadySet::new(members)
    }
}

impl Drop for StandIns {
    fn drop(&mut self) {
        self.known.values().for_each(SubConn::shutdown);
    }
}
