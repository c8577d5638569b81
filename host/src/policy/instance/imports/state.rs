//! What the host keeps for one instance.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::HeaderName;

use super::current_call::CurrentCall;
use super::effects::Effects;
use super::log_budget::LogBudget;
use super::numbers::{Methods, Values};
use super::timer_set::Timers;
use crate::policy::compile::Grants;
use crate::policy::instance::clock::{Ticking, Watchdog};
use crate::policy::instance::memory::Memory;
use crate::policy::judge::{Instrument, Instruments};
use crate::policy::limits::Limits;
use crate::subconn::ReadySet;

/// What an instance is created with.
pub(crate) struct InstanceConfig {
    pub(crate) policy: String,
    pub(crate) seed: u64,
    pub(crate) limits: Limits,
    pub(crate) grants: Arc<Grants>,
    pub(crate) instruments: Arc<Instruments>,
    pub(crate) generation: u64,
    /// The policy can ask for values of metadata, not only for the hash of one.
    pub(crate) reads_metadata: bool,
    /// Set when its start is no longer wanted.
    pub(crate) cut: Arc<AtomicBool>,
    /// A rehearsal: what it logs is discarded.
    pub(crate) silent: bool,
}

/// What the host keeps for one instance.
pub(crate) struct HostState {
    pub(crate) watchdog: Watchdog,
    pub(crate) memory: Memory,
    pub(crate) random: fastrand::Rng,
    /// `init` is running: declarations are accepted.
    pub(crate) in_init: bool,
    /// The snapshot that the policy was last notified of. Its numbers are looked up here.
    pub(crate) acknowledged: ReadySet,
    pub(crate) timers: Timers,
    pub(crate) effects: Effects,
    /// The policy decides when to connect.
    pub(super) lazy: bool,
    pub(super) limits: Limits,
    pub(super) policy: String,
    pub(super) grants: Arc<Grants>,
    pub(super) instruments: Arc<Instruments>,
    pub(super) generation: u64,
    pub(super) declared: Vec<Arc<Instrument>>,
    pub(super) silent: bool,
    pub(super) reads_metadata: bool,
    pub(super) cut: Arc<AtomicBool>,
    pub(super) keys: Vec<HeaderName>,
    pub(super) affinity: Option<Affinity>,
    /// Numbers of the values of these keys.
    pub(super) values: Values,
    /// Shared with the plans of the instance.
    pub(super) methods: Arc<Mutex<Methods>>,
    /// A cache: most RPCs have the method of the RPC before.
    pub(super) last_method: (String, u32),
    pub(super) call: CurrentCall,
    pub(super) log: LogBudget,
    /// What was written to WASI's output since the last end of a line.
    pub(super) line: Vec<u8>,
    /// What it has logged as errors in the current call: the reason, if the call traps.
    pub(super) last_words: String,
    pub(super) ticking: Ticking,
}

/// Where the affinity of picks comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Affinity {
    /// Index of a declared key.
    pub(super) key: usize,
    pub(super) kind: AffinityKind,
}

/// What a pick is given of the affinity key's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AffinityKind {
    Hash,
    Number,
}

/// The longest explanation of a trap, in bytes. Some runtimes give it in several pieces.
pub(super) const LAST_WORDS: usize = 200;

impl HostState {
    pub(crate) fn new(config: InstanceConfig, ticking: Ticking) -> Self {
        let InstanceConfig {
            policy,
            seed,
            limits,
            grants,
            instruments,
            generation,
            reads_metadata,
            cut,
            silent,
        } = config;
        Self {
            watchdog: Watchdog::default(),
            memory: Memory::new(&limits),
            random: fastrand::Rng::with_seed(seed),
            in_init: false,
            acknowledged: ReadySet::default(),
            timers: Timers::default(),
            effects: Effects::default(),
            lazy: false,
            limits,
            policy,
            grants,
            instruments,
            generation,
            declared: Vec::new(),
            silent,
            reads_metadata,
            cut,
            keys: Vec::new(),
            affinity: None,
            values: Values::default(),
            methods: Arc::default(),
            last_method: (String::new(), Methods::OTHER),
            call: CurrentCall::default(),
            log: LogBudget::default(),
            line: Vec::new(),
            last_words: String::new(),
            ticking,
        }
    }

    pub(crate) fn method(&mut self, name: &str) -> u32 {
        let (last, number) = &mut self.last_method;
        if last != name {
            name.clone_into(last);
            *number = Methods::lock(&self.methods).number(name);
        }
        *number
    }

    pub(crate) const fn methods(&self) -> &Arc<Mutex<Methods>> {
        &self.methods
    }

    /// Returns whether the policy decides when to connect.
    pub(crate) const fn lazy(&self) -> bool {
        self.lazy
    }

    /// Returns the metadata keys that the policy has declared.
    pub(crate) fn keys(&self) -> &[HeaderName] {
        &self.keys
    }

    /// Returns the key that the affinity of picks is made of, and how.
    pub(crate) fn affinity_key(&self) -> Option<(&HeaderName, AffinityKind)> {
        self.affinity.and_then(|affinity| Some((self.keys.get(affinity.key)?, affinity.kind)))
    }

    /// Starts the clock of a call that may take this long.
    pub(crate) fn arm(&mut self, limit: Duration) {
        self.ticking.call();
        self.watchdog.arm(limit);
        // From an earlier call, which has survived it.
        self.memory.refused = false;
        self.last_words.clear();
    }

    /// Returns at a tick whether the call may go on.
    pub(crate) fn may_go_on(&mut self) -> bool {
        self.ticking.call();
        self.watchdog.may_go_on() && !self.cut.load(Ordering::Relaxed)
    }

    /// Returns what the policy has logged as errors in this call.
    pub(crate) fn last_words(&self) -> &str {
        &self.last_words
    }
}
