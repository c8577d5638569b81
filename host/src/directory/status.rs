//! The status of a directory's policies.

use std::collections::BTreeMap;
use std::fmt;

use super::entry::Entry;
use super::quarantine::Quarantine;
use super::rollout::{Rollout, RolloutStatus};
use crate::lifecycle::{Policy as _, PolicyVersion, Stage};
use crate::policy::{ChannelUsage, FaultKind, Metric, MetricsSnapshot, PolicyError, PolicyTotals, Refusal};

/// One policy of a directory, over all channels that use it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PolicyStatus {
    /// The policy's name.
    pub name: String,
    /// Summary of the fields below.
    pub state: PolicyState,
    /// The active version, if there is one.
    pub version: Option<PolicyVersion>,
    /// Whether the policy is enabled. `false`: its settings say `enabled = false`.
    pub enabled: bool,
    /// Whether the file exists. If it does not, channels that use the policy continue with the active version.
    pub present: bool,
    /// Reason why the present file was rejected. `None`: it was not rejected.
    pub rejected: Option<PolicyError>,
    /// The version that failed too often. The version is not used until its file or its settings change.
    pub quarantined: Option<Quarantine>,
    /// Digest of the last version that passed its probation: the active version, or the one for a rollback.
    pub last_good: Option<String>,
    /// Totals since the process started.
    pub totals: PolicyTotals,
    /// Faults since the process started, by kind.
    pub faults: BTreeMap<FaultKind, u64>,
    /// Description of the last fault.
    pub last_fault: Option<String>,
    /// Number of activations of a version.
    pub loads: u64,
    /// Number of rejections of a version, by stage.
    pub rejections: BTreeMap<Stage, u64>,
    /// The channels that use the policy.
    pub channels: Vec<ChannelUsage>,
    /// The channels that did not take the active version, by target.
    pub refusals: BTreeMap<String, Refusal>,
    /// The policy's own metrics.
    pub metrics: Vec<Metric>,
    /// The new version that is tried beside the active one.
    pub rollout: Option<RolloutStatus>,
    /// The last rollout that ended, as it was then.
    pub last_rollout: Option<RolloutStatus>,
}

/// State of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PolicyState {
    /// A version is being compiled; the active version stays.
    Loading,
    /// Active and on probation.
    Probation,
    /// Active, after its probation.
    Active,
    /// A new version is tried beside the active one.
    Rollout,
    /// The file is bad; the active version stays.
    Rejected,
    /// The version of the file failed too often. The previous version is active, if there is one.
    Quarantined,
    /// Disabled by its settings.
    Disabled,
    /// Its file is gone. Channels that use the policy continue to use it.
    Removed,
}

/// Prints in lower case.
impl fmt::Display for PolicyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loading => "loading",
            Self::Probation => "probation",
            Self::Active => "active",
            Self::Rollout => "rollout",
            Self::Rejected => "rejected",
            Self::Quarantined => "quarantined",
            Self::Disabled => "disabled",
            Self::Removed => "removed",
        })
    }
}

impl PolicyStatus {
    pub(super) fn of(name: &str, entry: &Entry) -> Self {
        let MetricsSnapshot {
            totals,
            faults,
            last_fault,
            channels,
            refusals,
            metrics,
            loads,
            rejections,
            on_probation,
        } = entry.metrics.snapshot();
        let version = entry.policy.as_ref().map(|policy| policy.version());
        let state = match () {
            () if !entry.enabled => PolicyState::Disabled,
            () if entry.rejected.is_some() || (channels.is_empty() && !refusals.is_empty()) => {
                PolicyState::Rejected
            }
            () if entry.loading => PolicyState::Loading,
            () if entry.rollout.is_some() => PolicyState::Rollout,
            () if entry.quarantined.is_some() => PolicyState::Quarantined,
            () if !entry.present || version.is_none() => PolicyState::Removed,
            () if on_probation => PolicyState::Probation,
            () => PolicyState::Active,
        };
        let last_good = match &version {
            Some(version) if !on_probation => Some(version.digest.clone()),
            _ => entry.last_good.clone(),
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
            channels,
            refusals,
            metrics,
            rollout: entry.rollout.as_ref().map(Rollout::status),
            last_rollout: entry.last_rollout.clone(),
        }
    }
}
