//! The Wasm picker: checks the channel's instance out, picks, turns the number into a subconn.

use std::fmt;
use std::sync::Arc;

use tokio::time::Instant;

use super::WasmPolicy;
use super::instance::{Answer, InitError};
use super::outcomes::outcome;
use super::seat::Seat;
use crate::picker::{Faults, Handover, Pick, PickInfo, PickResult, Picker, PickerBuilder, Placement};
use crate::subconn::ReadySet;

/// A policy at work in one channel: owns the seat of its one instance.
pub(super) struct WasmPickerBuilder(Arc<Seat>);

impl WasmPickerBuilder {
    pub(super) fn start(
        policy: &WasmPolicy,
        placement: &Placement,
        ready: &ReadySet,
    ) -> Result<Self, InitError> {
        Seat::take(policy, placement, ready).map(Self)
    }
}

impl PickerBuilder for WasmPickerBuilder {
    fn build(&mut self, ready: &ReadySet) -> Arc<dyn Picker> {
        self.0.tell(ready);
        Arc::new(WasmPicker { seat: Arc::clone(&self.0), ready: ready.clone() })
    }

    fn is_lazy(&self) -> bool {
        self.0.lazy
    }

    fn handover(&self) -> Option<Handover> {
        let seat = Arc::clone(&self.0);
        Some(Handover::new(move || seat.save()))
    }
}

/// Picks by the channel's instance. The instance may know a newer snapshot than this picker was built
/// with; numbers are looked up in the instance's, so that a number and the list that it is looked up in
/// never come from two of them.
struct WasmPicker {
    seat: Arc<Seat>,
    /// For the fallback.
    ready: ReadySet,
}

/// One pick in so many is timed; not the very first, which finds nothing in the processor's caches.
const TIMED: u64 = 64;
const FIRST_TIMED: u64 = 15;

impl Picker for WasmPicker {
    fn pick(&self, info: &PickInfo<'_>) -> PickResult {
        let seat = &self.seat;
        let Some(mut occupant) = seat.try_lock() else { return PickResult::Busy };
        // That an RPC is held is noted under the lock: what would free it comes after.
        let Some(instance) = &mut occupant.instance else { return seat.fall_back(&self.ready) };
        let timed = (seat.counters.pick() % TIMED == FIRST_TIMED).then(std::time::Instant::now);
        let had_timer = instance.next_timer();
        match instance.pick(info) {
            Ok(answer) => {
                if let Some(begun) = timed {
                    seat.counters.took(begun.elapsed());
                }
                let (wants_outcomes, worn) = (instance.wants_outcomes(), instance.is_worn());
                let has_timer = instance.next_timer();
                seat.counters.memory(instance.memory());
                if worn {
                    seat.wear_out(&mut occupant);
                }
                if matches!(answer.result, PickResult::Queue | PickResult::Fail(_)) {
                    seat.holds();
                }
                let serial = occupant.serial;
                drop(occupant);
                if has_timer != had_timer {
                    seat.look_at_timers();
                }
                if wants_outcomes { self.follow(answer, serial) } else { answer.result }
            }
            Err(fault) => {
                seat.retire(&mut occupant, &fault);
                seat.fall_back(&self.ready)
            }
        }
    }

    fn faults(&self) -> Faults {
        self.seat.faults()
    }
}

impl WasmPicker {
    /// Has the policy told how the RPC ends. It is held weakly: a stream of a day must not keep a policy that
    /// has been replaced.
    fn follow(&self, answer: Answer, serial: u64) -> PickResult {
        let Answer { result, call, method } = answer;
        let PickResult::Pick(pick) = result else { return result };
        let (seat, subconn, begun) = (Arc::downgrade(&self.seat), pick.subconn.id(), Instant::now());
        let done = move |end: &crate::subconn::DoneInfo<'_>| {
            if let Some(seat) = seat.upgrade() {
                seat.ended(serial, outcome(call, subconn, method, begun, end));
            }
        };
        PickResult::Pick(Pick::on_done(pick, done))
    }
}

impl fmt::Debug for WasmPickerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WasmPickerBuilder({})", self.0.policy.terms.version)
    }
}

impl fmt::Debug for WasmPicker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WasmPicker({})", self.seat.policy.terms.version)
    }
}
