//! One policy of a directory, as channels and operators see it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::quarantine::Quarantine;
use super::rollout::{Rollout, RolloutStatus};
use super::settings::Settings;
use super::update::PolicyUpdate;
use crate::lifecycle::{Policy, PolicyVersion};
use crate::policy::{PolicyError, PolicyMetrics, Split, WasmPolicy};

/// A directory at one moment.
#[derive(Clone, Default)]
pub(super) struct DirectoryState {
    /// Whether the directory has been read once.
    pub(super) complete: bool,
    pub(super) policies: BTreeMap<String, Entry>,
    /// Settings files that belong to no policy, each with an explanation.
    pub(super) strays: BTreeMap<String, String>,
}

/// One policy of a directory.
#[derive(Clone)]
pub(super) struct Entry {
    /// The active version.
    pub(super) policy: Option<WasmPolicy>,
    /// The settings that the active version was loaded with.
    pub(super) settings: Settings,
    /// Whether the policy is enabled. `false`: the settings in the directory say `enabled = false`.
    pub(super) enabled: bool,
    pub(super) rejected: Option<PolicyError>,
    pub(super) quarantined: Option<Quarantine>,
    /// Whether a version is being compiled.
    pub(super) loading: bool,
    /// Digest of the version for a rollback.
    pub(super) last_good: Option<String>,
    /// Whether the file exists.
    pub(super) present: bool,
    pub(super) metrics: Arc<PolicyMetrics>,
    /// A new version beside the active one.
    pub(super) rollout: Option<Rollout>,
    /// The last rollout, at its end.
    pub(super) last_rollout: Option<RolloutStatus>,
    /// Incremented at each change of this entry.
    pub(super) revision: u64,
}

impl Entry {
    pub(super) fn new(metrics: Arc<PolicyMetrics>) -> Self {
        Self {
            policy: None,
            settings: Settings::default(),
            enabled: true,
            rejected: None,
            quarantined: None,
            loading: false,
            last_good: None,
            present: false,
            metrics,
            rollout: None,
            last_rollout: None,
            revision: 0,
        }
    }

    /// Returns the digest of the active version.
    pub(super) fn active_digest(&self) -> Option<String> {
        self.policy.as_ref().map(|policy| policy.version().digest)
    }

    /// Returns what channels use: the active version, alone or with a new one beside it.
    fn used(&self, active: &WasmPolicy) -> Arc<dyn Policy> {
        match &self.rollout {
            Some(rollout) => Arc::new(rollout.split.clone()),
            None => Arc::new(active.clone()),
        }
    }

    /// Returns the change for a watcher that last received the version `given`. The active version takes precedence
    /// over a bad file.
    pub(super) fn update(&self, given: &mut PolicyVersion) -> Option<PolicyUpdate> {
        if !self.enabled {
            // When it is enabled again, the same version is a change.
            *given = PolicyVersion::default();
            return Some(PolicyUpdate::Disabled);
        }
        Some(match (&self.policy, &self.rejected) {
            (Some(policy), rejected)
                // Two versions are replaced by one even if the file is gone.
                if (self.present || Split::is_version(given))
                    && (rejected.is_none() || self.used(policy).version() != *given) =>
            {
                let used = self.used(policy);
                *given = used.version();
                PolicyUpdate::Loaded(used)
            }
            // The result is not known yet.
            (None, None) if self.loading => return None,
            (None, _) if self.quarantined.is_some() => {
                *given = PolicyVersion::default();
                PolicyUpdate::Quarantined(self.quarantined.clone()?)
            }
            (_, Some(error)) => PolicyUpdate::Rejected(error.clone()),
            (Some(_), None) => PolicyUpdate::Removed,
            (None, None) => PolicyUpdate::Unknown,
        })
    }
}
