//! Decides which version of each policy is active, without files or threads.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use super::entry::{DirectoryState, Entry};
use super::history::{Earlier, History};
use super::settings::Settings;
use crate::lifecycle::Policy as _;
use crate::policy::{PolicyError, PolicyMetrics, WasmPolicy};

/// The policies of a directory, and the versions of each.
pub(super) struct Catalog {
    pub(super) snapshot: DirectoryState,
    pub(super) history: History,
    /// Notified when a policy's metrics call for a judgement.
    dirty: SyncSender<()>,
}

/// What to do with a policy's files once they have been read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// Nothing: this is the active version.
    Active,
    /// Nothing: it is being compiled, or was quarantined, or refused by all channels.
    Known,
    /// Compile it, under this ticket.
    Compile(u64),
}

impl Catalog {
    /// Creates an empty catalog. `dirty` is notified when a policy's metrics call for a [judgement](Self::roll_back).
    pub(super) fn new(dirty: SyncSender<()>) -> Self {
        Self { snapshot: DirectoryState::default(), history: History::default(), dirty }
    }

    /// Returns the entry of this name, created if it is new.
    pub(super) fn entry(&mut self, name: &str) -> &mut Entry {
        let dirty = &self.dirty;
        self.snapshot.policies.entry(name.to_owned()).or_insert_with(|| {
            let dirty = dirty.clone();
            let metrics = PolicyMetrics::new(move || {
                let _ = dirty.try_send(());
            });
            Entry::new(Arc::new(metrics))
        })
    }

    /// Changes an entry, and makes the change visible to watchers.
    pub(super) fn change(&mut self, name: &str, change: impl FnOnce(&mut Entry)) {
        let entry = self.entry(name);
        change(entry);
        entry.revision += 1;
    }

    pub(super) fn metrics(&mut self, name: &str) -> Arc<PolicyMetrics> {
        Arc::clone(&self.entry(name).metrics)
    }

    /// Describes the version that channels continue to use.
    pub(super) fn active(&self, name: &str) -> String {
        let policy = self.snapshot.policies.get(name).and_then(|entry| entry.policy.as_ref());
        policy.map_or_else(|| "round robin".to_owned(), |policy| policy.version().to_string())
    }

    /// Decides what to do with a file of this digest and its settings.
    pub(super) fn offer(&mut self, name: &str, digest: String, settings: Settings) -> Offer {
        let entry = self.entry(name);
        if entry.active_digest().as_ref() == Some(&digest) && entry.settings.has_same_spec(&settings) {
            self.cancel_job(name);
            self.drop_rollout(name, "the file is that of the active version");
            self.change(name, |entry| {
                entry.present = true;
                entry.settings = settings;
                entry.rejected = None;
                entry.quarantined = None;
            });
            return Offer::Active;
        }
        if self.history.of(name).is_made_of(&digest, &settings) {
            self.change(name, |entry| {
                entry.present = true;
                let is_refusal = |error: &mut PolicyError| matches!(error, PolicyError::Refused(_));
                entry.rejected = entry.rejected.take_if(is_refusal);
            });
            return Offer::Known;
        }
        let ticket = self.history.start_job(name, digest, settings);
        self.change(name, |entry| {
            entry.present = true;
            entry.loading = true;
            entry.rejected = None;
        });
        Offer::Compile(ticket)
    }

    /// Makes a version the active one.
    pub(super) fn activate(&mut self, name: &str, policy: WasmPolicy, settings: Settings) {
        let ignored = policy.ignored_exports();
        if !ignored.is_empty() {
            tracing::info!(
                policy = name,
                exports = ignored.join(", "),
                "ignoring exports that are not in the contract"
            );
        }
        let active = self.entry(name).policy.clone();
        if let (Some(active), Some(rollout)) = (active, settings.rollout.clone()) {
            return self.start_rollout(name, active, policy, settings, rollout);
        }
        self.drop_rollout(name, "a version without [rollout] is active");
        let metrics = self.metrics(name);
        let entry = self.entry(name);
        let before = entry.policy.clone().map(|policy| (policy, entry.settings.clone()));
        let versions = self.history.of(name);
        // A version that no channel has used is not kept.
        if let Some((policy, settings)) = before.filter(|_| metrics.is_taken()) {
            versions.keep(Earlier { policy, settings, proven: metrics.is_proven() });
        }
        let policy = policy.with_generation(versions.next_generation());
        tracing::info!(policy = %policy.version(), "policy loaded");
        metrics.activated(versions.generation, versions.can_go_back(), false);
        let last_good = versions.last_good();
        self.change(name, |entry| {
            entry.policy = Some(policy);
            entry.settings = settings;
            entry.rejected = None;
            entry.quarantined = None;
            entry.loading = false;
            entry.last_good = last_good;
        });
    }

    /// Records that the files of a policy are bad. The active version stays.
    pub(super) fn reject(&mut self, name: &str, error: PolicyError) {
        self.cancel_job(name);
        self.drop_rollout(name, "its file was replaced by one that is rejected");
        if self.snapshot.policies.get(name).and_then(|entry| entry.rejected.as_ref()) == Some(&error) {
            return;
        }
        let (active, stage) = (self.active(name), error.stage());
        tracing::warn!(policy = name, %stage, %error, active, "policy rejected");
        self.metrics(name).rejected(stage);
        self.change(name, |entry| {
            entry.present = true;
            entry.rejected = Some(error);
        });
    }

    /// Cancels the compilation of this name. The active version counts as the last one compiled.
    fn cancel_job(&mut self, name: &str) {
        let Some(entry) = self.snapshot.policies.get_mut(name) else { return };
        entry.loading = false;
        let versions = self.history.of(name);
        versions.job = None;
        versions.made_of = entry.active_digest().map(|digest| (digest, entry.settings.clone()));
    }

    /// Enables a policy: its settings say `enabled = true`.
    pub(super) fn enable(&mut self, name: &str) {
        if !std::mem::replace(&mut self.entry(name).enabled, true) {
            tracing::info!(policy = name, "policy enabled");
            self.change(name, |entry| entry.present = true);
        }
    }

    /// Disables a policy: its settings say `enabled = false`, and no channel uses it from now on.
    pub(super) fn disable(&mut self, name: &str) {
        self.cancel_job(name);
        self.drop_rollout(name, "the policy is disabled");
        if std::mem::replace(&mut self.entry(name).enabled, false) {
            tracing::warn!(policy = name, "policy disabled by its settings");
        }
        self.change(name, |entry| entry.rejected = None);
    }

    /// Records that the policy's file is gone. Channels that use the policy continue to use it.
    pub(super) fn remove(&mut self, name: &str) {
        tracing::warn!(policy = name, active = self.active(name), "policy file is gone");
        self.drop_rollout(name, "its file is gone");
        self.cancel_job(name);
        self.change(name, |entry| {
            entry.present = false;
            entry.rejected = None;
            entry.quarantined = None;
        });
    }

    /// Forgets policies whose file is gone once no channel uses them, because the number of names is not limited.
    pub(super) fn forget_removed(&mut self) {
        let Self { snapshot, history, .. } = self;
        snapshot.policies.retain(|name, entry| {
            let keep = entry.present || !entry.enabled || entry.metrics.is_used();
            if !keep {
                history.forget(name);
            }
            keep
        });
    }

    /// Forgets all compilations after a panic, so that their files are compiled again.
    pub(super) fn recover(&mut self) {
        self.history.forget_jobs();
        for entry in self.snapshot.policies.values_mut() {
            entry.loading = false;
        }
    }
}
