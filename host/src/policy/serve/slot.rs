//! A slot for one policy instance of a channel.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, TryLockError, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::HeaderName;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::machine::SlotMachine;
use super::outcomes::OutcomeQueue;
use super::plans::Plans;
use super::preflight::preflight;
use super::recording::{Recording, recorder};
use crate::lifecycle::{Handover, Placement, SavedState, Shard};
use crate::picker::{Faults, Pick, PickInfo, PickResult, PickedBy, Rotation};
use crate::policy::instance::{
    Fault, Instance, InstanceError, Order, Plan, Program, Role, affinity, outcome,
};
use crate::policy::judge::{FaultKind, SlotCounters};
use crate::policy::spec::OnFault;
use crate::subconn::{DoneInfo, OutcomeSink, PickId, ReadySet};
use crate::supervision::guarded;

/// A slot for one policy instance of a channel. It outlives its instances.
pub(super) struct Slot {
    pub(super) program: Program,
    pub(super) placement: Placement,
    /// Whether the policy decides when to connect.
    pub(super) lazy: bool,
    pub(super) makes_plans: bool,
    pub(super) wants_outcomes: bool,
    affinity: Option<HeaderName>,
    /// Picks that the instance has made ahead. Changed under the lock, taken without.
    pub(super) plans: Plans,
    contents: Mutex<Contents>,
    /// The recording of the instance, if it is recorded.
    pub(super) recording: ArcSwapOption<Recording>,
    /// Whether there is one: cheaper to read.
    pub(super) is_recorded: AtomicBool,
    sink: Arc<Sink>,
    pub(super) outcomes: Mutex<OutcomeQueue>,
    pub(super) counters: Arc<SlotCounters>,
    fallback: Rotation,
    /// Whether RPCs have been queued since the last request to pick again.
    has_queued: AtomicBool,
    /// Wakes the supervisor.
    pub(super) wake: Arc<Notify>,
}

/// Reports the ends of RPCs to the slot. The reference is weak: a stream of a day must not keep a replaced policy
/// alive.
struct Sink(Weak<Slot>);

impl OutcomeSink for Sink {
    fn done(&self, pick: PickId, info: &DoneInfo<'_>) {
        if let Some(slot) = self.0.upgrade() {
            slot.report(pick.serial, outcome(pick, info));
        }
    }
}

impl Slot {
    /// Returns the slot, for those who must not keep it alive.
    pub(super) fn weak(&self) -> Weak<Self> {
        Weak::clone(&self.sink.0)
    }
}

/// The contents of a slot, held by one thread.
pub(super) type Held<'a> = MutexGuard<'a, Contents>;

/// The parts of a slot that its lock protects.
pub(super) struct Contents {
    pub(super) machine: SlotMachine<Box<Instance>>,
    /// The latest snapshot, for this instance or the next one.
    pub(super) ready: ReadySet,
    faults: Faults,
    /// State that the policy saved last, and the time of the next save.
    pub(super) saved: Vec<SavedState>,
    pub(super) save_at: Option<Instant>,
    /// When the next instance is to be recorded, by the settings.
    pub(super) record_at: Option<Instant>,
    /// Instances that have ended. Freeing their memory takes longer than a pick.
    #[expect(clippy::vec_box, reason = "moved under the lock, as they are")]
    pub(super) ended: Vec<Box<Instance>>,
}

/// Interval at which a policy saves its state, for its successor after a fault.
pub(super) const SAVE_INTERVAL: Duration = Duration::from_secs(5);
/// Number of times that a thread looks whether the instance is free before it lets other tasks run. This takes about as
/// long as a few picks.
const LOOKS: u32 = 7;

impl Slot {
    /// Makes trial picks, then starts the number of instances that the settings require.
    pub(super) fn start_all(
        program: &Program,
        placement: &Placement,
        ready: &ReadySet,
    ) -> Result<Vec<Arc<Self>>, InstanceError> {
        let saved = placement.handover.as_ref().map(Handover::save).unwrap_or_default();
        drop(preflight(program, placement, ready, &saved)?);
        static CHANNELS: AtomicU64 = AtomicU64::new(1);
        let (count, channel) = (program.spec.shards, CHANNELS.fetch_add(1, Ordering::Relaxed));
        (0..count)
            .map(|number| {
                let shard = Shard { number, count, channel };
                Self::start(program, &Placement { shard, ..placement.clone() }, ready, saved.clone())
            })
            .collect()
    }

