//! How many histograms there are at most.

use std::sync::atomic::{AtomicUsize, Ordering};

use hotpick::call::MethodNames;

use super::method::MethodCalls;

/// Slots for the histograms of methods. Each takes about thirty lines of text.
#[derive(Debug)]
pub(super) struct Slots {
    left: AtomicUsize,
    /// Counts what has no slot.
    pub(super) other: MethodCalls,
}

/// Slots that there are at least: a method with one status code takes three.
const FEWEST: usize = 900;

impl Slots {
    /// Returns the slots for these methods: for each, those of one or two codes.
    pub(super) fn of(names: &MethodNames) -> Self {
        let methods = match names {
            MethodNames::Only(names) => names.len(),
            MethodNames::First(most) => *most,
            _ => 0,
        };
        let left = methods.saturating_mul(9) / 2;
        Self { left: AtomicUsize::new(left.max(FEWEST)), other: MethodCalls::default() }
    }

    /// Takes a slot, if one is left.
    pub(super) fn take(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}
