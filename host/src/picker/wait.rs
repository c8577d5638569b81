//! What an RPC waits for before it is sent (gRFC A121).

use std::fmt;

/// What an RPC, or an attempt of it, waits for before it is sent: `grpc.delay_type` of gRFC A121.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DelayType {
    /// The target has not been resolved yet.
    Resolving,
    /// No connection is there yet.
    Connecting,
    /// The policy has queued the RPC, although subconns are ready. Not a type of A121.
    Policy,
    /// All streams that the servers allow on the connections are in use. Not a type of A121.
    StreamLimit,
    /// The subconn that was picked is not ready any more, and there is no new picker yet.
    SubchannelStateMismatch,
    /// The picker fails RPCs, and this one is wait-for-ready.
    PickerFailingWithWaitForReady,
}

impl DelayType {
    /// All types.
    pub const ALL: [Self; 6] = [
        Self::Resolving,
        Self::Connecting,
        Self::Policy,
        Self::StreamLimit,
        Self::SubchannelStateMismatch,
        Self::PickerFailingWithWaitForReady,
    ];

    /// Returns the name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Resolving => "resolving",
            Self::Connecting => "connecting",
            Self::Policy => "policy",
            Self::StreamLimit => "stream_limit",
            Self::SubchannelStateMismatch => "subchannel_state_mismatch",
            Self::PickerFailingWithWaitForReady => "picker_failing_with_wait_for_ready",
        }
    }
}

impl fmt::Display for DelayType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Is told what an attempt waits for.
pub(crate) trait Delays {
    /// The attempt waits, or goes on waiting for another reason.
    fn begin(&self, delay: DelayType, reason: &dyn fmt::Display);
    /// The attempt does not wait any more.
    fn end(&self);
}

/// Nobody wants to know.
impl Delays for () {
    fn begin(&self, _delay: DelayType, _reason: &dyn fmt::Display) {}
    fn end(&self) {}
}
