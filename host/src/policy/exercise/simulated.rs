//! A channel without connections, in the time of its caller: what a simulation puts its servers behind.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt as _;
use http::HeaderMap;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::connectivity::ConnectivityState;
use crate::lifecycle::{PickAgain, PickerBuilder, Placement, Policy, StartError};
use crate::picker::{Faults, Pick, PickInfo, PickResult, PickedBy, Picker};
use crate::policy::compile::meter;
use crate::policy::instance::take_fuel;
use crate::resolver::Endpoint;
use crate::subconn::{ConnectRequest, Done, DoneInfo, FakeSubConns, ReadySet, SubConn};

/// A channel that picks with a policy as any other does (slots, plans, statistics, outcomes, timers, fallback), and sends
/// nothing: the caller says how each RPC ends.
///
/// Needs a Tokio runtime with one thread. With its clock paused (`tokio::time::pause`), everything happens in virtual time.
pub struct SimulatedChannel {
    endpoints: FakeSubConns,
    requests: Arc<Mutex<Vec<ConnectRequest>>>,
    builder: Box<dyn PickerBuilder>,
    picker: Arc<dyn Picker>,
    /// The snapshot that the picker was built for.
    snapshot: ReadySet,
    pick_again: PickAgain,
}

/// The answer for one attempt of an RPC.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "gRPC's four answers")]
pub enum SimulatedPick {
    /// The RPC is sent.
    Sent(SimulatedRpc),
    /// The RPC is queued until the endpoints change.
    Queue,
    /// The RPC fails; one that waits for ready endpoints is queued.
    Fail(Status),
    /// The RPC ends.
    Drop(Status),
}

/// An attempt of an RPC that has been sent. It is in flight until its [`end`](Self::end).
pub struct SimulatedRpc {
    subconn: SubConn,
    done: Option<Done>,
    begun: Instant,
    responded: bool,
    by: PickedBy,
}

impl SimulatedChannel {
    /// Starts a policy in a channel with these endpoints, in this order and in these states. An endpoint is identified by
    /// its first address; subconns are numbered from 0 in the order in which they first appear.
    ///
    /// # Errors
    ///
    /// If a channel would refuse the policy.
    pub fn start(
        policy: &dyn Policy,
        placement: &Placement,
        endpoints: impl IntoIterator<Item = (Endpoint, ConnectivityState)>,
    ) -> Result<Self, StartError> {
        let requests = Arc::default();
        let mut subconns = FakeSubConns::with_requests(&requests);
        let ready = set(&mut subconns, endpoints);
        let placement = Placement { is_simulated: true, ..placement.clone() };
        let mut builder = policy.start(&placement, &ready)?;
        let picker = builder.build(&ready);
        let pick_again = placement.pick_again.clone();
        Ok(Self { endpoints: subconns, requests, builder, picker, snapshot: ready, pick_again })
    }

    /// Replaces the endpoints and their states, and notifies the policy.
    pub fn update(&mut self, endpoints: impl IntoIterator<Item = (Endpoint, ConnectivityState)>) {
        let ready = set(&mut self.endpoints, endpoints);
        self.picker = self.builder.build(&ready);
        self.snapshot = ready;
    }

    /// Returns what the policy has requested of connections since the last call.
    pub fn requests(&mut self) -> Vec<ConnectRequest> {
        std::mem::take(&mut *self.requests.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns whether the policy decides when to connect.
    #[must_use]
    pub fn is_lazy(&self) -> bool {
        self.builder.is_lazy()
    }

    /// Picks for one attempt of an RPC, now.
    #[must_use]
    pub fn pick(&self, info: &PickInfo<'_>) -> SimulatedPick {
        match self.picker.pick(info) {
            PickResult::Pick(Pick { subconn, done, .. })
                if self.snapshot.state(subconn.id()) != Some(ConnectivityState::Ready) =>
            {
                // As in a channel: it is connected, and the RPC is picked for again.
                subconn.connect();
                if let Some(done) = done {
                    let latency = info.now.elapsed();
                    done.notify(&DoneInfo { code: None, client_ended: false, trailers: None, latency });
                }
                SimulatedPick::Queue
            }
            PickResult::Pick(Pick { subconn, done, by, .. }) => {
                subconn.counters().start(info.now);
                SimulatedPick::Sent(SimulatedRpc { subconn, done, begun: info.now, responded: false, by })
            }
            PickResult::Queue => SimulatedPick::Queue,
            PickResult::Fail(status) => SimulatedPick::Fail(status),
            PickResult::Drop(status) => SimulatedPick::Drop(status),
        }
    }

    /// Returns the endpoint of a subconn of the current endpoints.
    #[must_use]
    pub fn endpoint(&self, subconn: u32) -> Option<Arc<Endpoint>> {
        self.snapshot.find(subconn).map(SubConn::endpoint)
    }

    /// Returns whether the policy has requested that queued RPCs be picked for again, since the last call.
    #[must_use]
    pub fn wants_another_pick(&self) -> bool {
        self.pick_again.requested().now_or_never().is_some()
    }

    /// Has the policies of this process count the instructions that they execute, for [`picks_cost`](Self::picks_cost).
    /// `false`: it is too late, a policy has been compiled or loaded before.
    #[must_use]
    pub fn meter() -> bool {
        meter()
    }

    /// Returns the number of called picks of all policies of the process since the last call, and the instructions of
    /// WebAssembly that they took together. Zero unless they are [counted](Self::meter).
    #[must_use]
    pub fn picks_cost() -> (u64, u64) {
        take_fuel()
    }

    /// Returns the faults of the policy.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.picker.faults()
    }
}

fn set(
    subconns: &mut FakeSubConns,
    endpoints: impl IntoIterator<Item = (Endpoint, ConnectivityState)>,
) -> ReadySet {
    let ready = subconns.set(endpoints);
    for subconn in ready.all().iter() {
        subconn.counters().set_ready(ready.state(subconn.id()) == Some(ConnectivityState::Ready));
    }
    ready
}

impl SimulatedRpc {
    /// Returns the number of the subconn.
    #[must_use]
    pub fn subconn(&self) -> u32 {
        self.subconn.id()
    }

    /// Returns who picked.
    #[must_use]
    pub const fn picked_by(&self) -> PickedBy {
        self.by
    }

    /// The server's response has begun.
    pub fn respond(&mut self) {
        if !std::mem::replace(&mut self.responded, true) {
            self.subconn.counters().responded(self.begun, Instant::now());
        }
    }

    /// The RPC has ended with this status, or the client has given up. `trailers` may have a load report.
    pub fn end(mut self, code: Code, client_ended: bool, trailers: Option<&HeaderMap>) {
        self.finish(code, client_ended, trailers);
    }

    fn finish(&mut self, code: Code, client_ended: bool, trailers: Option<&HeaderMap>) {
        let Some(done) = self.done.take() else { return self.count(code, client_ended) };
        self.count(code, client_ended);
        let latency = self.begun.elapsed();
        done.notify(&DoneInfo { code: Some(code), client_ended, trailers, latency });
    }

    fn count(&self, code: Code, client_ended: bool) {
        self.subconn.counters().end(code, client_ended, self.responded, self.begun, Instant::now());
    }
}

impl fmt::Debug for SimulatedChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedChannel").finish_non_exhaustive()
    }
}

impl fmt::Debug for SimulatedRpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedRpc").field("subconn", &self.subconn).finish_non_exhaustive()
    }
}
