//! A policy, a policy in one channel, and the version that identifies it.

use std::fmt;
use std::sync::Arc;

use super::placement::{Handover, Placement};
use super::start_error::StartError;
use crate::picker::Picker;
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

/// Name and version of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PolicyVersion {
    /// The policy's name.
    pub name: String,
    /// Incremented at each change of the policy's code; 0 for a built-in policy.
    pub generation: u64,
    /// SHA-256 of the code, in hexadecimal; empty for a built-in policy.
    pub digest: String,
}

impl PolicyVersion {
    /// Creates a version of its parts.
    #[must_use]
    pub fn new(name: impl Into<String>, generation: u64, digest: impl Into<String>) -> Self {
        Self { name: name.into(), generation, digest: digest.into() }
    }
}

/// Prints as `color #3 a1b2c3d4e5f6`.
impl fmt::Display for PolicyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match self.digest.get(..12) {
            Some(digest) => write!(f, " #{} {digest}", self.generation),
            None => f.write_str(" (built in)"),
        }
    }
}

/// Returns whether a policy can have this name: `[a-z0-9][a-z0-9_-]{0,62}`.
#[must_use]
pub fn is_policy_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=63).contains(&name.len())
        && name.starts_with(plain)
        && name.chars().all(|c| plain(c) || c == '_' || c == '-')
}
