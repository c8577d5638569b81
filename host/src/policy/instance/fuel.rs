//! What picks cost, in instructions of WebAssembly: the same on every machine.

use std::sync::atomic::{AtomicU64, Ordering};

use wasmtime::Store;

use super::imports::HostState;
use crate::policy::compile::is_metered;

static PICKS: AtomicU64 = AtomicU64::new(0);
static USED: AtomicU64 = AtomicU64::new(0);

/// Fills the tank of an instance, if fuel is counted.
pub(super) fn fill(store: &mut Store<HostState>) {
    if is_metered() {
        // Refused only if fuel is not counted.
        let _ = store.set_fuel(u64::MAX);
    }
}

/// Returns the fuel that is left, if fuel is counted.
pub(super) fn left(store: &Store<HostState>) -> Option<u64> {
    if is_metered() { store.get_fuel().ok() } else { None }
}

/// Counts a pick: `before` is what was left then.
pub(super) fn count(store: &Store<HostState>, before: Option<u64>) {
    if let Some((before, after)) = before.zip(left(store)) {
        PICKS.fetch_add(1, Ordering::Relaxed);
        USED.fetch_add(before.saturating_sub(after), Ordering::Relaxed);
    }
}

/// Returns the number of called picks of all policies since the last time, and the instructions that they took.
pub(crate) fn take() -> (u64, u64) {
    (PICKS.swap(0, Ordering::Relaxed), USED.swap(0, Ordering::Relaxed))
}
