//! Limits of an instance's memory and tables.

use crate::policy::limits::Limits;

/// Holds an instance to its memory, and remembers that it asked for more.
#[derive(Debug)]
pub(crate) struct Memory {
    /// Bytes left, over all of the instance's memories.
    bytes: usize,
    limit: usize,
    /// Elements left, over all of its tables.
    elements: usize,
    /// The last growth was.
    pub(crate) refused: bool,
}

impl Memory {
    /// Bytes in use.
    pub(crate) const fn used(&self) -> usize {
        self.limit - self.bytes
    }

    /// There is not much left.
    pub(crate) const fn is_short(&self) -> bool {
        self.bytes < self.limit / 5
    }

    pub(crate) fn new(limits: &Limits) -> Self {
        Self { bytes: limits.memory, limit: limits.memory, elements: limits.table, refused: false }
    }
}

/// Takes a growth from what is left of something.
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

    // Each core instance, table and memory has a price of its own, an empty memory that of its address
    // space. Components of languages with a runtime are made of dozens of instances.

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
