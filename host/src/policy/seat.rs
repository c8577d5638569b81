//! Where a channel's instance sits while it works, and while it is being replaced.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, TryLockError, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::HeaderName;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::WasmPolicy;
use super::bindings::exports::hotpick::policy::outcomes::Outcome;
use super::engine::has_stack;
use super::grants::OnFault;
use super::imports::affinity;
use super::instance::{Fault, InitError, Instance, Role};
use super::outcomes::{Outcomes, outcome};
use super::plan::{Order, Plan};
use super::preflight::preflight;
use super::record::{Counters, FaultKind};
use crate::picker::{Cursor, Faults, Handover, Pick, PickInfo, PickResult, Placement, Saved, Shard};
use crate::subconn::{DoneInfo, OutcomeSink, PickId, ReadySet};
use crate::supervision::{self, guarded, guarded_task};
use crate::workers;

/// One instance's place in a channel.
pub(super) struct Seat {
    pub(super) policy: WasmPolicy,
    placement: Placement,
    pub(super) lazy: bool,
    pub(super) makes_plans: bool,
    pub(super) wants_outcomes: bool,
    affinity: Option<HeaderName>,
    /// What the instance has picked ahead, if it has. Made and dropped under the lock, read without.
    pub(super) plan: ArcSwapOption<Plan>,
    occupant: Mutex<Occupant>,
    ear: Arc<Ear>,
    outcomes: Mutex<Outcomes>,
    pub(super) counters: Arc<Counters>,
    fallback: Cursor,
    /// RPCs have been held since they were last picked for again.
    holds: AtomicBool,
    /// Something has come up for the [keeper](keep).
    wake: Arc<Notify>,
}

/// Hears how RPCs end. The seat is held weakly: a stream of a day must not keep a policy that has been replaced.
struct Ear(Weak<Seat>);

impl OutcomeSink for Ear {
    fn done(&self, picked: PickId, end: &DoneInfo<'_>) {
        if let Some(seat) = self.0.upgrade() {
            seat.ended(picked.serial, outcome(picked, end));
        }
    }
}

/// The instance, in one thread's hands.
pub(super) type Held<'a> = MutexGuard<'a, Occupant>;

pub(super) struct Occupant {
    /// None while it is being replaced: the fallback picks.
    pub(super) instance: Option<Box<Instance>>,
    /// Of this instance among all that sat here.
    pub(super) serial: u64,
    /// What the instance, or the next one, has to know.
    pub(super) ready: ReadySet,
    /// When there is to be another instance.
    replace_at: Option<Instant>,
    /// The instance is to be replaced while it still works.
    pub(super) worn: bool,
    /// Not before this, as that has just failed.
    renew_after: Instant,
    seated: Instant,
    /// Faults in a row, each less than [`SETTLED`] after the one before.
    streak: u32,
    faults: Faults,
    /// What the policy last saved, and when it is to save again.
    saved: Vec<Saved>,
    save_at: Option<Instant>,
    /// Instances that have ended. To give their memory back takes longer than a pick.
    dead: Vec<Instance>,
}

/// An instance that worked this long without a fault is replaced at once if it has one.
const SETTLED: Duration = Duration::from_secs(10);
/// The wait before the second replacement in a row; each further one doubles it.
const FIRST_WAIT: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// At least so long between two replacements of instances that work.
const RENEWAL: Duration = Duration::from_millis(100);
/// How often a policy saves its state, for when it fails.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// How often a thread looks whether the instance is free, before it lets other tasks run. About as long
/// as a few picks take.
const SPINS: u32 = 64;

impl Seat {
    /// Tries the policy out, and seats as many instances of it as its settings want.
    pub(super) fn take_all(
        policy: &WasmPolicy,
        placement: &Placement,
        ready: &ReadySet,
    ) -> Result<Vec<Arc<Self>>, InitError> {
        let saved = placement.handover.as_ref().map(Handover::save).unwrap_or_default();
        drop(preflight(policy, placement, ready, &saved)?);
        static CHANNELS: AtomicU64 = AtomicU64::new(1);
        let (count, channel) = (policy.terms.shards, CHANNELS.fetch_add(1, Ordering::Relaxed));
        (0..count)
            .map(|number| {
                let shard = Shard { number, count, channel };
                Self::take(policy, &Placement { shard, ..placement.clone() }, ready, saved.clone())
            })
            .collect()
    }

