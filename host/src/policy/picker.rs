//! The Wasm picker: checks the channel's instance out, picks, turns the number into a subconn.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::compiled::Compiled;
use super::instance::{Fault, InitError, Instance};
use crate::picker::{Cursor, Faults, Pick, PickInfo, PickResult, Picker, PickerBuilder, Placement};
use crate::subconn::ReadySet;

/// A policy at work in one channel: owns the seat of its one instance.
pub(super) struct WasmPickerBuilder(Arc<Seat>);

/// Where a channel's instance sits, while it works and while it is being replaced.
struct Seat {
    compiled: Arc<Compiled>,
    placement: Placement,
    occupant: Mutex<Occupant>,
    fallback: Cursor,
    fallback_picks: AtomicU64,
    runtime: Handle,
}

struct Occupant {
    /// None while it is being replaced: the fallback picks.
    instance: Option<Box<Instance>>,
    /// What the instance, or the next one, has to know.
    ready: ReadySet,
    seated: Instant,
    /// Faults in a row, each less than [`SETTLED`] after the one before.
    streak: u32,
    faults: Faults,
}

/// An instance that worked this long without a fault is replaced at once if it has one.
const SETTLED: Duration = Duration::from_secs(10);
/// The wait before the second replacement in a row; each further one doubles it.
const FIRST_WAIT: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How often a thread looks whether the instance is free, before it lets other tasks run. About as long
/// as a few picks take.
const SPINS: u32 = 64;

impl WasmPickerBuilder {
    pub(super) fn start(
        compiled: &Arc<Compiled>,
        placement: &Placement,
        ready: &ReadySet,
    ) -> Result<Self, InitError> {
        let mut instance = Instance::new(compiled, placement)?;
        instance.tell(compiled, ready)?;
        Ok(Self(Arc::new(Seat {
            compiled: Arc::clone(compiled),
            placement: placement.clone(),
            occupant: Mutex::new(Occupant {
                instance: Some(Box::new(instance)),
                ready: ready.clone(),
                seated: Instant::now(),
                streak: 0,
                faults: Faults::default(),
            }),
            fallback: Cursor::random(),
            fallback_picks: AtomicU64::new(0),
            runtime: Handle::current(),
        })))
    }
}

impl PickerBuilder for WasmPickerBuilder {
    fn build(&mut self, ready: &ReadySet) -> Arc<dyn Picker> {
        let seat = &self.0;
        // The longest that anyone holds the lock is the time limit of a call.
        let mut occupant = seat.lock();
        occupant.ready = ready.clone();
        if let Some(instance) = &mut occupant.instance
            && let Err(fault) = instance.tell(&seat.compiled, ready)
        {
            seat.retire(&mut occupant, &fault);
        }
        drop(occupant);
        Arc::new(WasmPicker { seat: Arc::clone(seat), ready: ready.clone() })
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

impl Picker for WasmPicker {
    fn pick(&self, info: &PickInfo<'_>) -> PickResult {
        let seat = &self.seat;
        let Some(mut occupant) = seat.try_lock() else { return PickResult::Busy };
        let Some(instance) = &mut occupant.instance else {
            drop(occupant);
            return seat.fall_back(&self.ready);
        };
        match instance.pick(&seat.compiled, info) {
            Ok(answer) => answer,
            Err(fault) => {
                seat.retire(&mut occupant, &fault);
                drop(occupant);
                seat.fall_back(&self.ready)
            }
        }
    }

    fn faults(&self) -> Faults {
        let mut faults = self.seat.lock().faults.clone();
        faults.fallback_picks = self.seat.fallback_picks.load(Ordering::Relaxed);
        faults
    }
}

impl Seat {
    fn lock(&self) -> MutexGuard<'_, Occupant> {
        // Were there a panic inside, the instance would be as good as before: it is wasmtime's to guard.
        self.occupant.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock, unless another thread holds it for longer than a few picks take.
    fn try_lock(&self) -> Option<MutexGuard<'_, Occupant>> {
        for _ in 0..SPINS {
            match self.occupant.try_lock() {
                Ok(guard) => return Some(guard),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
            }
        }
        None
    }

    fn fall_back(&self, ready: &ReadySet) -> PickResult {
        self.fallback_picks.fetch_add(1, Ordering::Relaxed);
        self.fallback.next(ready).map_or(PickResult::Queue, |subconn| PickResult::Pick(Pick::to(subconn)))
    }

    /// Ends the instance for its fault, and has it replaced.
    fn retire(self: &Arc<Self>, occupant: &mut Occupant, fault: &Fault) {
        let dead = occupant.instance.take();
        occupant.streak =
            if occupant.seated.elapsed() < SETTLED { occupant.streak.saturating_add(1) } else { 1 };
        occupant.faults.count += 1;
        occupant.faults.last = Some(fault.to_string());
        let wait = wait(occupant.streak);
        let policy = &self.compiled.version;
        tracing::warn!(%policy, %fault, ?wait, "policy failed: round robin picks until it is replaced");
        let seat = Arc::downgrade(self);
        self.runtime.spawn(async move {
            // To give its memory back takes longer than a pick: not on the RPC's path, nor under the lock.
            drop(dead);
            replace(seat, wait).await;
        });
    }
}

/// How long to wait before the replacement after this many faults in a row.
fn wait(streak: u32) -> Duration {
    match streak.checked_sub(2) {
        None => Duration::ZERO,
        Some(doublings) => FIRST_WAIT.saturating_mul(1 << doublings.min(16)).min(LONGEST_WAIT),
    }
}

/// Seats a fresh instance, unless the policy has been replaced meanwhile.
async fn replace(seat: Weak<Seat>, mut wait: Duration) {
    loop {
        tokio::time::sleep(wait).await;
        let Some(seat) = seat.upgrade() else { return };
        // `init` may take long, and compiled code needs a stack of its own size: off the workers.
        let seated = tokio::task::spawn_blocking(move || seat.reseat()).await;
        match seated {
            Ok(Err(next)) => wait = next,
            // Seated; or the runtime is shutting down.
            Ok(Ok(())) | Err(_) => return,
        }
    }
}

impl Seat {
    /// Makes an instance, and seats it once it knows all there is to know. RPCs go on meanwhile: only the
    /// last look is taken under the lock.
    fn fresh(&self) -> Result<MutexGuard<'_, Occupant>, InitError> {
        let mut instance = Instance::new(&self.compiled, &self.placement)?;
        loop {
            let ready = self.lock().ready.clone();
            instance.tell(&self.compiled, &ready)?;
            let mut occupant = self.lock();
            if occupant.ready.is(&ready) {
                occupant.instance = Some(Box::new(instance));
                return Ok(occupant);
            }
        }
    }

    /// Makes an instance and seats it. The error is the wait before the next try.
    fn reseat(self: &Arc<Self>) -> Result<(), Duration> {
        match self.fresh() {
            Ok(mut occupant) => {
                occupant.seated = Instant::now();
                Ok(())
            }
            Err(error) => {
                let error = error.to_string();
                let mut occupant = self.lock();
                occupant.streak = occupant.streak.saturating_add(1);
                occupant.faults.count += 1;
                let policy = &self.compiled.version;
                tracing::warn!(%policy, error, "policy could not be replaced: round robin picks");
                occupant.faults.last = Some(error);
                Err(wait(occupant.streak).max(FIRST_WAIT))
            }
        }
    }
}

impl fmt::Debug for WasmPickerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WasmPickerBuilder({})", self.0.compiled.version)
    }
}

impl fmt::Debug for WasmPicker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WasmPicker({})", self.seat.compiled.version)
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
