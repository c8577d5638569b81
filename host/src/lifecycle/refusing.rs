//! A policy that fails all RPCs.

use std::sync::Arc;

use tonic::Status;

use super::{PickerBuilder, Placement, Policy, PolicyVersion, StartError};
use crate::picker::{Fixed, Picker};
use crate::subconn::ReadySet;

/// Fails every RPC with UNAVAILABLE, for this reason.
#[derive(Clone, Debug)]
pub(crate) struct Refusing(String);

impl Refusing {
    pub(crate) const fn new(reason: String) -> Self {
        Self(reason)
    }
}

impl Policy for Refusing {
    fn version(&self) -> PolicyVersion {
        PolicyVersion::new("refuses", 0, "")
    }

    fn start(&self, _: &Placement, _: &ReadySet) -> Result<Box<dyn PickerBuilder>, StartError> {
        Ok(Box::new(self.clone()))
    }
}

impl PickerBuilder for Refusing {
    fn build(&mut self, _ready: &ReadySet) -> Arc<dyn Picker> {
        Arc::new(Fixed::Fail(Status::unavailable(self.0.clone())))
    }
}
