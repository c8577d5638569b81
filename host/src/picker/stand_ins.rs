//! What picks while there is no policy to ask.

use std::sync::Arc;

use tokio::sync::Notify;
use tonic::Status;

use super::{PickInfo, PickResult, Picker, PickerBuilder, Placement, Policy, PolicyVersion, StartError};
use crate::subconn::ReadySet;

/// The pickers of a channel that has no ready subconn.
#[derive(Debug)]
pub(crate) enum Always {
    /// Something is still under way.
    Queue,
    /// Nothing is.
    Fail(Status),
    /// Nothing ever will be.
    Drop(Status),
}

impl Picker for Always {
    fn pick(&self, _info: &PickInfo<'_>) -> PickResult {
        match self {
            Self::Queue => PickResult::Queue,
            Self::Fail(status) => PickResult::Fail(status.clone()),
            Self::Drop(status) => PickResult::Drop(status.clone()),
        }
    }
}

/// A policy that fails every RPC with UNAVAILABLE, for this reason.
#[derive(Clone, Debug)]
pub(crate) struct Refuses(String);

impl Refuses {
    pub(crate) const fn new(reason: String) -> Self {
        Self(reason)
    }
}

impl Policy for Refuses {
    fn version(&self) -> PolicyVersion {
        PolicyVersion::new("refuses", 0, "")
    }

    fn start(&self, _: &Placement, _: &ReadySet) -> Result<Box<dyn PickerBuilder>, StartError> {
        Ok(Box::new(self.clone()))
    }
}

impl PickerBuilder for Refuses {
    fn build(&mut self, _ready: &ReadySet) -> Arc<dyn Picker> {
        Arc::new(Always::Fail(Status::unavailable(self.0.clone())))
    }
}

/// The picker of an idle channel: an RPC is held, and wakes it.
#[derive(Debug)]
pub(crate) struct Wakes(pub(crate) Arc<Notify>);

impl Picker for Wakes {
    fn pick(&self, _info: &PickInfo<'_>) -> PickResult {
        self.0.notify_one();
        PickResult::Queue
    }
}
