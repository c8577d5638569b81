//! The task beside each slot: replaces instances, delivers outcomes and timers, saves the policy's state.

use std::sync::{Arc, PoisonError, Weak};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tracing::Instrument as _;

use super::machine::{LONGEST_WAIT, Replacement, StartFailed};
use super::recording::recorder;
use super::slot::{Held, SAVE_INTERVAL, Slot, call};
use crate::lifecycle::SavedState;
use crate::policy::compile::has_stack;
use crate::policy::instance::{Instance, InstanceError, Role};
use crate::policy::judge::FaultKind;
use crate::supervision::{self, guarded_task};
use crate::workers;

/// Starts the supervisor of a slot, which runs as long as the slot exists.
///
/// # Panics
///
/// Panics outside the context of a Tokio runtime.
pub(super) fn spawn(slot: &Arc<Slot>) {
    let span = tracing::info_span!("policy", version = %slot.program.spec.version);
    tokio::spawn(supervise(Arc::downgrade(slot), Arc::clone(&slot.wake)).instrument(span).in_current_span());
}

async fn supervise(slot: Weak<Slot>, wake: Arc<Notify>) {
    loop {
        let Some(strong) = slot.upgrade() else { return };
        // After a panic the instance catches up on unfinished work, or its faults end it.
        let tended = guarded_task("a policy's supervisor", strong.tend()).await;
        drop(strong);
        let next = tended.unwrap_or_else(|| Some(Instant::now() + supervision::AGAIN));
        match next {
            None => wake.notified().await,
            Some(at) => {
                tokio::select! {
                    () = wake.notified() => {}
                    () = sleep_until(at) => {}
                }
            }
        }
    }
}

impl Slot {
    /// Carries out what is due. Returns the time of the next work.
    async fn tend(self: &Arc<Self>) -> Option<Instant> {
        let ended = std::mem::take(&mut self.lock().ended);
        drop(ended);
        let due = self.lock().machine.due(Instant::now());
        if let Some(replacement) = due
            && self.placement.is_simulated
        {
            self.replace(replacement);
        } else if let Some(replacement) = due {
            let slot = Arc::clone(self);
            // `init` may take long, and compiled code needs a stack of its own size: not on a worker thread.
            if let Err(lost) = workers::run(move || slot.replace(replacement)).await {
                let policy = &self.program.spec.version;
                tracing::error!(%policy, %lost, "instance could not be replaced: retried after {LONGEST_WAIT:?}");
                self.lock().machine.start_interrupted(Instant::now());
            }
        }
        if has_stack() {
            return self.deliver();
        }
        let slot = Arc::clone(self);
        let delivered = workers::run(move || slot.deliver()).await;
        delivered.unwrap_or_else(|_| Some(Instant::now() + LONGEST_WAIT))
    }

    /// Delivers outcomes and timers, and saves, as far as these are due. Takes microseconds, and
    /// at most the time limit of a call.
    fn deliver(&self) -> Option<Instant> {
        let mut contents = self.lock();
        let recorded = self.tend_recording(&mut contents);
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        let batch = outcomes.take_due(contents.machine.serial());
        let outcomes_at = outcomes.due_at();
        drop(outcomes);
        if let Some(instance) = contents.machine.instance()
            && !batch.is_empty()
        {
            let done = call(|| instance.done(&batch));
            self.after_call(&mut contents, done);
            self.pick_again();
        }
        if let Some(instance) = contents.machine.instance()
            && instance.next_timer().is_some_and(|at| at <= Instant::now())
        {
            let fired = call(|| instance.fire());
            self.after_call(&mut contents, fired);
            self.replan(&mut contents);
            self.pick_again();
        }
        if contents.save_at.is_some_and(|at| at <= Instant::now()) {
            self.save_now(&mut contents);
            contents.save_at = Some(Instant::now() + SAVE_INTERVAL);
        }
        let timer = contents.machine.instance().and_then(|instance| instance.next_timer());
        let save = contents.save_at.filter(|_| contents.machine.has_instance());
        [outcomes_at, timer, save, recorded, contents.machine.retry_at()].into_iter().flatten().min()
    }

    /// Replaces the instance. A worn one hands over its current state.
    fn replace(&self, replacement: Replacement) {
        let is_renewal = replacement == Replacement::OfWorn;
        let saved = if is_renewal { self.save() } else { self.lock().saved.clone() };
        match self.start_another(&saved, replacement) {
            Ok(None) => {}
            Ok(Some(mut contents)) => {
                self.replan(&mut contents);
                let ended = std::mem::take(&mut contents.ended);
                drop(contents);
                drop(ended);
                self.pick_again();
                if is_renewal {
                    self.counters.renewed();
                    let policy = &self.program.spec.version;
                    tracing::debug!(%policy, "instance replaced: it had used most of its memory");
                }
            }
            Err(error) => self.start_failed(&error),
        }
    }

    /// Starts an instance, and installs it once it knows the latest snapshot. RPCs go on meanwhile: only the
    /// last comparison is made under the lock. `None`: the replacement is not wanted any more.
    fn start_another(
        &self,
        saved: &[SavedState],
        replacement: Replacement,
    ) -> Result<Option<Held<'_>>, InstanceError> {
        let may_sample = self.lock().record_at.is_none_or(|at| at <= Instant::now());
        let resolve_now = self.placement.resolve_now.clone();
        let recorder = recorder(&self.program, &self.placement, may_sample);
        let role = Role::Serving { resolve_now, recorder };
        let mut instance = Instance::new(&self.program, &self.placement, role, saved)?;
        instance.activate(self.placement.standing);
        loop {
            let ready = self.lock().ready.clone();
            instance.notify(&ready)?;
            let mut contents = self.lock();
            if !contents.machine.wants(replacement) {
                return Ok(None);
            }
            if contents.ready.is(&ready) {
                self.counters.memory(instance.memory());
                let previous = contents.machine.install(Box::new(instance.settled()), Instant::now());
                let serial = contents.machine.serial();
                if let Some(instance) = contents.machine.instance() {
                    self.installed(instance, serial);
                }
                contents.ended.extend(previous);
                return Ok(Some(contents));
            }
        }
    }

    fn start_failed(&self, error: &InstanceError) {
        let mut contents = self.lock();
        let StartFailed::Retry(wait) = contents.machine.start_failed(Instant::now()) else { return };
        if error.is_transient() {
            let policy = &self.program.spec.version;
            tracing::warn!(%policy, %error, ?wait, "the fallback picks until the instance is replaced");
        } else {
            self.count_fault(&mut contents, FaultKind::Start, error.to_string(), wait);
        }
        self.wake.notify_one();
    }
}
