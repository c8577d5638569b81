//! The five states of gRPC connectivity, and the rule that makes one state of many.

/// The state of a subconn or of a channel, as in gRPC's connectivity semantics
/// (`doc/connectivity-semantics-and-api.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "gRPC defines exactly these five")]
pub enum ConnectivityState {
    /// No connection, and none being made.
    Idle,
    /// A connection is being made. RPCs wait.
    Connecting,
    /// Connected: the peer has sent its HTTP/2 SETTINGS and no GOAWAY.
    Ready,
    /// The last attempt failed; the next one waits for its backoff.
    TransientFailure,
    /// Closed for good.
    Shutdown,
}

impl ConnectivityState {
    /// The state of a channel whose subconns have these states: the first that any of them has of
    /// READY, CONNECTING, IDLE, and otherwise (of no subconns, too) TRANSIENT_FAILURE.
    ///
    /// ```
    /// use hotpick::connectivity::ConnectivityState::{self, *};
    ///
    /// assert_eq!(ConnectivityState::aggregate([TransientFailure, Connecting, Idle]), Connecting);
    /// assert_eq!(ConnectivityState::aggregate([]), TransientFailure);
    /// ```
    #[must_use]
    pub fn aggregate(states: impl IntoIterator<Item = Self>) -> Self {
        let rank = |state: &Self| match state {
            Self::Ready => 3,
            Self::Connecting => 2,
            Self::Idle => 1,
            Self::TransientFailure | Self::Shutdown => 0,
        };
        match states.into_iter().max_by_key(rank) {
            None | Some(Self::Shutdown) => Self::TransientFailure,
            Some(state) => state,
        }
    }
}

impl std::fmt::Display for ConnectivityState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Idle => "IDLE",
            Self::Connecting => "CONNECTING",
            Self::Ready => "READY",
            Self::TransientFailure => "TRANSIENT_FAILURE",
            Self::Shutdown => "SHUTDOWN",
        })
    }
}
