//! What is to be told of the policies of a directory.

use std::collections::BTreeMap;
use std::fmt;

use super::Entry;
use crate::picker::{Policy as _, PolicyVersion, Stage};
use crate::policy::{FaultKind, Metric, OnFault, PolicyError, Reading, Refusal, Totals, Use};

/// One policy of a directory, over all channels that use it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PolicyStatus {
    /// The policy's name.
    pub name: String,
    /// How it is, in a word.
    pub state: PolicyState,
    /// The version in force, if there is one.
    pub version: Option<PolicyVersion>,
    /// Its settings do not say `enabled = false`.
    pub enabled: bool,
    /// The file is there. If it is not, channels that used it go on with the version in force.
    pub present: bool,
    /// Why the file that lies there now is not in force.
    pub rejected: Option<PolicyError>,
    /// The version that failed too often, and is not used until its file or its settings change.
    pub quarantined: Option<Quarantine>,
    /// The digest of the last version that has done well: the one in force, if it is not on probation, or
    /// the one to go back to.
    pub last_good: Option<String>,
    /// Numbers since the process began.
    pub totals: Totals,
    /// Faults since the process began.
    pub faults: BTreeMap<FaultKind, u64>,
    /// What the last fault was.
    pub last_fault: Option<String>,
    /// How often a version came into force.
    pub loads: u64,
    /// How often one was refused, by the stage at which it was.
    pub rejections: BTreeMap<Stage, u64>,
    /// The channels that use it.
    pub uses: Vec<Use>,
    /// The channels that did not take the version in force, by target.
    pub refusals: BTreeMap<String, Refusal>,
    /// What the policy measures itself.
    pub metrics: Vec<Metric>,
}

/// How a policy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PolicyState {
    /// It is being compiled; what was in force is in force.
    Loading,
    /// In force, and new.
    Probation,
    /// In force.
    Active,
    /// The file that lies there is bad; what was in force is in force.
    Rejected,
    /// The version of the file failed too often; what was in force before it is in force again.
    Quarantined,
    /// Its settings say so.
    Disabled,
    /// Its file is gone; where it is used it stays in force.
    Withdrawn,
}

/// In lower case.
impl fmt::Display for PolicyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loading => "loading",
            Self::Probation => "probation",
            Self::Active => "active",
            Self::Rejected => "rejected",
            Self::Quarantined => "quarantined",
            Self::Disabled => "disabled",
            Self::Withdrawn => "withdrawn",
        })
    }
}

/// A version that failed too often.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quarantine {
    /// The version.
    pub version: PolicyVersion,
    /// What it did.
    pub reason: String,
    /// What is to become of RPCs, if there is no version to go back to.
    pub on_fault: OnFault,
}

impl PolicyStatus {
    pub(super) fn of(name: &str, entry: &Entry) -> Self {
        let Reading { totals, faults, last_fault, uses, refusals, metrics, loads, rejections, on_probation } =
            entry.record.read();
        let version = entry.policy.as_ref().map(|policy| policy.version());
        let state = match () {
            () if !entry.enabled => PolicyState::Disabled,
            () if entry.rejected.is_some() || (uses.is_empty() && !refusals.is_empty()) => {
                PolicyState::Rejected
            }
            () if entry.loading => PolicyState::Loading,
            () if entry.quarantined.is_some() => PolicyState::Quarantined,
            () if !entry.present || version.is_none() => PolicyState::Withdrawn,
            () if on_probation => PolicyState::Probation,
            () => PolicyState::Active,
        };
        let last_good = match &version {
            Some(version) if !on_probation => Some(version.digest.clone()),
            _ => entry.previous.clone(),
        };
        Self {
            name: name.to_owned(),
            state,
            version,
            enabled: entry.enabled,
            present: entry.present,
            rejected: entry.rejected.clone(),
            quarantined: entry.quarantined.clone(),
            last_good,
            totals,
            faults,
            last_fault,
            loads,
            rejections,
            uses,
            refusals,
            metrics,
        }
    }
}
