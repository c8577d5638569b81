//! The states of subconns, for policies that decide when to connect.

use crate::{ConnectivityState, SubConn, SubConnMap, connections};

/// The state of each subconn. A subconn that has failed counts as failed until it is ready (gRFC A62), also between
/// and during its next attempts.
#[derive(Clone, Debug, Default)]
pub struct States(SubConnMap<ConnectivityState>);

impl States {
    /// Records a change, from [`Connectivity::connectivity`](crate::Connectivity::connectivity). Returns the previous
    /// state.
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

    /// Records a change as [`note`](Self::note) does, and reconnects: a subconn that has failed or lost its connection
    /// is connected again as soon as possible.
    pub fn note_and_retry(&mut self, id: SubConn, state: ConnectivityState) -> ConnectivityState {
        if state == ConnectivityState::Idle {
            connections::connect(id);
        }
        self.note(id, state)
    }

    /// Returns the state of a subconn; idle if none has been recorded.
    #[must_use]
    pub fn of(&self, id: SubConn) -> ConnectivityState {
        self.0.get(id).copied().unwrap_or(ConnectivityState::Idle)
    }

    /// Returns whether a subconn is ready.
    #[must_use]
    pub fn is_ready(&self, id: SubConn) -> bool {
        self.of(id) == ConnectivityState::Ready
    }

    /// Returns whether a subconn has failed, and has not been ready since.
    #[must_use]
    pub fn has_failed(&self, id: SubConn) -> bool {
        self.of(id) == ConnectivityState::TransientFailure
    }

    /// Removes a subconn.
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
