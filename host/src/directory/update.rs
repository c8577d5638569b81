//! Updates that channels receive about one policy of a directory.

use std::sync::Arc;

use super::quarantine::Quarantine;
use crate::lifecycle::{Candidate, Policy, Refusing};
use crate::policy::{OnFault, PolicyError};

/// A change of one policy. The first update comes when the directory has been read once.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PolicyUpdate {
    /// Use this version from now on.
    Loaded(Arc<dyn Policy>),
    /// The file is bad. The active version stays.
    Rejected(PolicyError),
    /// The file is gone. The active version stays: removal is not disabling.
    Removed,
    /// The settings say `enabled = false`: do not use the policy any more.
    Disabled,
    /// The policy failed too often, and there is no previous version: do not use it any more.
    Quarantined(Quarantine),
    /// There is no such file.
    Unknown,
}

impl From<PolicyUpdate> for Candidate {
    fn from(update: PolicyUpdate) -> Self {
        match update {
            PolicyUpdate::Loaded(policy) => Self::Use(policy),
            // The directory has logged why.
            PolicyUpdate::Rejected(_) | PolicyUpdate::Removed => Self::Unavailable,
            PolicyUpdate::Unknown => Self::Unknown,
            PolicyUpdate::Disabled => Self::Disabled,
            PolicyUpdate::Quarantined(quarantine) => match quarantine.on_fault {
                OnFault::RoundRobin => Self::Disabled,
                OnFault::Fail => Self::Use(Arc::new(Refusing::new(format!(
                    "policy {} is quarantined, and its settings say on-fault = \"fail\": {}",
                    quarantine.version, quarantine.reason
                )))),
            },
        }
    }
}
