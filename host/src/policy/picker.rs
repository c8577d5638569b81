//! The Wasm picker: picks by the policy's plan, or checks an instance out and asks it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::WasmPolicy;
use super::engine::has_stack;
use super::imports::Methods;
use super::instance::{Answer, InitError};
use super::plan::Plan;
use super::seat::{Held, Seat, called};
use crate::connectivity::ConnectivityState;
use crate::picker::{Faults, Handover, Pick, PickInfo, PickResult, Picker, PickerBuilder, Placement};
use crate::subconn::{Done, PickId, ReadySet};
use crate::workers;

/// A policy at work in one channel: owns the seats of its instances, of which there is one unless the policy's
/// settings ask for more.
pub(super) struct WasmPickerBuilder(Arc<[Arc<Seat>]>);

impl WasmPickerBuilder {
    pub(super) fn start(
        policy: &WasmPolicy,
        placement: &Placement,
        ready: &ReadySet,
    ) -> Result<Self, InitError> {
        Seat::take_all(policy, placement, ready).map(|seats| Self(seats.into()))
    }
}

impl PickerBuilder for WasmPickerBuilder {
    fn build(&mut self, ready: &ReadySet) -> Arc<dyn Picker> {
        for seat in &*self.0 {
            if has_stack() {
                seat.tell(ready);
            } else {
                let (theirs, ready) = (Arc::clone(seat), ready.clone());
                // A panic there has been told of, and the seat is as it was.
                let _ = workers::wait(move || theirs.tell(&ready));
            }
        }
        Arc::new(WasmPicker { seats: Arc::clone(&self.0), ready: ready.clone() })
    }

    fn is_lazy(&self) -> bool {
        self.0.iter().any(|seat| seat.lazy)
    }

    fn handover(&self) -> Option<Handover> {
        let seats = Arc::clone(&self.0);
        Some(Handover::new(move || seats.iter().flat_map(|seat| seat.save()).collect()))
    }
}

/// Picks by the channel's instances. An instance may know a newer snapshot than this picker was built
/// with; numbers are looked up in the instance's, so that a number and the list that it is looked up in
/// never come from two of them.
struct WasmPicker {
    seats: Arc<[Arc<Seat>]>,
    /// For the fallback.
    ready: ReadySet,
}

/// One pick in so many is timed; not the very first, which finds nothing in the processor's caches.
const TIMED: u64 = 64;
const FIRST_TIMED: u64 = 15;

impl Picker for WasmPicker {
    fn pick(&self, info: &PickInfo<'_>) -> PickResult {
        let home = self.home();
        if home.makes_plans {
            let plan = home.plan.load();
            if let Some(plan) = &*plan {
                let (picked, runs_low) = planned(home, plan, info);
                if runs_low && has_stack() {
                    home.plan_ahead(plan);
                }
                if let Some(picked) = picked {
                    return picked;
                }
            }
        }
        if !has_stack() {
            return home.without_stack(&self.ready);
        }
        match self.check_out(home) {
            Some((seat, held)) => self.ask(seat, held, info),
            None => PickResult::Busy,
        }
    }

    fn faults(&self) -> Faults {
        let mut all = Faults::default();
        for faults in self.seats.iter().map(|seat| seat.faults()) {
            all.count += faults.count;
            all.fallback_picks += faults.fallback_picks;
            all.last = faults.last.or(all.last);
        }
        all
    }
}

impl WasmPicker {
    /// The seat that this thread turns to first.
    fn home(&self) -> &Arc<Seat> {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static THREAD: usize = THREADS.fetch_add(1, Ordering::Relaxed);
        }
        match &*self.seats {
            [only] => only,
            seats => &seats[THREAD.with(|thread| *thread) % seats.len()],
        }
    }

    /// An instance that no other thread holds: that of the home, or else any, or else that of the home after a moment.
    fn check_out<'a>(&'a self, home: &'a Arc<Seat>) -> Option<(&'a Arc<Seat>, Held<'a>)> {
        if self.seats.len() > 1 {
            let others = self.seats.iter().filter(|seat| !Arc::ptr_eq(seat, home));
            for seat in [home].into_iter().chain(others) {
                if let Some(held) = seat.try_hold() {
                    return Some((seat, held));
                }
            }
        }
        home.hold().map(|held| (home, held))
    }

    fn ask(&self, seat: &Arc<Seat>, mut occupant: Held<'_>, info: &PickInfo<'_>) -> PickResult {
        if seat.makes_plans
            && let Some(plan) = seat.current_plan(&mut occupant)
            && let (Some(picked), _) = planned(seat, &plan, info)
        {
            return picked;
        }
        // That an RPC is held is noted under the lock: what would free it comes after.
        let Some(instance) = &mut occupant.instance else { return seat.fall_back(&self.ready) };
        let timed = (seat.counters.pick() % TIMED == FIRST_TIMED).then(std::time::Instant::now);
        match called(|| instance.pick(info)) {
            Ok(answer) => {
                if let Some(begun) = timed {
                    seat.counters.took(begun.elapsed());
                }
                let (wants_outcomes, worn) = (instance.wants_outcomes(), instance.is_worn());
                let has_new_timer = instance.has_new_timer();
                seat.counters.memory(instance.memory());
                if worn {
                    seat.wear_out(&mut occupant);
                }
                if matches!(answer.result, PickResult::Queue | PickResult::Fail(_)) {
                    seat.holds();
                }
                let serial = occupant.serial;
                drop(occupant);
                if has_new_timer {
                    seat.look_at_timers();
                }
                if wants_outcomes { follow(seat, answer, serial) } else { answer.result }
            }
            Err(fault) => {
                seat.retire(&mut occupant, &fault);
                seat.fall_back(&self.ready)
            }
        }
    }
}

/// What the plan has for this RPC, if it has something; and whether it is time for the next plan.
///
/// Nothing for a retry: the policy can see where the RPC has been, and a plan cannot.
fn planned(seat: &Seat, plan: &Plan, info: &PickInfo<'_>) -> (Option<PickResult>, bool) {
    if !info.tried.is_empty() {
        return (None, false);
    }
    let affinity = seat.affinity_in(plan, info);
    let Some(planned) = plan.pick(info.now, affinity) else { return (None, false) };
    if planned.taken > 0 {
        seat.counters.planned(planned.taken);
    }
    if seat.lazy && planned.subconn.state() == ConnectivityState::Idle {
        planned.subconn.connect();
    }
    let mut pick = Pick::to(planned.subconn.clone());
    if seat.wants_outcomes {
        let method = Methods::lock(&plan.methods).number(info.method);
        let picked = PickId { serial: plan.serial, call: planned.call, method, subconn: pick.subconn.id() };
        pick.done = Some(Done::to(seat.ear(), picked));
    }
    (Some(PickResult::Pick(pick)), planned.runs_low)
}

/// Has the policy told how the RPC ends.
fn follow(seat: &Seat, answer: Answer, serial: u64) -> PickResult {
    let Answer { result, call, method } = answer;
    let PickResult::Pick(mut pick) = result else { return result };
    let picked = PickId { serial, call, method, subconn: pick.subconn.id() };
    pick.done = Some(Done::to(seat.ear(), picked));
    PickResult::Pick(pick)
}

impl fmt::Debug for WasmPickerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WasmPickerBuilder({})", self.0[0].policy.terms.version)
    }
}

impl fmt::Debug for WasmPicker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WasmPicker({})", self.seats[0].policy.terms.version)
    }
}
