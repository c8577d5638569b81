//! The states of subconns, for policies that decide when to connect.

use crate::{ConnectivityState, SubConn, SubConnMap, connections};

/// The state of each subconn. A subconn that has failed counts as failed until it is ready (gRFC A62), also between
/// and during its next attempts.
#[derive(Clone, Debug, Default)]
pub struct States {
    /// Those that are not idle.
    of: SubConnMap<ConnectivityState>,
    /// Number of subconns in each state but idle.
    counts: [usize; 3],
}

impl States {
    /// Records a change, from [`Connectivity::connectivity`](crate::Connectivity::connectivity). Returns the previous
    /// state.
    pub fn note(&mut self, id: SubConn, state: ConnectivityState) -> ConnectivityState {
        let before = self.of(id);
        let still_failed = before == ConnectivityState::TransientFailure
            && matches!(state, ConnectivityState::Idle | ConnectivityState::Connecting);
        if !still_failed {
            self.set(id, state);
        }
        before
    }

    fn set(&mut self, id: SubConn, state: ConnectivityState) {
        let before = match state {
            ConnectivityState::Idle | ConnectivityState::Shutdown => self.of.remove(id),
            state => self.of.insert(id, state),
        };
        if let Some(at) = before.and_then(place) {
            self.counts[at] -= 1;
        }
        if let Some(at) = place(state) {
            self.counts[at] += 1;
        }
    }

    /// Returns how many subconns are connecting, ready, or have failed. Idle ones are not counted: 0.
    #[must_use]
    pub const fn count(&self, state: ConnectivityState) -> usize {
        match place(state) {
            Some(at) => self.counts[at],
            None => 0,
        }
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
        self.of.get(id).copied().unwrap_or(ConnectivityState::Idle)
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
        self.set(id, ConnectivityState::Shutdown);
    }
}

/// Returns the index of the number of subconns in a state.
const fn place(state: ConnectivityState) -> Option<usize> {
    match state {
        ConnectivityState::Connecting => Some(0),
        ConnectivityState::Ready => Some(1),
        ConnectivityState::TransientFailure => Some(2),
        _ => None,
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

    #[test]
    fn the_counts_are_those_of_the_states() {
        use ConnectivityState::{Connecting, Idle, Ready, Shutdown, TransientFailure};
        let (mut states, mut random) = (States::default(), crate::random::Random::new(7));
        for _ in 0..2_000 {
            let id = u32::try_from(random.below(10)).expect("small");
            match random.below(6) {
                5 => states.remove(id),
                at => drop(states.note(id, [Idle, Connecting, Ready, TransientFailure, Shutdown][at])),
            }
            for state in [Connecting, Ready, TransientFailure] {
                assert_eq!(states.count(state), (0..10).filter(|id| states.of(*id) == state).count());
            }
        }
    }
}