    fn take(
        policy: &WasmPolicy,
        placement: &Placement,
        ready: &ReadySet,
        saved: Vec<Saved>,
    ) -> Result<Arc<Self>, InitError> {
        let role = Role::Serving(placement.resolve_now.clone());
        let mut instance = Instance::new(policy, placement, role, &saved)?;
        instance.tell(ready)?;
        let instance = instance.settled();
        let now = Instant::now();
        let version = &policy.terms.version;
        let counters =
            policy.terms.record.counters(placement.shard.channel, &placement.target, version.generation);
        counters.memory(instance.memory());
        let wake = Arc::new(Notify::new());
        let seat = Arc::new_cyclic(|seat| Self {
            lazy: instance.state().lazy,
            makes_plans: instance.makes_plans(),
            wants_outcomes: instance.wants_outcomes(),
            affinity: instance.state().affinity_key().map(|(key, _)| key.clone()),
            plan: ArcSwapOption::empty(),
            ear: Arc::new(Ear(Weak::clone(seat))),
            policy: policy.clone(),
            // What was handed over has been.
            placement: Placement { handover: None, ..placement.clone() },
            outcomes: Mutex::default(),
            counters,
            fallback: Cursor::random(),
            holds: AtomicBool::new(false),
            wake: Arc::clone(&wake),
            occupant: Mutex::new(Occupant {
                save_at: instance.can_save().then(|| now + SAVE_EVERY),
                instance: Some(Box::new(instance)),
                serial: 1,
                ready: ready.clone(),
                replace_at: None,
                worn: false,
                renew_after: now,
                seated: now,
                streak: 0,
                faults: Faults::default(),
                saved,
                dead: Vec::new(),
            }),
        });
        tokio::spawn(keep(Arc::downgrade(&seat), wake));
        Ok(seat)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Occupant> {
        // Were there a panic inside, the instance would be as good as before: it is wasmtime's to guard.
        self.occupant.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The instance, unless another thread holds it.
    pub(super) fn try_hold(&self) -> Option<Held<'_>> {
        match self.occupant.try_lock() {
            Ok(held) => Some(held),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The instance, unless another thread holds it for longer than a few picks take.
    pub(super) fn hold(&self) -> Option<Held<'_>> {
        for _ in 0..SPINS {
            if let Some(held) = self.try_hold() {
                return Some(held);
            }
            std::hint::spin_loop();
        }
        None
    }

    /// Who is told how an RPC ends.
    pub(super) fn ear(&self) -> Arc<dyn OutcomeSink> {
        Arc::<Ear>::clone(&self.ear)
    }

    /// The hash of an RPC's affinity key, if the plan goes by it.
    pub(super) fn affinity_in(&self, plan: &Plan, info: &PickInfo<'_>) -> Option<u64> {
        let key = self.affinity.as_ref().filter(|_| plan.order() == Order::ByAffinity)?;
        affinity(info.metadata, key)
    }

    /// The plan to pick by; when the one before is used up, its successor.
    pub(super) fn current_plan(&self, occupant: &mut Occupant) -> Option<Arc<Plan>> {
        let plan = self.plan.load_full()?;
        if !plan.is_spent() {
            return Some(plan);
        }
        match plan.successor() {
            Some(successor) => self.plan.store(Some(Arc::clone(successor))),
            None => self.plan_anew(occupant),
        }
        self.plan.load_full()
    }

    /// Has the successor of a plan made, while other threads pick by what is left of it.
    pub(super) fn plan_ahead(&self, plan: &Arc<Plan>) {
        let Some(mut occupant) = self.try_hold() else { return };
        let is_current = self.plan.load().as_ref().is_some_and(|current| Arc::ptr_eq(current, plan));
        // Without one it is asked again when the plan is used up.
        if is_current
            && plan.successor().is_none()
            && let Some(successor) = self.make_plan(&mut occupant)
        {
            plan.succeed(successor);
        }
    }

    /// The policy has been told something: what it planned before is void.
    fn plan_anew(&self, occupant: &mut Occupant) {
        if self.makes_plans && occupant.instance.is_some() {
            let plan = self.make_plan(occupant);
            self.plan.store(plan.map(Arc::new));
        }
    }

    fn make_plan(&self, occupant: &mut Occupant) -> Option<Plan> {
        let serial = occupant.serial;
        let instance = occupant.instance.as_mut()?;
        let (plan, result) = match called(|| instance.plan(serial)) {
            Ok(plan) => (plan, Ok(())),
            Err(fault) => (None, Err(fault)),
        };
        self.after_kept(occupant, result);
        if occupant.instance.as_mut().is_some_and(|instance| instance.has_new_timer()) {
            self.look_at_timers();
        }
        plan
    }

    /// Tells the instance of a new snapshot, or the next one if there is none.
    pub(super) fn tell(&self, ready: &ReadySet) {
        // The longest that anyone holds the lock is the time limit of a call.
        let mut occupant = self.lock();
        let is_told = occupant.ready.is(ready) && self.plan.load().is_some();
        occupant.ready = ready.clone();
        if let Some(instance) = &mut occupant.instance {
            instance.enter_into_force();
            let told = called(|| instance.tell(ready));
            self.after(&mut occupant, told);
            if !is_told {
                self.plan_anew(&mut occupant);
            }
        }
    }

    /// A call into the instance has returned, which may have set a timer.
    fn after(&self, occupant: &mut Occupant, result: Result<(), Fault>) {
        self.after_kept(occupant, result);
        if occupant.instance.as_ref().is_some_and(|instance| instance.next_timer().is_some()) {
            self.wake.notify_one();
        }
    }

    /// The instance has used most of its memory: it is to be replaced before it runs out.
    pub(super) fn wear_out(&self, occupant: &mut Occupant) {
        if !occupant.worn && Instant::now() >= occupant.renew_after {
            occupant.worn = true;
            self.wake.notify_one();
        }
    }

    /// A pick, or a plan, has set a timer.
    pub(super) fn look_at_timers(&self) {
        self.wake.notify_one();
    }

    /// An RPC is held: it is to be picked for again when the policy has learned something, or there is an
    /// instance again.
    pub(super) fn holds(&self) {
        self.holds.store(true, Ordering::Relaxed);
    }

    fn pick_again(&self) {
        if self.holds.swap(false, Ordering::Relaxed) {
            self.placement.pick_again.request();
        }
    }

    pub(super) fn fall_back(&self, ready: &ReadySet) -> PickResult {
        self.counters.fallback();
        let picked = self.fallback_pick(ready);
        if !matches!(picked, PickResult::Pick(_)) {
            self.holds();
        }
        picked
    }

    /// The thread that picks has too little stack left to call the policy on.
    #[cold]
    pub(super) fn without_stack(&self, ready: &ReadySet) -> PickResult {
        static TOLD: Once = Once::new();
        TOLD.call_once(|| {
            let policy = &self.policy.terms.version;
            tracing::warn!(
                %policy,
                "a thread that sends RPCs has less than 640 KiB of stack left, which a policy may need: \
                 the fallback picks for them. Give the runtime's threads more (thread_stack_size)"
            );
        });
        self.fall_back(ready)
    }

    fn fallback_pick(&self, ready: &ReadySet) -> PickResult {
        match self.policy.terms.on_fault {
            OnFault::RoundRobin => {
                let next = self.fallback.next(ready);
                next.map_or(PickResult::Queue, |subconn| PickResult::Pick(Pick::to(subconn)))
            }
            OnFault::Fail => PickResult::Fail(tonic::Status::unavailable(format!(
                "policy {} failed, and its settings say on-fault = \"fail\"",
                self.policy.terms.version
            ))),
        }
    }

    pub(super) fn faults(&self) -> Faults {
        let mut faults = self.lock().faults.clone();
        faults.fallback_picks = self.counters.fallback_picks();
        faults
    }

    /// The state of the policy at this moment, or else the last that it saved.
    pub(super) fn save(&self) -> Vec<Saved> {
        let mut occupant = self.lock();
        self.save_now(&mut occupant);
        occupant.saved.clone()
    }

    fn save_now(&self, occupant: &mut Occupant) {
        let Some(instance) = &mut occupant.instance else { return };
        match called(|| instance.save()) {
            Ok(Some(saved)) => occupant.saved = vec![saved],
            Ok(None) => {}
            Err(fault) => self.retire(occupant, &fault),
        }
    }

    /// Ends the instance for its fault, and has it replaced; unless the policy has had its day.
    pub(super) fn retire(&self, occupant: &mut Occupant, fault: &Fault) {
        occupant.dead.extend(occupant.instance.take().map(|instance| *instance));
        self.plan.store(None);
        occupant.worn = false;
        occupant.streak =
            if occupant.seated.elapsed() < SETTLED { occupant.streak.saturating_add(1) } else { 1 };
        if *fault == Fault::Host {
            // That is not the policy's doing.
            let (policy, wait) = (&self.policy.terms.version, wait(occupant.streak));
            tracing::error!(%policy, %fault, ?wait, "the fallback picks until the instance is replaced");
            occupant.replace_at = Some(Instant::now() + wait);
            self.wake.notify_one();
            return;
        }
        self.faulted(occupant, fault.kind(), fault.to_string(), wait(occupant.streak));
    }

    fn faulted(&self, occupant: &mut Occupant, kind: FaultKind, text: String, wait: Duration) {
        let terms = &self.policy.terms;
        let condemned = terms.record.fault(terms.version.generation, kind, &text, &terms.limits);
        let (policy, fault) = (&terms.version, &text);
        if condemned {
            tracing::warn!(%policy, fault, "policy failed too often: it is not used any more");
        } else {
            tracing::warn!(%policy, fault, ?wait, "policy failed: the fallback picks until it is replaced");
        }
        occupant.replace_at = (!condemned).then(|| Instant::now() + wait);
        occupant.faults.count += 1;
        occupant.faults.last = Some(text);
        self.wake.notify_one();
    }

    /// An RPC that an instance has picked for has ended.
    pub(super) fn ended(&self, serial: u64, outcome: Outcome) {
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        if outcomes.push(serial, outcome) {
            self.wake.notify_one();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // The keeper finds that there is nothing left to keep.
        self.wake.notify_one();
    }
}

/// A call into an instance. That the host panics there is no fault of the policy, but the instance is not to be used any
/// more: wasmtime panics on a thread that has no memory left for what it needs there.
pub(super) fn called<T>(call: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    guarded("a call into a policy", call).unwrap_or(Err(Fault::Host))
}

/// How long to wait before the replacement after this many faults in a row.
fn wait(streak: u32) -> Duration {
    match streak.checked_sub(2) {
        None => Duration::ZERO,
        Some(doublings) => FIRST_WAIT.saturating_mul(1 << doublings.min(16)).min(LONGEST_WAIT),
    }
}

/// Does what has to be done beside the picks, for as long as the seat is used.
async fn keep(seat: Weak<Seat>, wake: Arc<Notify>) {
    loop {
        let Some(strong) = seat.upgrade() else { return };
        // What it left halfway the instance makes up for, or its faults end it.
        let tended = guarded_task("a policy's keeper", strong.tend()).await;
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

impl Seat {
    /// Does what is due. Gives when there will be more to do.
    async fn tend(self: &Arc<Self>) -> Option<Instant> {
        let dead = std::mem::take(&mut self.lock().dead);
        drop(dead);
        let now = Instant::now();
        let (due, worn) = {
            let occupant = self.lock();
            (occupant.replace_at.is_some_and(|at| at <= now), occupant.worn)
        };
        if due || worn {
            let seat = Arc::clone(self);
            // `init` may take long, and compiled code needs a stack of its own size: off the workers.
            if let Err(lost) = workers::run(move || seat.reseat(worn && !due)).await {
                let mut occupant = self.lock();
                let policy = &self.policy.terms.version;
                tracing::error!(%policy, %lost, "its instance could not be replaced: tried again after {LONGEST_WAIT:?}");
                // Not the policy's doing, and not to be tried in a circle.
                occupant.worn = false;
                occupant.renew_after = Instant::now() + LONGEST_WAIT;
                if occupant.instance.is_none() {
                    occupant.replace_at = Some(occupant.renew_after);
                }
            }
        }
        if has_stack() {
            return self.deliver();
        }
        let seat = Arc::clone(self);
        let delivered = workers::run(move || seat.deliver()).await;
        delivered.unwrap_or_else(|_| Some(Instant::now() + LONGEST_WAIT))
    }

    /// Delivers outcomes and timers, and saves, as far as these are due. All of it takes microseconds, and
    /// at most the time limit of a call.
    fn deliver(&self) -> Option<Instant> {
        let mut occupant = self.lock();
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        let batch = outcomes.take_due(occupant.serial);
        let outcomes_at = outcomes.due_at();
        drop(outcomes);
        if let Some(instance) = &mut occupant.instance
            && !batch.is_empty()
        {
            let done = called(|| instance.done(&batch));
            self.after_kept(&mut occupant, done);
            self.pick_again();
        }
        if let Some(instance) = &mut occupant.instance
            && instance.next_timer().is_some_and(|at| at <= Instant::now())
        {
            let fired = called(|| instance.fire());
            self.after_kept(&mut occupant, fired);
            self.plan_anew(&mut occupant);
            self.pick_again();
        }
        if occupant.save_at.is_some_and(|at| at <= Instant::now()) {
            self.save_now(&mut occupant);
            occupant.save_at = Some(Instant::now() + SAVE_EVERY);
        }
        let timer = occupant.instance.as_ref().and_then(|instance| instance.next_timer());
        let save = occupant.save_at.filter(|_| occupant.instance.is_some());
        [outcomes_at, timer, save, occupant.replace_at].into_iter().flatten().min()
    }

    /// As [`after`](Self::after), for calls of the keeper, which looks at the timers anyway.
    fn after_kept(&self, occupant: &mut Occupant, result: Result<(), Fault>) {
        match (result, &occupant.instance) {
            (Err(fault), _) => self.retire(occupant, &fault),
            (Ok(()), Some(instance)) => {
                self.counters.memory(instance.memory());
                if instance.is_worn() {
                    self.wear_out(occupant);
                }
            }
            (Ok(()), None) => {}
        }
    }

    /// Makes an instance, and seats it once it knows all there is to know. RPCs go on meanwhile: only the
    /// last look is taken under the lock.
    ///
    /// `worn`: in place of one that works. None: that one has failed meanwhile, which is another matter.
    fn fresh(&self, saved: &[Saved], worn: bool) -> Result<Option<MutexGuard<'_, Occupant>>, InitError> {
        let role = Role::Serving(self.placement.resolve_now.clone());
        let mut instance = Instance::new(&self.policy, &self.placement, role, saved)?;
        instance.enter_into_force();
        loop {
            let ready = self.lock().ready.clone();
            instance.tell(&ready)?;
            let mut occupant = self.lock();
            if worn && occupant.instance.is_none() {
                return Ok(None);
            }
            if occupant.ready.is(&ready) {
                self.counters.memory(instance.memory());
                let before = occupant.instance.replace(Box::new(instance.settled()));
                occupant.dead.extend(before.map(|instance| *instance));
                occupant.serial += 1;
                return Ok(Some(occupant));
            }
        }
    }

    /// Replaces the instance; `worn`: it still works, and can hand over its latest state.
    fn reseat(&self, worn: bool) {
        let saved = if worn { self.save() } else { self.lock().saved.clone() };
        match self.fresh(&saved, worn) {
            Ok(None) => {}
            Ok(Some(mut occupant)) => {
                occupant.replace_at = None;
                occupant.worn = false;
                occupant.seated = Instant::now();
                occupant.renew_after = occupant.seated + RENEWAL;
                self.plan_anew(&mut occupant);
                let dead = std::mem::take(&mut occupant.dead);
                drop(occupant);
                drop(dead);
                self.pick_again();
                if worn {
                    self.counters.renewed();
                    let policy = &self.policy.terms.version;
                    tracing::debug!(%policy, "instance replaced: it had used most of its memory");
                }
            }
            Err(error) => {
                let mut occupant = self.lock();
                occupant.worn = false;
                occupant.renew_after = Instant::now() + LONGEST_WAIT;
                occupant.streak = occupant.streak.saturating_add(1);
                let wait = wait(occupant.streak).max(FIRST_WAIT);
                if occupant.instance.is_none() && error.is_passing() {
                    let policy = &self.policy.terms.version;
                    tracing::warn!(%policy, %error, ?wait, "the fallback picks until it is replaced");
                    occupant.replace_at = Some(Instant::now() + wait);
                    self.wake.notify_one();
                } else if occupant.instance.is_none() {
                    self.faulted(&mut occupant, FaultKind::Start, error.to_string(), wait);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_replacement_is_at_once_and_the_others_wait_longer_and_longer() {
        let waits: Vec<_> = [1, 2, 3, 4, 11, 12, 1000].map(wait).iter().map(Duration::as_millis).collect();
        assert_eq!(waits, [0, 10, 20, 40, 5000, 5000, 5000]);
    }
}
