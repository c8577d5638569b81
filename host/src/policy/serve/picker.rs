//! The Wasm picker: picks from the policy's plan, or checks out an instance and calls it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::plans::Taken;
use super::recording::Recording;
use super::slot::{Held, Slot, call};
use super::supervisor;
use crate::connectivity::ConnectivityState;
use crate::lifecycle::{Handover, PickerBuilder, Placement, Standing};
use crate::picker::{DelayType, Faults, Pick, PickInfo, PickResult, PickedBy, Picker, until_picked};
use crate::policy::compile::has_stack;
use crate::policy::instance::{Answer, InstanceError, Methods, Plan, PlannedPick, Program, record_planned};
use crate::subconn::{Done, OutcomeSink, PickId, ReadySet, SubConn};
use crate::workers;

/// The picker builder of a Wasm policy in one channel. Owns the slots of the policy's instances: one, unless the
/// settings request more shards.
pub(crate) struct WasmPickerBuilder(Arc<[Arc<Slot>]>);

impl WasmPickerBuilder {
    pub(crate) fn start(
        program: &Program,
        placement: &Placement,
        ready: &ReadySet,
    ) -> Result<Self, InstanceError> {
        let slots = Slot::start_all(program, placement, ready)?;
        slots.iter().for_each(supervisor::spawn);
        Ok(Self(slots.into()))
    }
}

impl PickerBuilder for WasmPickerBuilder {
    fn build(&mut self, ready: &ReadySet) -> Arc<dyn Picker> {
        for slot in &*self.0 {
            if has_stack() {
                slot.notify(ready);
            } else {
                let (theirs, ready) = (Arc::clone(slot), ready.clone());
                // A panic of the worker has been logged, and leaves the slot unchanged.
                let _ = workers::wait(move || theirs.notify(&ready));
            }
        }
        Arc::new(WasmPicker { slots: Arc::clone(&self.0), ready: ready.clone() })
    }

    fn is_lazy(&self) -> bool {
        self.0.iter().any(|slot| slot.lazy)
    }

    fn handover(&self) -> Option<Handover> {
        let slots = Arc::clone(&self.0);
        Some(Handover::new(move || slots.iter().flat_map(|slot| slot.save()).collect()))
    }
}

/// A picker that calls the channel's instances. An instance may know a newer snapshot than this picker was built with.
/// Subconn numbers of its answers are looked up in the instance's snapshot, so that a number and the list that it is looked up in
/// always come from the same snapshot.
struct WasmPicker {
    slots: Arc<[Arc<Slot>]>,
    /// Snapshot for the fallback, and for planned picks of endpoints that it has: a number is never of another one.
    ready: ReadySet,
}

/// One in this number of picks is timed, but not the first pick, which finds nothing in the processor's caches.
const TIMED: u64 = 64;
const FIRST_TIMED: u64 = 15;

impl Picker for WasmPicker {
    fn pick(&self, info: &PickInfo<'_>) -> PickResult {
        until_picked(self, info)
    }

    fn try_pick(&self, info: &PickInfo<'_>) -> Option<PickResult> {
        let home = self.home();
        if let Some(picked) = self.pick_by_plan(home, info) {
            return Some(picked);
        }
        if !has_stack() {
            return Some(home.fall_back_without_stack(&self.ready));
        }
        let (slot, held) = self.check_out(home)?;
        Some(self.ask(slot, held, info))
    }

    fn queues_for(&self) -> DelayType {
        if self.ready.ready().is_empty() { DelayType::Connecting } else { DelayType::Policy }
    }

    fn faults(&self) -> Faults {
        let mut all = Faults::default();
        for faults in self.slots.iter().map(|slot| slot.faults()) {
            all.count += faults.count;
            all.fallback_picks += faults.fallback_picks;
            all.last = faults.last.or(all.last);
        }
        all
    }
}

