//! Pickers that give every RPC the same answer.

use std::sync::Arc;

use tokio::sync::Notify;
use tonic::Status;

use super::{DelayType, PickInfo, PickResult, Picker};

/// Gives every RPC the same answer.
#[derive(Debug)]
pub(crate) enum Fixed {
    /// The channel is still connecting or resolving.
    Queue,
    /// No endpoint can be reached now.
    Fail(Status),
    /// The channel is closed.
    Drop(Status),
}

impl Picker for Fixed {
    fn pick(&self, _info: &PickInfo<'_>) -> PickResult {
        match self {
            Self::Queue => PickResult::Queue,
            Self::Fail(status) => PickResult::Fail(status.clone()),
            Self::Drop(status) => PickResult::Drop(status.clone()),
        }
    }

    fn queues_for(&self) -> DelayType {
        DelayType::Connecting
    }
}

/// The picker of an idle channel: queues the RPC, and wakes the channel.
#[derive(Debug)]
pub(crate) struct WakeUp(pub(crate) Arc<Notify>);

impl Picker for WakeUp {
    fn pick(&self, _info: &PickInfo<'_>) -> PickResult {
        self.0.notify_one();
        PickResult::Queue
    }

    fn queues_for(&self) -> DelayType {
        DelayType::Connecting
    }
}
