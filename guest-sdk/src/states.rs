//! The states of subconns, as a policy sees them that decides when to connect.

use crate::{ConnectivityState, SubConn, SubConnMap, connections};

/// The state of each subconn; one that has failed counts as failed until it is ready (gRFC A62): what is between two
/// attempts, and the attempts, are not new hope for RPCs.
#[derive(Clone, Debug, Default)]
pub struct States(SubConnMap<ConnectivityState>);

impl States {
    /// Takes in a change, from [`Connectivity::connectivity`](crate::Connectivity::connectivity). Gives the state
    /// before.
    pub fn note(&mut self, id: SubConn, state: ConnectivityState) -> ConnectivityState {
        let before = self.of(id);
        let still_failed = before == ConnectivityState::TransientFailure
            && matches!(state, ConnectivityState::Idle | ConnectivityState::Connecting);
        match state {
            ConnectivityState::Shutdown => drop(self.0.remove(id)),
            _ if still_failed => {}
            state => drop(self.0.insert(id, state)),
        }
        before
    }

    /// The same for a policy that wants such a subconn connected: one that has failed, or has lost its connection, is
    /// connected again as soon as it may be.
    pub fn note_and_retry(&mut self, id: SubConn, state: ConnectivityState) -> ConnectivityState {
        if state == ConnectivityState::Idle {
            connections::connect(id);
        }
        self.note(id, state)
    }

    /// The state of a subconn; idle if nothing was said of it.
    #[must_use]
    pub fn of(&self, id: SubConn) -> ConnectivityState {
        self.0.get(id).copied().unwrap_or(ConnectivityState::Idle)
    }

    /// It is ready.
    #[must_use]
    pub fn is_ready(&self, id: SubConn) -> bool {
        self.of(id) == ConnectivityState::Ready
    }

    /// It has failed, and was not ready since.
    #[must_use]
    pub fn has_failed(&self, id: SubConn) -> bool {
        self.of(id) == ConnectivityState::TransientFailure
    }

    /// It is there no more.
    pub fn remove(&mut self, id: SubConn) {
        self.0.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_forgotten_when_it_is_ready() {
        use ConnectivityState::{Connecting, Idle, Ready, TransientFailure};
        let mut states = States::default();
        assert_eq!(states.of(1), Idle);
        for state in [Connecting, TransientFailure, Idle, Connecting] {
            states.note(1, state);
        }
        assert!(states.has_failed(1));
        assert_eq!(states.note(1, Ready), TransientFailure);
        assert_eq!(states.note(1, Idle), Ready);
        assert_eq!(states.of(1), Idle);
    }
}
