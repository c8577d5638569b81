//! How much of everything a policy may use.

use std::time::Duration;

/// The limits of one policy.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Limits {
    /// CPU time of a pick, give or take a millisecond.
    pub pick: Duration,
    /// CPU time of the calls that tell a policy something (of endpoints, of outcomes, of a timer), and
    /// for each thing that they tell on top of that.
    pub update: Duration,
    /// See [`update`](Self::update).
    pub update_each: Duration,
    /// CPU time of instantiating, of `init` and of `restore`.
    pub init: Duration,
    /// CPU time of `save`, while RPCs wait.
    pub save: Duration,
    /// Time that compiling may take.
    pub compile: Duration,
    /// Bytes of linear memory. An instance that has 80 % of them is replaced before it needs the rest.
    pub memory: usize,
    /// Elements of all tables together.
    pub table: usize,
    /// Bytes of the file.
    pub component: usize,
    /// Functions, and types, in all of its modules.
    pub functions: usize,
    /// Bytes of one function's code.
    pub function: usize,
    /// How deep components lie within each other; 1 is a component in none.
    pub nesting: usize,
    /// Imports, and exports, of all of its modules and components.
    pub names: usize,
    /// Instances that it is made of.
    pub instances: usize,
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
    /// Bytes of the state that a policy saves.
    pub saved: usize,
    /// Instruments of its own.
    pub instruments: usize,
    /// Timers under way.
    pub timers: usize,
    /// The shortest delay of a timer; a shorter one is this long.
    pub timer: Duration,
    /// So many faults within a minute, over all channels, and the policy is not used any more.
    pub faults: usize,
}

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
    /// What the settings of a policy may raise its limits to, unless the host says otherwise.
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

    /// The limit of a call about endpoints of which there are so many.
    pub(crate) fn update_of(&self, endpoints: usize) -> Duration {
        let endpoints = u32::try_from(endpoints).unwrap_or(u32::MAX);
        self.update.saturating_add(self.update_each.saturating_mul(endpoints))
    }
}

/// The longest plan that is accepted, in picks.
pub(crate) const LONGEST_PLAN: u32 = 200_000;
