//! Rolls back versions that fail too often, or that no channel takes.

use std::time::Duration;

use super::catalog::Catalog;
use super::entry::Entry;
use super::history::Earlier;
use super::quarantine::Quarantine;
use crate::lifecycle::{Policy as _, StartError};
use crate::policy::PolicyError;

/// Time after the last refusal until a version that no channel has taken is rolled back.
pub(super) const ROLL_BACK_AFTER: Duration = Duration::from_millis(200);

impl Catalog {
    /// Rolls back the versions that have failed too often, and those that all channels have refused.
    pub(super) fn roll_back(&mut self) {
        let verdict = |(name, entry): (&String, &Entry)| {
            let policy = entry.policy.as_ref()?;
            let (version, on_fault) = (policy.version(), policy.on_fault());
            let reason = entry.metrics.verdict(version.generation)?;
            Some((name.clone(), Quarantine { version, reason, on_fault }))
        };
        let condemned: Vec<_> = self.snapshot.policies.iter().filter_map(verdict).collect();
        for (name, quarantine) in condemned {
            self.quarantine(&name, quarantine);
            self.rebase_rollout(&name);
        }
        let refused = |(name, entry): (&String, &Entry)| {
            entry.metrics.refused_by_all(ROLL_BACK_AFTER).map(|error| (name.clone(), error))
        };
        let refused: Vec<_> = self.snapshot.policies.iter().filter_map(refused).collect();
        for (name, error) in refused {
            self.roll_back_refused(&name, error);
            self.rebase_rollout(&name);
        }
    }

    /// Returns whether a version may soon be rolled back: a channel has refused it, and none has taken it.
    pub(super) fn awaits_judgement(&self) -> bool {
        let refused = |(name, entry): (&String, &Entry)| {
            let can_go_back = self.history.get(name).is_some_and(|versions| versions.can_go_back());
            can_go_back && entry.metrics.refused_by_all(Duration::ZERO).is_some()
        };
        self.snapshot.policies.iter().any(refused)
    }

    /// Rolls back a version that no channel has taken: new channels get the previous version, which all channels use.
    fn roll_back_refused(&mut self, name: &str, error: StartError) {
        let metrics = self.metrics(name);
        let versions = self.history.of(name);
        let Some(Earlier { policy, settings, proven }) = versions.take_earlier() else { return };
        let last_good = versions.last_good();
        tracing::warn!(policy = name, stage = %error.stage(), %error, back_to = %policy.version(), "no channel took it");
        metrics.activated(policy.version().generation, false, proven);
        self.change(name, |entry| {
            entry.policy = Some(policy);
            entry.settings = settings;
            entry.rejected = Some(PolicyError::Refused(error));
            entry.last_good = last_good;
        });
    }

    /// Quarantines the active version, which has failed too often. The previous version becomes active, if there is
    /// one.
    fn quarantine(&mut self, name: &str, quarantine: Quarantine) {
        let metrics = self.metrics(name);
        let versions = self.history.of(name);
        let earlier = versions.take_earlier().map(|earlier| {
            let generation = versions.next_generation();
            Earlier { policy: earlier.policy.with_generation(generation), ..earlier }
        });
        let last_good = versions.last_good();
        let (policy, reason) = (&quarantine.version, &quarantine.reason);
        match &earlier {
            Some(earlier) => {
                let back_to = earlier.policy.version();
                tracing::warn!(%policy, reason, %back_to, "policy quarantined: the version before it is active");
                metrics.activated(back_to.generation, false, earlier.proven);
            }
            None => {
                tracing::warn!(%policy, reason, "policy quarantined: there is no version to go back to");
            }
        }
        self.change(name, |entry| {
            entry.policy = None;
            if let Some(earlier) = earlier {
                entry.policy = Some(earlier.policy);
                entry.settings = earlier.settings;
            }
            entry.quarantined = Some(quarantine);
            entry.last_good = last_good;
        });
    }
}
