//! The handle to one endpoint of a channel.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::stats::{Counters, ResponseStats, SubConnStats};
use crate::connectivity::ConnectivityState;
use crate::resolver::Endpoint;

/// A handle to the connection of one endpoint. Cheap to clone.
#[derive(Clone)]
pub struct SubConn(Arc<Shared>);

struct Shared {
    id: u32,
    endpoint: ArcSwap<Endpoint>,
    condition: Mutex<Condition>,
    stats: Counters,
    driver: Arc<dyn Driver>,
}

/// Current state, and the error that led to the last TRANSIENT_FAILURE or loss.
#[derive(Debug)]
struct Condition {
    state: ConnectivityState,
    since: Instant,
    error: Option<String>,
}

/// Connects a subconn and reports its state with [`SubConn::set_state`].
///
/// All methods return at once; what they ask for happens later or not at all.
pub(crate) trait Driver: Any + Send + Sync {
    /// Starts connecting if IDLE.
    fn connect(&self);

    /// Gives up the connection. RPCs in flight finish.
    fn enter_idle(&self);

    /// Accepts no further RPCs. RPCs in flight finish.
    fn shutdown(&self);

    /// Returns what the connections allow now.
    fn capacity(&self) -> Capacity;
}

/// What the connections of a subconn allow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capacity {
    /// Connections that take RPCs.
    pub(crate) connections: usize,
    /// Streams the peer allows at once on one connection, if there is a connection and the peer has said.
    pub(crate) streams_each: Option<u32>,
    /// Streams that all connections allow together; `u32::MAX` while there is no connection, or another
    /// one can be made.
    pub(crate) streams: u32,
}

impl Capacity {
    /// No connection, and no known limit.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) const UNKNOWN: Self = Self { connections: 0, streams_each: None, streams: u32::MAX };
}

impl SubConn {
    /// Creates a subconn in IDLE.
    pub(crate) fn new(id: u32, endpoint: Endpoint, driver: Arc<dyn Driver>) -> Self {
        Self(Arc::new(Shared {
            id,
            endpoint: ArcSwap::from_pointee(endpoint),
            condition: Mutex::new(Condition {
                state: ConnectivityState::Idle,
                since: Instant::now(),
                error: None,
            }),
            stats: Counters::default(),
            driver,
        }))
    }

    /// Returns the number by which policies know this subconn. It is unique within the channel, and
    /// reused only after 2^32 endpoints.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id
    }

    /// Returns the endpoint, with the weight and attributes of the resolver's last answer.
    #[must_use]
    pub fn endpoint(&self) -> Arc<Endpoint> {
        self.0.endpoint.load_full()
    }

    /// Returns the current state.
    #[must_use]
    pub fn state(&self) -> ConnectivityState {
        self.condition().state
    }

    /// Returns the time since the subconn entered its current state.
    #[must_use]
    pub fn time_in_state(&self) -> Duration {
        self.condition().since.elapsed()
    }

    /// Returns why the last attempt failed or the last connection was lost.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.condition().error.clone()
    }

    /// Returns a reading of the counters.
    #[must_use]
    pub fn stats(&self) -> SubConnStats {
        let Capacity { connections, streams_each, .. } = self.0.driver.capacity();
        SubConnStats { connections, max_streams: streams_each, ..self.0.stats.read() }
    }

    /// Returns how many streams all connections allow together: see [`Capacity::streams`].
    pub(crate) fn max_streams(&self) -> u32 {
        self.0.driver.capacity().streams
    }

    /// Returns the number of RPCs in flight.
    pub(crate) fn in_flight(&self) -> u32 {
        self.0.stats.in_flight()
    }

    /// Returns the counters of responses.
    pub(crate) fn responses(&self) -> ResponseStats {
        self.0.stats.responses()
    }

    /// Starts connecting if IDLE.
    pub(crate) fn connect(&self) {
        self.0.driver.connect();
    }

    /// Gives up the connection. RPCs in flight finish.
    pub(crate) fn enter_idle(&self) {
        self.0.driver.enter_idle();
    }

    /// Accepts no further RPCs. RPCs in flight finish.
    pub(crate) fn shutdown(&self) {
        self.0.driver.shutdown();
    }

    /// Replaces weight and attributes. The addresses, and so the connection, stay.
    pub(crate) fn update(&self, endpoint: Endpoint) {
        self.0.endpoint.store(Arc::new(endpoint));
    }

    /// Records the state, and the error unless there is none. Returns whether the state is another one.
    pub(crate) fn set_state(&self, state: ConnectivityState, error: Option<String>) -> bool {
        let mut condition = self.condition();
        condition.error = error.or_else(|| condition.error.take());
        let has_changed = std::mem::replace(&mut condition.state, state) != state;
        if has_changed {
            condition.since = Instant::now();
        }
        has_changed
    }

    /// Records an error. The state stays.
    pub(crate) fn set_error(&self, error: String) {
        self.condition().error = Some(error);
    }

    /// Returns the counters, for the driver and the sender of RPCs.
    pub(crate) fn counters(&self) -> &Counters {
        &self.0.stats
    }

    /// Returns the driver if it is a `D`.
    pub(crate) fn driver<D: Driver>(&self) -> Option<&D> {
        let driver: &dyn Any = &*self.0.driver;
        driver.downcast_ref()
    }

    fn condition(&self) -> MutexGuard<'_, Condition> {
        self.0.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SubConn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.0.endpoint.load().addresses()[0].to_string();
        write!(f, "SubConn({} {address} {})", self.id(), self.state())
    }
}

impl PartialEq for SubConn {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for SubConn {}
