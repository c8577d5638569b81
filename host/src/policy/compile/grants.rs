//! Permissions that an operator grants to a policy.

use std::collections::BTreeSet;

use super::contract::{CAPABILITIES, WASI};
use super::error::PolicyError;

/// Capabilities and metadata keys that a policy may use. By default these are all in the contract: none of them reaches
/// the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Grants {
    /// Capabilities that the policy may import, by their short names (`stats`), and `wasi`. `None`: all.
    pub capabilities: Option<BTreeSet<String>>,
    /// Metadata keys that the policy may read. `None`: all.
    pub metadata: Option<BTreeSet<String>>,
    /// Metadata keys that the policy may add to requests. `None`: all except those that gRPC reserves.
    pub set_metadata: Option<BTreeSet<String>>,
}

impl Grants {
    /// Rejects names that are not capabilities, so that a misspelled one is reported to the operator.
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

    /// Rejects a policy that imports a capability which is not granted.
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