    fn start(
        program: &Program,
        placement: &Placement,
        ready: &ReadySet,
        saved: Vec<SavedState>,
    ) -> Result<Arc<Self>, InstanceError> {
        let resolve_now = placement.resolve_now.clone();
        let role = Role::Serving { resolve_now, recorder: recorder(program, placement, true) };
        let mut instance = Instance::new(program, placement, role, &saved)?;
        instance.notify(ready)?;
        let instance = instance.settled();
        let now = Instant::now();
        let (target, generation) = (&placement.target, program.spec.version.generation);
        let counters = program.metrics.slot_started(placement.shard.channel, target, generation);
        counters.memory(instance.memory());
        let slot = Arc::new_cyclic(|slot| Self {
            lazy: instance.state().lazy(),
            makes_plans: instance.makes_plans(),
            wants_outcomes: instance.wants_outcomes(),
            affinity: instance.state().affinity_key().map(|(key, _)| key.clone()),
            plans: Plans::new(Arc::clone(counters.tickets())),
            sink: Arc::new(Sink(Weak::clone(slot))),
            program: program.clone(),
            // The handover has happened.
            placement: Placement { handover: None, ..placement.clone() },
            outcomes: Mutex::default(),
            counters,
            fallback: Rotation::random(),
            has_queued: AtomicBool::new(false),
            wake: Arc::default(),
            recording: ArcSwapOption::empty(),
            is_recorded: AtomicBool::new(false),
            contents: Mutex::new(Contents {
                record_at: None,
                save_at: instance.can_save().then(|| now + SAVE_INTERVAL),
                machine: SlotMachine::new(Box::new(instance), now),
                ready: ready.clone(),
                faults: Faults::default(),
                saved,
                ended: Vec::new(),
            }),
        });
        program.metrics.recordings.add(&slot.wake);
        let mut contents = slot.lock();
        let serial = contents.machine.serial();
        if let Some(instance) = contents.machine.instance() {
            slot.installed(instance, serial);
        }
        drop(contents);
        Ok(slot)
    }

    pub(super) fn lock(&self) -> Held<'_> {
        // A panic inside would leave the instance as it was: wasmtime guards it.
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the contents unless another thread holds them.
    pub(super) fn try_hold(&self) -> Option<Held<'_>> {
        match self.contents.try_lock() {
            Ok(held) => Some(held),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Returns the contents unless another thread holds them for longer than a few picks take.
    ///
    /// Looks less and less often: each look takes the lock's cache line from the thread that holds it.
    pub(super) fn hold(&self) -> Option<Held<'_>> {
        for look in 1..LOOKS {
            if let Some(held) = self.try_hold() {
                return Some(held);
            }
            (0..1 << look.min(4)).for_each(|_| std::hint::spin_loop());
        }
        self.try_hold()
    }

    /// Returns whether a planned pick is only the subconn: the policy is not told how the RPC ends, does not decide when to
    /// connect, and is not recorded.
    #[inline]
    pub(super) fn has_plain_picks(&self) -> bool {
        !self.lazy && !self.wants_outcomes && !self.is_recorded.load(Ordering::Relaxed)
    }

    /// Returns the receiver of the ends of RPCs.
    pub(super) fn sink(&self) -> Arc<dyn OutcomeSink> {
        Arc::<Sink>::clone(&self.sink)
    }

    /// Returns the hash of an RPC's affinity key, if the plan goes by it.
    pub(super) fn affinity_in(&self, plan: &Plan, info: &PickInfo<'_>) -> Option<u64> {
        let key = self.affinity.as_ref().filter(|_| plan.order == Order::ByAffinity)?;
        #[cfg(feature = "testing")]
        if let Some((past, hash)) = info.past.and_then(|past| past.affinity)
            && past == key.as_str()
        {
            return Some(hash);
        }
        affinity(info.metadata, key)
    }

    /// Notifies the instance of a new snapshot, or the next instance if there is none.
    pub(super) fn notify(&self, ready: &ReadySet) {
        // The longest that anyone holds the lock is the time limit of a call.
        let mut contents = self.lock();
        let is_known = contents.ready.is(ready) && self.plans.current().is_some();
        contents.ready = ready.clone();
        if let Some(instance) = contents.machine.instance() {
            instance.activate(self.placement.standing);
            let notified = call(|| instance.notify(ready));
            self.after_call(&mut contents, notified);
            if contents.machine.instance().is_some_and(|instance| instance.next_timer().is_some()) {
                self.wake.notify_one();
            }
            if !is_known {
                self.replan(&mut contents);
            }
        }
    }

    /// Handles the result of a call: records memory, or ends the instance.
    pub(super) fn after_call(&self, contents: &mut Contents, result: Result<(), Fault>) {
        match (result, contents.machine.instance()) {
            (Err(fault), _) => self.fail(contents, &fault),
            (Ok(()), Some(instance)) => {
                self.counters.memory(instance.memory());
                if instance.is_worn() {
                    self.wear_out(contents);
                }
            }
            (Ok(()), None) => {}
        }
    }

    /// Has an instance replaced that has used most of its memory, before it runs out.
    /// Returns whether it is.
    pub(super) fn wear_out(&self, contents: &mut Contents) -> bool {
        let is_worn = contents.machine.wear_out(Instant::now());
        if is_worn {
            self.wake.notify_one();
        }
        is_worn
    }

