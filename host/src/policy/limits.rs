//! Limits of what a policy may use.

use std::time::Duration;

use crate::setters::setters;

/// The limits of one policy.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Limits {
    /// CPU time of a pick, accurate to a millisecond.
    pub pick: Duration,
    /// CPU time of a call that notifies the policy of endpoints, outcomes or timers.
    pub update: Duration,
    /// Additional CPU time for each endpoint, in calls about endpoints: see [`update`](Self::update).
    pub update_each: Duration,
    /// CPU time of instantiation, of `init` and of `restore`.
    pub init: Duration,
    /// CPU time of `save`. RPCs wait meanwhile.
    pub save: Duration,
    /// Duration of a compilation.
    pub compile: Duration,
    /// Bytes of linear memory. An instance that uses 80 % of them is replaced before it needs the rest.
    pub memory: usize,
    /// Elements of all tables together.
    pub table: usize,
    /// Bytes of the file.
    pub component: usize,
    /// Number of functions, and of types, in all modules of the file.
    pub functions: usize,
    /// Bytes of one function's code.
    pub function: usize,
    /// Depth of nested components. A component without inner ones has depth 1.
    pub nesting: usize,
    /// Number of imports, and of exports, of all modules and components in the file.
    pub names: usize,
    /// Number of instances that the component consists of.
    pub instances: usize,
    /// Bytes of the configuration.
    pub config: usize,
    /// Number of metadata keys that a policy may declare, and that a pick may set.
    pub metadata_keys: usize,
    /// Bytes of a metadata value that a policy reads or sets. To read a longer value returns nothing; to set one is an
    /// error.
    pub metadata_value: usize,
    /// Bytes of a log line, or of the text of a status.
    pub log_line: usize,
    /// Log lines per second and instance.
    pub log_lines: u32,
    /// Bytes that one call may pass to the host.
    pub handed_over: usize,
    /// Bytes of the state that a policy saves.
    pub saved: usize,
    /// Number of instruments that a policy declares.
    pub instruments: usize,
    /// Number of pending timers.
    pub timers: usize,
    /// Minimum delay of a timer. A shorter delay is extended to this.
    pub timer: Duration,
    /// Number of faults within a minute, over all channels, at which the policy is quarantined.
    pub faults: usize,
}

setters!(Limits {
    with_pick: pick: Duration,
    with_update: update: Duration,
    with_update_each: update_each: Duration,
    with_init: init: Duration,
    with_save: save: Duration,
    with_compile: compile: Duration,
    with_memory: memory: usize,
    with_table: table: usize,
    with_component: component: usize,
    with_functions: functions: usize,
    with_function: function: usize,
    with_nesting: nesting: usize,
    with_names: names: usize,
    with_instances: instances: usize,
    with_config: config: usize,
    with_metadata_keys: metadata_keys: usize,
    with_metadata_value: metadata_value: usize,
    with_log_line: log_line: usize,
    with_log_lines: log_lines: u32,
    with_handed_over: handed_over: usize,
    with_saved: saved: usize,
    with_instruments: instruments: usize,
    with_timers: timers: usize,
    with_timer: timer: Duration,
    with_faults: faults: usize,
});

impl Default for Limits {
    fn default() -> Self {
        Self {
            pick: Duration::from_millis(2),
            update: Duration::from_millis(10),
            update_each: Duration::from_micros(20),
            init: Duration::from_secs(1),
            save: Duration::from_millis(10),
            compile: Duration::from_secs(300),
            memory: 32 << 20,
            table: 100_000,
            component: 32 << 20,
            functions: 100_000,
            function: 512 << 10,
            nesting: 16,
            names: 10_000,
            instances: 1000,
            config: 64 << 10,
            metadata_keys: 8,
            metadata_value: 8 << 10,
            log_line: 1 << 10,
            log_lines: 50,
            handed_over: 1 << 20,
            saved: 256 << 10,
            instruments: 32,
            timers: 8,
            timer: Duration::from_millis(10),
            faults: 3,
        }
    }
}

impl Limits {
    /// Returns the values to which the settings of a policy may raise its limits, unless the host says otherwise.
    #[must_use]
    pub fn caps() -> Self {
        Self {
            pick: Duration::from_millis(50),
            update: Duration::from_secs(1),
            update_each: Duration::from_millis(1),
            init: Duration::from_secs(60),
            save: Duration::from_secs(1),
            memory: 1 << 30,
            table: 1_000_000,
            metadata_keys: 64,
            metadata_value: 64 << 10,
            log_line: 16 << 10,
            log_lines: 1000,
            saved: 16 << 20,
            handed_over: 16 << 20,
            config: 1 << 20,
            compile: Duration::from_secs(600),
            instruments: 256,
            timers: 64,
            timer: Duration::from_millis(1),
            faults: 1000,
            ..Self::default()
        }
    }

    /// Returns the limit of a call about this number of endpoints.
    pub(crate) fn update_of(&self, endpoints: usize) -> Duration {
        let endpoints = u32::try_from(endpoints).unwrap_or(u32::MAX);
        self.update.saturating_add(self.update_each.saturating_mul(endpoints))
    }
}

/// Maximum length of a plan (picks).
pub(crate) const LONGEST_PLAN: u32 = 200_000;
