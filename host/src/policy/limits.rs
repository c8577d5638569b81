//! How much of everything a policy may use.

use std::time::Duration;

/// The limits of one policy.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// CPU time of a pick, give or take a millisecond.
    pub pick: Duration,
    /// CPU time of the calls that tell a policy of endpoints.
    pub update: Duration,
    /// CPU time of instantiating and `init`.
    pub init: Duration,
    /// Bytes of linear memory.
    pub memory: usize,
    /// Elements of each table.
    pub table: usize,
    /// Bytes of the file.
    pub component: usize,
    /// Bytes of the configuration.
    pub config: usize,
    /// Metadata keys that a policy may declare, and that a pick may set.
    pub metadata_keys: usize,
    /// Bytes of a metadata value that a policy sees or sets; a longer one is as if it were not there.
    pub metadata_value: usize,
    /// Bytes of a line of the log, or of the text of a status.
    pub log_line: usize,
    /// Lines of the log per second and instance.
    pub log_lines: u32,
    /// Bytes that one call may hand to the host.
    pub handed_over: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pick: Duration::from_millis(2),
            update: Duration::from_millis(10),
            init: Duration::from_secs(1),
            memory: 32 << 20,
            table: 100_000,
            component: 32 << 20,
            config: 64 << 10,
            metadata_keys: 8,
            metadata_value: 8 << 10,
            log_line: 1 << 10,
            log_lines: 50,
            handed_over: 1 << 20,
        }
    }
}

/// Holds an instance to its memory, and remembers that it asked for more.
#[derive(Debug)]
pub(super) struct Memory {
    /// Bytes left, over all of the instance's memories.
    left: usize,
    table: usize,
    pub(super) refused: bool,
}

impl Memory {
    pub(super) fn new(limits: &Limits) -> Self {
        Self { left: limits.memory, table: limits.table, refused: false }
    }
}

impl wasmtime::ResourceLimiter for Memory {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        match self.left.checked_sub(desired.saturating_sub(current)) {
            Some(left) => self.left = left,
            None => self.refused = true,
        }
        Ok(!self.refused)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.refused |= desired > self.table;
        Ok(!self.refused)
    }
}