    /// Records that a pick or a plan has set a timer.
    pub(super) fn timer_set(&self) {
        self.wake.notify_one();
    }

    /// Records that an RPC is queued. It is picked again after the next notification of the policy, or when the slot
    /// has an instance again.
    pub(super) fn rpc_queued(&self) {
        self.has_queued.store(true, Ordering::Relaxed);
    }

    /// Requests another pick for queued RPCs.
    pub(super) fn pick_again(&self) {
        if self.has_queued.swap(false, Ordering::Relaxed) {
            self.placement.pick_again.request();
        }
    }

    /// Picks in place of the policy.
    pub(super) fn fall_back(&self, ready: &ReadySet) -> PickResult {
        self.counters.fallback();
        let picked = self.fallback_pick(ready);
        if !matches!(picked, PickResult::Pick(_)) {
            self.rpc_queued();
        }
        picked
    }

    /// Picks in place of the policy, on a thread with too little stack left to call it.
    #[cold]
    pub(super) fn fall_back_without_stack(&self, ready: &ReadySet) -> PickResult {
        static WARNED: Once = Once::new();
        WARNED.call_once(|| {
            let policy = &self.program.spec.version;
            tracing::warn!(
                %policy,
                "a thread that sends RPCs has less than 640 KiB of stack left, which a policy may need: \
                 the fallback picks for them. Give the runtime's threads more (thread_stack_size)"
            );
        });
        self.fall_back(ready)
    }

    fn fallback_pick(&self, ready: &ReadySet) -> PickResult {
        match self.program.spec.on_fault {
            OnFault::RoundRobin => {
                let next = self.fallback.next(ready);
                next.map_or(PickResult::Queue, |subconn| {
                    PickResult::Pick(Pick { by: PickedBy::Fallback, ..Pick::to(subconn) })
                })
            }
            OnFault::Fail => PickResult::Fail(tonic::Status::unavailable(format!(
                "policy {} failed, and its settings say on-fault = \"fail\"",
                self.program.spec.version
            ))),
        }
    }

    pub(super) fn faults(&self) -> Faults {
        let mut faults = self.lock().faults.clone();
        faults.fallback_picks = self.counters.fallback_picks();
        faults
    }

    /// Returns the current state of the policy, or else what it saved last.
    pub(super) fn save(&self) -> Vec<SavedState> {
        let mut contents = self.lock();
        self.save_now(&mut contents);
        contents.saved.clone()
    }

    pub(super) fn save_now(&self, contents: &mut Contents) {
        let Some(instance) = contents.machine.instance() else { return };
        match call(|| instance.save()) {
            Ok(Some(saved)) => contents.saved = vec![saved],
            Ok(None) => {}
            Err(fault) => self.fail(contents, &fault),
        }
    }

    /// Ends the instance for its fault, and has it replaced unless the policy has failed too often.
    pub(super) fn fail(&self, contents: &mut Contents, fault: &Fault) {
        let Some((mut instance, wait)) = contents.machine.fault(Instant::now()) else { return };
        instance.record_fault(&fault.to_string());
        contents.ended.push(instance);
        self.plans.set(None);
        match fault.kind() {
            Some(kind) => self.count_fault(contents, kind, fault.to_string(), wait),
            None => {
                let policy = &self.program.spec.version;
                tracing::error!(%policy, %fault, ?wait, "the fallback picks until the instance is replaced");
            }
        }
        self.wake.notify_one();
    }

    /// Counts a fault. After too many, the policy is not used any more.
    pub(super) fn count_fault(
        &self,
        contents: &mut Contents,
        kind: FaultKind,
        fault: String,
        wait: Duration,
    ) {
        let Program { spec, metrics, .. } = &self.program;
        let condemned = metrics.fault(spec.version.generation, kind, &fault, &spec.limits);
        let policy = &spec.version;
        // A pick runs in the spans of its RPC, and a filter for the channel must see its faults as well.
        let _channel =
            tracing::info_span!(parent: None, "channel", target = %self.placement.target).entered();
        let _policy = tracing::info_span!("policy", version = %policy).entered();
        if condemned {
            tracing::warn!(%policy, fault, "policy failed too often: it is not used any more");
            contents.machine.condemn();
        } else {
            tracing::warn!(%policy, fault, ?wait, "policy failed: the fallback picks until it is replaced");
        }
        contents.faults.count += 1;
        contents.faults.last = Some(fault);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // The supervisor finds that the slot is gone, and ends.
        self.wake.notify_one();
    }
}

/// Calls into an instance. A panic of the host is not the policy's fault, but ends the instance as well: wasmtime
/// panics on a thread that has no memory left for what it needs there.
pub(super) fn call<T>(call: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    guarded("a call into a policy", call).unwrap_or(Err(Fault::Host))
}
