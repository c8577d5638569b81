//! Limits of an instance's memory and tables.

use crate::policy::limits::Limits;

/// Limits the memory of an instance, and records whether a growth was refused.
#[derive(Debug)]
pub(crate) struct Memory {
    /// Number of bytes left, over all memories of the instance.
    bytes: usize,
    limit: usize,
    /// Number of elements left, over all tables of the instance.
    elements: usize,
    /// Whether the last growth was refused.
    pub(crate) refused: bool,
}

impl Memory {
    /// Returns the number of bytes in use.
    pub(crate) const fn used(&self) -> usize {
        self.limit - self.bytes
    }

    /// Returns whether less than a fifth of the memory is left.
    pub(crate) const fn is_short(&self) -> bool {
        self.bytes < self.limit / 5
    }

    pub(crate) fn new(limits: &Limits) -> Self {
        Self { bytes: limits.memory, limit: limits.memory, elements: limits.table, refused: false }
    }
}

/// Subtracts a growth from what is left. Returns whether there was enough.
fn take(left: &mut usize, current: usize, desired: usize) -> bool {
    let rest = left.checked_sub(desired.saturating_sub(current));
    *left = rest.unwrap_or(*left);
    rest.is_some()
}

impl wasmtime::ResourceLimiter for Memory {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let granted = take(&mut self.bytes, current, desired);
        self.refused = !granted;
        Ok(granted)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let granted = take(&mut self.elements, current, desired);
        self.refused = !granted;
        Ok(granted)
    }

    // Each core instance, table and memory has a cost of its own; even an empty memory takes address space. Components
    // of languages with a runtime consist of dozens of instances.

    fn instances(&self) -> usize {
        200
    }

    fn tables(&self) -> usize {
        50
    }

    fn memories(&self) -> usize {
        10
    }
}
