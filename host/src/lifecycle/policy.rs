//! A policy, a policy in one channel, and the version that identifies it.

use std::fmt;
use std::sync::Arc;

use super::placement::{Handover, Placement};
use super::start_error::StartError;
use crate::picker::Picker;
use crate::policy_version::PolicyVersion;
use crate::subconn::ReadySet;

/// A load-balancing policy, shared by many channels.
pub trait Policy: Send + Sync + fmt::Debug {
    /// Returns which policy this is.
    fn version(&self) -> PolicyVersion;

    /// Starts the policy in one channel. Called within the channel's runtime, but not on one of its worker
    /// threads: it may block. An error leaves the channel with the policy that it has.
    ///
    /// `ready` is the channel's latest snapshot, which may be empty. A policy that cannot work with it should
    /// return an error here, while the previous policy still serves.
    fn start(&self, placement: &Placement, ready: &ReadySet) -> Result<Box<dyn PickerBuilder>, StartError>;
}

/// A policy in one channel. It lives until another policy has replaced it.
pub trait PickerBuilder: Send + fmt::Debug {
    /// Builds the picker for this snapshot. Called by the channel, in order, whenever an endpoint or
    /// the state of a subconn has changed. The picker is asked for RPCs if at least one subconn is ready, or
    /// the policy [is lazy](Self::is_lazy).
    fn build(&mut self, ready: &ReadySet) -> Arc<dyn Picker>;

    /// Returns whether the policy decides when to connect. The channel then connects nothing by itself, and
    /// asks the picker whatever the states of the subconns are.
    fn is_lazy(&self) -> bool {
        false
    }

    /// Returns access to the policy's state, for its successor.
    fn handover(&self) -> Option<Handover> {
        None
    }
}
