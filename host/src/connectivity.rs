//! The five connectivity states of gRPC, and their aggregation to the state of a channel.

/// The state of a subconn or of a channel, as in gRPC's connectivity semantics
/// (`doc/connectivity-semantics-and-api.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "gRPC defines exactly these five")]
pub enum ConnectivityState {
    /// There is no connection, and none is being established.
    Idle,
    /// A connection is being established. RPCs wait.
    Connecting,
    /// Connected: the peer has sent its HTTP/2 SETTINGS and no GOAWAY.
    Ready,
    /// The last connection attempt failed; the next one waits for its backoff.
    TransientFailure,
    /// Closed forever.
    Shutdown,
}

impl ConnectivityState {
    /// Returns the state of a channel whose subconns have these states: the first of READY, CONNECTING and IDLE that
    /// any subconn has, otherwise TRANSIENT_FAILURE. Without subconns, the state is TRANSIENT_FAILURE.
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