impl WasmPicker {
    /// Returns the slot that this thread tries first.
    fn home(&self) -> &Arc<Slot> {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static THREAD: usize = THREADS.fetch_add(1, Ordering::Relaxed);
        }
        match &*self.slots {
            [only] => only,
            slots => &slots[THREAD.with(|thread| *thread) % slots.len()],
        }
    }

    /// Returns the plan's pick for this RPC, if the plan has one.
    ///
    /// A retry gets no planned pick: the policy can see which subconns the RPC has tried, and a plan cannot.
    #[inline(always)]
    fn pick_by_plan(&self, slot: &Slot, info: &PickInfo<'_>) -> Option<PickResult> {
        if !slot.makes_plans || info.earlier_attempts() > 0 {
            return None;
        }
        let taken = slot.plans.take();
        if let Some(taken) = &taken {
            if taken.runs_low {
                slot.plan_ahead();
            }
            if slot.has_plain_picks()
                && let Some(subconn) = self.ready.find(taken.subconn)
            {
                return Some(PickResult::Pick(planned_to(subconn)));
            }
        }
        planned_pick(slot, info, taken)
    }

    /// Checks out an instance that no other thread holds: that of the home slot, or of any other slot, or waits briefly
    /// for that of the home slot. `None`: all instances are still held.
    fn check_out<'a>(&'a self, home: &'a Arc<Slot>) -> Option<(&'a Arc<Slot>, Held<'a>)> {
        if self.slots.len() > 1 {
            let others = self.slots.iter().filter(|slot| !Arc::ptr_eq(slot, home));
            for slot in [home].into_iter().chain(others) {
                if let Some(held) = slot.try_hold() {
                    return Some((slot, held));
                }
            }
        }
        home.hold().map(|held| (home, held))
    }

    // Apart, so that a planned pick does not pay for its frame.
    #[inline(never)]
    fn ask(&self, slot: &Arc<Slot>, mut contents: Held<'_>, info: &PickInfo<'_>) -> PickResult {
        if slot.makes_plans {
            slot.plan_more(&mut contents);
            if let Some(picked) = self.pick_by_plan(slot, info) {
                return picked;
            }
        }
        // A queued RPC is recorded while the instance is held, so that a change that releases the RPC comes later.
        let Some(instance) = contents.machine.instance() else { return slot.fall_back(&self.ready) };
        let timed = (slot.counters.pick() % TIMED == FIRST_TIMED).then(std::time::Instant::now);
        match call(|| instance.pick(info)) {
            Ok(answer) => {
                if let Some(started) = timed {
                    slot.counters.took(started.elapsed());
                }
                let worn = instance.is_worn();
                let ends = instance.recorded_ends();
                let is_followed = instance.wants_outcomes() || ends.is_some();
                let has_new_timer = instance.has_new_timer();
                slot.counters.memory(instance.memory());
                if worn {
                    slot.wear_out(&mut contents);
                }
                if matches!(answer.result, PickResult::Queue | PickResult::Fail(_)) {
                    slot.rpc_queued();
                }
                let serial = contents.machine.serial();
                drop(contents);
                if has_new_timer {
                    slot.timer_set();
                }
                if is_followed { follow(slot, answer, serial, ends) } else { answer.result }
            }
            Err(fault) => {
                slot.fail(&mut contents, &fault);
                slot.fall_back(&self.ready)
            }
        }
    }
}

/// Returns a pick that was taken from a sequence, or the pick of the table: in the form of the caller's own result, so that it
/// is written to its place at once. Copies of it took a tenth of a planned pick.
#[inline(never)]
fn planned_pick(slot: &Slot, info: &PickInfo<'_>, taken: Option<Taken>) -> Option<PickResult> {
    let current = slot.plans.current();
    let Some(current) = current.as_ref() else { return taken.and_then(|_| slot.plans.taken_in_vain()) };
    let taken = match taken {
        Some(taken) => taken,
        None => slot.plans.take_by(slot.affinity_in(&current.plan, info)?, current)?,
    };
    let Some((call, subconn)) = current.find(&taken) else { return slot.plans.taken_in_vain() };
    if slot.lazy && slot.placement.standing != Standing::Shadow && subconn.state() == ConnectivityState::Idle
    {
        subconn.connect();
    }
    let recording = slot.recording(current.plan.serial);
    let is_followed = slot.wants_outcomes || recording.is_some();
    let done = is_followed.then(|| follow_planned(slot, &current.plan, info, call, subconn.id(), recording));
    Some(PickResult::Pick(Pick { done, ..planned_to(subconn) }))
}

#[inline]
fn planned_to(subconn: &SubConn) -> Pick {
    Pick { by: PickedBy::Planned, ..Pick::to(subconn.clone()) }
}

/// Arranges that the policy is notified of the end of an RPC with a planned pick, and records the pick.
#[inline(never)]
fn follow_planned(
    slot: &Slot,
    plan: &Plan,
    info: &PickInfo<'_>,
    call: u64,
    subconn: u32,
    recording: Option<Arc<Recording>>,
) -> Done {
    let method = Methods::lock(&plan.methods).number(info.method);
    let pick_id = PickId { serial: plan.serial, call, method, subconn };
    match recording {
        None => Done::to(slot.sink(), pick_id),
        Some(recording) => {
            let affinity = slot.affinity_in(plan, info);
            let planned = PlannedPick { info, call, method, affinity, subconn };
            record_planned(&recording.recorder, &plan.methods, &recording.keys, &planned);
            Done::to(recording.sink(), pick_id)
        }
    }
}

/// Arranges that the policy is notified of the RPC's end.
fn follow(slot: &Slot, answer: Answer, serial: u64, ends: Option<Arc<dyn OutcomeSink>>) -> PickResult {
    let Answer { result, call, method } = answer;
    let PickResult::Pick(mut pick) = result else { return result };
    let picked = PickId { serial, call, method, subconn: pick.subconn.id() };
    pick.done = Some(Done::to(ends.unwrap_or_else(|| slot.sink()), picked));
    PickResult::Pick(pick)
}

impl fmt::Debug for WasmPickerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WasmPickerBuilder({})", self.0[0].program.spec.version)
    }
}

impl fmt::Debug for WasmPicker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WasmPicker({})", self.slots[0].program.spec.version)
    }
}
