//! Subconns without connections, for tests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::handle::{Capacity, Driver};
use super::{Entry, ReadySet, Snapshots, SubConn};
use crate::connectivity::ConnectivityState;
use crate::resolver::{Address, Endpoint};

/// Subconns without connections, in lists whose states a test sets ([`SubConn::state`] stays IDLE). For tests and benchmarks
/// of pickers.
///
/// ```
/// use hotpick::picker::{PickInfo, PickResult};
/// use hotpick::policy::{Placement, Policy as _, RoundRobin};
/// use hotpick::subconn::FakeSubConns;
///
/// # fn main() -> Result<(), hotpick::policy::StartError> {
/// let mut endpoints = FakeSubConns::default();
/// let ready = endpoints.ready(3);
/// let mut builder = RoundRobin::default().start(&Placement::new("static:///test", "{}"), &ready)?;
/// let picked = builder.build(&ready).pick(&PickInfo::new("/echo.Echo/Unary", &Default::default()));
/// assert!(matches!(picked, PickResult::Pick(_)));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct FakeSubConns {
    known: HashMap<Address, (SubConn, Option<ConnectivityState>)>,
    snapshots: Snapshots,
    next: u32,
    requests: Option<Requests>,
}

/// What a policy has requested of a subconn without connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the contract's two requests")]
pub enum ConnectRequest {
    /// Connect the subconn with this number.
    Connect(u32),
    /// Disconnect the subconn with this number.
    Disconnect(u32),
}

type Requests = Arc<Mutex<Vec<ConnectRequest>>>;

/// A driver that only remembers what is requested of it, if someone wants to know.
#[derive(Debug)]
struct NoConnections {
    id: u32,
    requests: Option<Requests>,
}

impl NoConnections {
    fn remember(&self, request: ConnectRequest) {
        if let Some(requests) = &self.requests {
            requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        }
    }
}

impl Driver for NoConnections {
    fn connect(&self) {
        self.remember(ConnectRequest::Connect(self.id));
    }

    fn enter_idle(&self) {
        self.remember(ConnectRequest::Disconnect(self.id));
    }

    fn shutdown(&self) {}

    fn capacity(&self) -> Capacity {
        Capacity::UNKNOWN
    }
}

impl FakeSubConns {
    /// Subconns whose requests for connections are added to this list.
    #[must_use]
    pub fn with_requests(requests: &Arc<Mutex<Vec<ConnectRequest>>>) -> Self {
        Self { requests: Some(Arc::clone(requests)), ..Self::default() }
    }

    /// Sets `count` subconns, all READY. Returns the snapshot.
    pub fn ready(&mut self, count: u32) -> ReadySet {
        let endpoint = |number: u32| {
            // An address of the block for benchmarks (RFC 2544).
            let address = std::net::Ipv4Addr::from_bits(0xc612_0000 + number);
            (
                Endpoint::new(Address::from(std::net::SocketAddr::from((address, 80)))),
                ConnectivityState::Ready,
            )
        };
        self.set((0..count).map(endpoint))
    }

    /// Replaces the endpoints and states, in this order. Returns the snapshot.
    ///
    /// An endpoint with a known first address keeps its subconn. New subconns are numbered from 0 on.
    pub fn set(&mut self, endpoints: impl IntoIterator<Item = (Endpoint, ConnectivityState)>) -> ReadySet {
        let mut gone = std::mem::take(&mut self.known);
        let mut order = Vec::new();
        for (endpoint, state) in endpoints {
            let address = endpoint.addresses()[0].clone();
            let (subconn, before) = gone.remove(&address).unwrap_or_else(|| {
                self.next += 1;
                (SubConn::recorded(self.next - 1, endpoint.clone(), self.requests.clone()), None)
            });
            let is_other = *subconn.endpoint() != endpoint;
            if is_other {
                subconn.update(endpoint);
            }
            if is_other || before != Some(state) {
                self.put(&subconn, state);
            }
            order.push(subconn.id());
            self.known.insert(address, (subconn, Some(state)));
        }
        for (subconn, _) in gone.values() {
            self.snapshots.remove(subconn.id());
        }
        self.snapshots.replace(0, self.snapshots.order().len(), order);
        self.snapshots.next()
    }

    /// Changes the state of a subconn. Returns the snapshot.
    pub fn change(&mut self, subconn: &SubConn, state: ConnectivityState) -> ReadySet {
        let endpoint = subconn.endpoint();
        if let Some((_, before)) = self.known.get_mut(&endpoint.addresses()[0])
            && *before != Some(state)
        {
            *before = Some(state);
            self.put(subconn, state);
        }
        self.snapshots.next()
    }

    fn put(&mut self, subconn: &SubConn, state: ConnectivityState) {
        let endpoint = subconn.endpoint();
        self.snapshots.put(Entry { subconn: subconn.clone(), endpoint, state });
    }
}

impl SubConn {
    /// Creates a subconn without connections.
    #[cfg(test)]
    pub(crate) fn fake(id: u32, endpoint: Endpoint) -> Self {
        Self::recorded(id, endpoint, None)
    }

    fn recorded(id: u32, endpoint: Endpoint, requests: Option<Requests>) -> Self {
        Self::new(id, endpoint, Arc::new(NoConnections { id, requests }))
    }
}
