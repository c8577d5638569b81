//! What an operator lets a policy do.

use std::collections::BTreeSet;

use super::contract::{CAPABILITIES, WASI};
use super::error::PolicyError;

/// What a policy may ask of the host. By default everything that the contract has: none of it reaches the
/// machine, and a policy that routes needs no more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Grants {
    /// The capabilities that it may import, by their short names (`stats`), and `wasi`. None: all.
    pub capabilities: Option<BTreeSet<String>>,
    /// The metadata keys that it may read. None: all.
    pub metadata: Option<BTreeSet<String>>,
    /// The metadata keys that it may add to requests. None: all but gRPC's own.
    pub set_metadata: Option<BTreeSet<String>>,
}

impl Grants {
    /// Refuses names that are no capability: an operator who misspells one must hear of it.
    pub(crate) fn check(&self) -> Result<(), String> {
        let known = |name: &&String| !CAPABILITIES.contains(&name.as_str()) && name.as_str() != WASI;
        match self.capabilities.iter().flatten().find(known) {
            None => Ok(()),
            Some(unknown) => Err(format!(
                "{unknown:?} is not a capability: there are {} and {WASI}",
                CAPABILITIES.join(", ")
            )),
        }
    }

    /// Refuses a policy that imports more than this.
    pub(crate) fn allow<'a>(&self, imports: impl IntoIterator<Item = &'a String>) -> Result<(), PolicyError> {
        let Some(granted) = &self.capabilities else { return Ok(()) };
        match imports.into_iter().find(|name| !granted.contains(name.as_str())) {
            None => Ok(()),
            Some(name) => Err(PolicyError::NotGranted(name.clone())),
        }
    }

    pub(crate) fn may_read(&self, key: &str) -> bool {
        self.metadata.as_ref().is_none_or(|granted| granted.contains(key))
    }

    pub(crate) fn may_set(&self, key: &str) -> bool {
        self.set_metadata.as_ref().is_none_or(|granted| granted.contains(key))
    }
}
