//! Starts rollouts, carries out what they decide, and what operators do.

use std::time::SystemTime;

use tokio::time::Instant;

use super::catalog::Catalog;
use super::history::Earlier;
use super::quarantine::Quarantine;
use super::rollout::{Rollout, RolloutError};
use super::settings::Settings;
use crate::lifecycle::Policy as _;
use crate::policy::{Decision, RolloutCommand, RolloutMachine, RolloutSettings, Seen, Split, WasmPolicy};

impl Catalog {
    /// Tries a version beside the active one, in place of one that is being tried.
    pub(super) fn start_rollout(
        &mut self,
        name: &str,
        active: WasmPolicy,
        policy: WasmPolicy,
        settings: Settings,
        rollout: RolloutSettings,
    ) {
        self.drop_rollout(name, "a newer version is tried");
        let metrics = self.metrics(name);
        let most_faults = policy.most_faults();
        let policy = policy.with_generation(self.history.of(name).next_generation());
        let (version, mode) = (policy.version(), rollout.mode);
        metrics.rollout_ended();
        metrics.rollout_started(version.generation);
        let machine = RolloutMachine::new(rollout, most_faults, Instant::now());
        tracing::info!(policy = %version, %mode, share = machine.share(), beside = %active.version(), "rollout started");
        let split = Split::new(active, policy, mode);
        split.begin(machine.share());
        self.change(name, |entry| {
            entry.rollout = Some(Rollout { split, settings, machine, since: SystemTime::now() });
            entry.rejected = None;
            entry.quarantined = None;
            entry.loading = false;
        });
    }

    /// Ends a rollout for this reason: another version has been decided on.
    pub(super) fn drop_rollout(&mut self, name: &str, why: &str) {
        let Some(mut rollout) = self.entry(name).rollout.take() else { return };
        tracing::info!(policy = %rollout.split.candidate().version(), "rollout ended: {why}");
        rollout.machine.ended(why);
        self.metrics(name).rollout_ended();
        self.change(name, |entry| entry.last_rollout = Some(rollout.status()));
        rollout.split.end(false);
    }

    /// Goes on with a rollout whose active version was rolled back: beside the version before it, or at its end if there is
    /// none.
    pub(super) fn rebase_rollout(&mut self, name: &str) {
        let Some(rollout) = self.entry(name).rollout.clone() else { return };
        self.drop_rollout(name, "the active version was rolled back");
        let entry = self.entry(name);
        let (active, candidate) = (entry.policy.clone(), rollout.split.candidate().clone());
        let Rollout { settings, machine, .. } = rollout;
        match active {
            Some(active) => self.start_rollout(name, active, candidate, settings, machine.settings().clone()),
            None => {
                self.metrics(name).rollout_ended();
                self.activate(name, candidate, settings);
            }
        }
    }

    /// Decides what follows in all rollouts.
    pub(super) fn tend_rollouts(&mut self) {
        let now = Instant::now();
        let mut decided = Vec::new();
        for (name, entry) in &mut self.snapshot.policies {
            let Some(rollout) = &mut entry.rollout else { continue };
            let (faults, last_fault, refusal) = entry.metrics.rollout_faults();
            let refusal = refusal.map(|refusal| refusal.to_string());
            let seen = Seen { reading: rollout.split.read(), faults, last_fault, refusal };
            if let Some(decision) = rollout.machine.tend(now, &seen) {
                decided.push((name.clone(), decision));
            }
        }
        for (name, decision) in decided {
            self.carry_out(&name, decision);
        }
    }

    /// Returns when the next interval of a rollout is over.
    pub(super) fn rollout_due(&self) -> Option<Instant> {
        let rollouts = self.snapshot.policies.values().filter_map(|entry| entry.rollout.as_ref());
        rollouts.map(|rollout| rollout.machine.due()).min()
    }

    /// Carries out a command of an operator.
    pub(super) fn steer(&mut self, name: &str, command: RolloutCommand) -> Result<(), RolloutError> {
        let rollout = self.snapshot.policies.get_mut(name).and_then(|entry| entry.rollout.as_mut());
        let rollout = rollout.ok_or_else(|| RolloutError::None(name.to_owned()))?;
        let decision = rollout.machine.command(command).map_err(RolloutError::Refused)?;
        tracing::info!(policy = %rollout.split.candidate().version(), ?command, "rollout steered");
        if let Some(decision) = decision {
            self.carry_out(name, decision);
        }
        Ok(())
    }

    fn carry_out(&mut self, name: &str, decision: Decision) {
        let Some(rollout) = &self.entry(name).rollout else { return };
        let version = rollout.split.candidate().version();
        let why = rollout.machine.events().back().map(|event| event.text.clone()).unwrap_or_default();
        match decision {
            Decision::Begin(share) => {
                rollout.split.begin(share);
                tracing::info!(policy = %version, share, "rollout: {why}");
            }
            Decision::Promote => {
                tracing::info!(policy = %version, "rollout: {why}");
                self.promote(name);
            }
            Decision::RollBack(reason) => {
                tracing::warn!(policy = %version, "rollout: {why}");
                self.metrics(name).rollout_ended();
                self.change(name, |entry| {
                    if let Some(rollout) = entry.rollout.take() {
                        let on_fault = rollout.split.candidate().on_fault();
                        entry.quarantined = Some(Quarantine { version, reason, on_fault });
                        entry.last_rollout = Some(rollout.status());
                        rollout.split.end(false);
                    }
                });
            }
        }
    }

    fn promote(&mut self, name: &str) {
        let metrics = self.metrics(name);
        let entry = self.entry(name);
        let Some(rollout) = entry.rollout.take() else { return };
        entry.last_rollout = Some(rollout.status());
        let before = entry.policy.clone().map(|policy| (policy, entry.settings.clone()));
        let Rollout { split, settings, .. } = rollout;
        split.end(true);
        let versions = self.history.of(name);
        if let Some((policy, settings)) = before.filter(|_| metrics.is_taken()) {
            versions.keep(Earlier { policy, settings, proven: metrics.is_proven() });
        }
        let generation = split.candidate().version().generation;
        metrics.rollout_ended();
        metrics.activated(generation, versions.can_go_back(), false);
        versions.made_of = Some((split.candidate().version().digest, settings.clone()));
        let last_good = versions.last_good();
        self.change(name, |entry| {
            entry.policy = Some(split.candidate().clone());
            entry.quarantined = None;
            entry.settings = settings;
            entry.last_good = last_good;
        });
    }
}
