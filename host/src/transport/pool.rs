//! The connections of one subconn, as RPCs see them: which of them has a free stream, and who waits for one.

use std::sync::Arc;

use arc_swap::ArcSwapAny;
use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};
use tokio::sync::mpsc;
use tonic::Status;

use super::connection::{Connection, StreamPermit};
use super::stream_queue::StreamQueue;
use crate::connectivity::ConnectivityState;
use crate::subconn::{Capacity, Driver, SubConn};
use crate::waiting::Waits;

/// The connections of one subconn. Filled by its task, used by RPCs.
pub(super) struct Pool {
    authority: Authority,
    scheme: Scheme,
    open: ArcSwapAny<Arc<Open>>,
    commands: mpsc::UnboundedSender<Command>,
    queue: Waiting,
}

/// A request to the subconn's task.
#[derive(Debug)]
pub(super) enum Command {
    Connect,
    EnterIdle,
    Shutdown,
}

/// The connections that take RPCs: none unless READY.
#[derive(Debug, Default)]
pub(super) struct Open {
    pub(super) connections: Vec<Arc<Connection>>,
    /// Another connection can be made: RPCs that find no free stream wait for it.
    pub(super) may_grow: bool,
}

/// A connection, and a stream on it. `None`: there is no connection.
pub(super) type Permit = Option<(Arc<Connection>, StreamPermit)>;
/// RPCs that wait for a permit.
pub(super) type Waiting = StreamQueue<Permit>;

enum Found {
    /// Send with this, or not at all if there is no connection.
    Permit(Permit),
    /// All connections are full: wait for a stream on any of them, or for another connection. Or the last
    /// connection was lost a moment ago, and the subconn's task is about to say what follows.
    MustWait,
}

impl Pool {
    pub(super) fn new(
        authority: Authority,
        scheme: Scheme,
        commands: mpsc::UnboundedSender<Command>,
    ) -> Self {
        Self { authority, scheme, open: ArcSwapAny::default(), commands, queue: Waiting::default() }
    }

    /// Returns the `:authority` of RPCs that have none of their own.
    pub(super) fn authority(&self) -> &Authority {
        &self.authority
    }

    pub(super) fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// Returns the URI of the server.
    pub(super) fn origin(&self) -> Uri {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
        Uri::from_parts(parts).unwrap_or_default()
    }

    pub(super) fn queue(&self) -> &Waiting {
        &self.queue
    }

    pub(super) fn has_connections(&self) -> bool {
        !self.open.load().connections.is_empty()
    }

    /// Replaces the connections that take RPCs.
    pub(super) fn set(&self, open: Open) {
        self.open.store(Arc::new(open));
    }

    /// Waits for a stream on any connection. Returns it, or `None` if there is no connection, and whether
    /// it had to wait. RPCs are served in the order in which they began to wait.
    ///
    /// # Errors
    ///
    /// If the limits of waiting do not allow it.
    pub(super) async fn stream(
        &self,
        subconn: &SubConn,
        waits: &mut Waits<'_>,
    ) -> Result<(Permit, bool), Status> {
        if !self.queue.has_waiters()
            && let Found::Permit(permit) = self.find(subconn)
        {
            return Ok((permit, false));
        }
        let permit = self.queue.join();
        // RPCs that waited when the subconn left READY were answered by its task; later ones see the state here.
        if subconn.state() != ConnectivityState::Ready {
            return Ok((None, true));
        }
        Ok((waits.wait(permit).await?.ok().flatten(), true))
    }

    /// Grants free streams to the RPCs that wait for them.
    pub(super) fn grant(&self, subconn: &SubConn) {
        self.queue.grant(|| match self.find(subconn) {
            Found::Permit(permit) => Some(permit),
            Found::MustWait => None,
        });
    }

    /// Takes a stream on the connection with the fewest RPCs.
    fn find(&self, subconn: &SubConn) -> Found {
        let open = self.open.load();
        let load = |connection: &&Arc<Connection>| {
            let state = connection.state();
            (!state.has_free_stream(), state.in_flight())
        };
        loop {
            let ready = open.connections.iter().filter(|connection| connection.is_ready());
            match ready.min_by_key(load) {
                Some(connection) => match StreamPermit::take(connection.state()) {
                    Some(stream) => return Found::Permit(Some((Arc::clone(connection), stream))),
                    None if !connection.state().has_free_stream() => return Found::MustWait,
                    // Another RPC took the last stream, and has ended since.
                    None => {}
                },
                None if subconn.state() == ConnectivityState::Ready => return Found::MustWait,
                None => return Found::Permit(None),
            }
        }
    }

    fn command(&self, command: Command) {
        // After SHUTDOWN no task listens, and nothing is left to do.
        let _ = self.commands.send(command);
    }
}

impl Driver for Pool {
    fn connect(&self) {
        self.command(Command::Connect);
    }

    fn enter_idle(&self) {
        self.command(Command::EnterIdle);
    }

    fn shutdown(&self) {
        self.command(Command::Shutdown);
    }

    fn capacity(&self) -> Capacity {
        let open = self.open.load();
        let each = |connection: &Arc<Connection>| connection.state().max_streams();
        Capacity {
            connections: open.connections.len(),
            // A server announces the same limit on each of its connections.
            streams_each: open.connections.first().map(each).filter(|max| *max < u32::MAX),
            streams: if open.may_grow || open.connections.is_empty() {
                u32::MAX
            } else {
                open.connections.iter().map(each).fold(0, u32::saturating_add)
            },
        }
    }
}
