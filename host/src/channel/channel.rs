//! The channel: what tonic's generated clients send RPCs through.

use std::fmt;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::activity::Activity;
use crate::balancer::{Command, Published, Report};
use crate::connectivity::ConnectivityState;
use crate::lifecycle::{PolicyVersion, StartError};
use crate::picker::Faults;
use crate::subconn::{ReadySet, SubConn};
use crate::transport::{ConnectionCounters, ConnectionStats};

/// A connection to a service, balanced over its endpoints. Cheap to clone; closed when the last clone
/// is dropped, once the RPCs under way have ended.
///
/// It is a [`tower_service::Service`] that is always ready and fails with [`Status`] alone, so any
/// client that tonic generates works on it, and so does any tower layer.
#[derive(Clone)]
pub struct Channel(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) target: String,
    pub(super) published: Arc<Published>,
    pub(super) report: watch::Receiver<Report>,
    pub(super) activity: Arc<Activity>,
    pub(super) connections: Arc<ConnectionCounters>,
    pub(super) commands: mpsc::UnboundedSender<Command>,
    /// Of RPCs that do not say, and whose method's config does not.
    pub(super) wait_for_ready: bool,
    /// Ends every connection at once.
    pub(super) abort: CancellationToken,
    /// Where the channel was made.
    pub(super) runtime: Handle,
    /// Ends the balancer; alone it lets RPCs under way finish.
    pub(super) closed: CancellationToken,
    pub(super) _dropped: DropGuard,
}

/// How a channel is at a moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ChannelStatus {
    /// The channel's target.
    pub target: String,
    /// The aggregate of the subconns' states.
    pub state: ConnectivityState,
    /// The policy in force.
    pub policy: PolicyVersion,
    /// How often one version of the policy has taken over from another.
    pub swaps: u64,
    /// What the policy in force has done wrong.
    pub faults: Faults,
    /// Why a version newer than the one in force was not taken by this channel: it failed to start, or
    /// refused the channel's configuration.
    pub refused: Option<StartError>,
    /// The subconns, in the resolver's order.
    pub subconns: Vec<SubConn>,
    /// Those of them that RPCs are picked from. A subconn's own state may be newer: what it says of itself the policy
    /// may not know yet.
    pub ready: ReadySet,
    /// The connections of all subconns that there were.
    pub connections: ConnectionStats,
}

impl Channel {
    /// The aggregate state at this moment.
    #[must_use]
    pub fn state(&self) -> ConnectivityState {
        self.0.report.borrow().state
    }

    /// The state at this moment, and each change of it from then on; of several in a row only the last may
    /// be seen. Ends after SHUTDOWN, which comes when the last clone of the channel is dropped: the stream
    /// does not keep it open.
    pub fn states(&self) -> impl Stream<Item = ConnectivityState> + Send + use<> {
        let mut seen = None;
        let changed =
            move |report: Report| (seen.replace(report.state) != Some(report.state)).then_some(report.state);
        WatchStream::new(self.0.report.clone()).filter_map(changed)
    }

    /// Leaves IDLE, as an RPC would.
    pub fn connect(&self) {
        self.command(Command::Connect);
    }

    /// Goes IDLE: gives up the connections, and the resolver, until an RPC or [`connect`](Self::connect)
    /// comes. RPCs under way finish.
    pub fn enter_idle(&self) {
        self.command(Command::EnterIdle);
    }

    fn command(&self, command: Command) {
        // After SHUTDOWN there is nothing to be told.
        let _ = self.0.commands.send(command);
    }

    /// Closes the channel in good order: new RPCs fail with CANCELLED, those that have begun are waited
    /// for, and then the connections are closed. Given up on halfway, it leaves the channel closed to new
    /// RPCs; [`close`](Self::close) ends the others.
    pub async fn shutdown(&self) {
        self.0.activity.drain().await;
        self.close();
    }

    /// Closes the channel now: RPCs under way, and new ones, fail with CANCELLED.
    pub fn close(&self) {
        self.0.activity.close();
        self.0.abort.cancel();
        self.0.closed.cancel();
    }

    /// How the channel is at this moment.
    #[must_use]
    pub fn status(&self) -> ChannelStatus {
        let report = self.0.report.borrow().clone();
        ChannelStatus {
            target: self.0.target.clone(),
            state: report.state,
            policy: report.policy,
            swaps: report.swaps,
            faults: report.picker.map_or(report.faults, |picker| picker.faults()),
            refused: report.refused,
            subconns: report.ready.all().to_vec(),
            ready: report.ready,
            connections: self.0.connections.read(),
        }
    }

    /// Waits until the status satisfies `condition`, looking at each change of state, endpoints or
    /// policy. (Counters alone are no change.)
    pub async fn wait_for(&self, mut condition: impl FnMut(&ChannelStatus) -> bool) -> ChannelStatus {
        let mut report = self.0.report.clone();
        loop {
            report.mark_unchanged();
            let status = self.status();
            // The reporter ends only with the runtime.
            if condition(&status) || report.changed().await.is_err() {
                return status;
            }
        }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0.report.borrow();
        write!(f, "Channel({} by {})", report.state, report.policy)
    }
}
