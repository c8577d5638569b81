//! State of the host for one instance.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::HeaderName;

use super::current_call::CurrentCall;
use super::effects::Effects;
use super::log_budget::LogBudget;
use super::numbers::{Methods, Values};
use super::tape::Tape;
use super::timer_set::Timers;
use crate::policy::compile::Grants;
use crate::policy::instance::clock::{Ticking, Watchdog};
use crate::policy::instance::memory::Memory;
use crate::policy::judge::{Instrument, Instruments};
use crate::policy::limits::Limits;
use crate::subconn::ReadySet;
use crate::trace::{LastValues, Recorder};

/// Parameters for the creation of an instance.
pub(crate) struct InstanceConfig {
    pub(crate) policy: String,
    pub(crate) seed: u64,
    pub(crate) limits: Limits,
    pub(crate) grants: Arc<Grants>,
    pub(crate) instruments: Arc<Instruments>,
    pub(crate) generation: u64,
    /// Whether the policy can read values of metadata, not only the hash of one.
    pub(crate) reads_metadata: bool,
    /// Set when its start is no longer wanted.
    pub(crate) cut: Arc<AtomicBool>,
    /// Whether log lines are discarded, as in a rehearsal.
    pub(crate) silent: bool,
    pub(crate) tape: Tape,
    pub(crate) recorder: Option<Arc<Recorder>>,
}

/// State that the host keeps for one instance.
pub(crate) struct HostState {
    pub(crate) watchdog: Watchdog,
    pub(crate) memory: Memory,
    pub(crate) random: fastrand::Rng,
    /// Whether `init` is running. Declarations are accepted only then.
    pub(crate) in_init: bool,
    /// The snapshot that the policy was last notified of. Subconn numbers are looked up in it.
    pub(crate) acknowledged: ReadySet,
    pub(crate) timers: Timers,
    pub(crate) tape: Tape,
    /// Records the calls, while the tape records what is asked in them.
    pub(crate) recorder: Option<Arc<Recorder>>,
    /// Values of the declared keys, as they were last recorded.
    pub(crate) recorded_values: LastValues,
    pub(crate) effects: Effects,
    /// Whether the policy decides when to connect.
    pub(super) lazy: bool,
    pub(super) limits: Limits,
    pub(super) policy: String,
    pub(super) grants: Arc<Grants>,
    pub(super) instruments: Arc<Instruments>,
    pub(super) generation: u64,
    pub(super) declared: Vec<Arc<Instrument>>,
    pub(super) silent: bool,
    pub(crate) reads_metadata: bool,
    pub(super) cut: Arc<AtomicBool>,
    pub(crate) keys: Vec<HeaderName>,
    pub(super) affinity: Option<Affinity>,
    /// Numbers of the values of the declared keys.
    pub(super) values: Values,
    /// Shared with the plans of the instance.
    pub(crate) methods: Arc<Mutex<Methods>>,
    /// A cache: most RPCs have the method of the previous RPC.
    pub(super) last_method: (String, u32),
    pub(crate) call: CurrentCall,
    pub(super) log: LogBudget,
    /// Bytes written to WASI output since the last end of a line.
    pub(super) line: Vec<u8>,
    /// Errors that the policy has logged in the current call. They are the reason if the call traps.
    pub(super) last_words: String,
    pub(super) ticking: Ticking,
}

/// Source of the affinity of picks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Affinity {
    /// Index of a declared key.
    pub(super) key: usize,
    pub(super) kind: AffinityKind,
}

/// Form in which a pick receives the affinity key's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AffinityKind {
    Hash,
    Number,
}

/// Maximum length of the explanation of a trap (bytes). Some runtimes log it in several pieces.
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
            tape,
            recorder,
        } = config;
        Self {
            watchdog: Watchdog::default(),
            memory: Memory::new(&limits),
            random: fastrand::Rng::with_seed(seed),
            in_init: false,
            acknowledged: ReadySet::default(),
            timers: Timers::default(),
            tape,
            recorder,
            recorded_values: LastValues::default(),
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

    /// Returns the key of the affinity of picks, and the kind of the affinity.
    pub(crate) fn affinity_key(&self) -> Option<(&HeaderName, AffinityKind)> {
        self.affinity.and_then(|affinity| Some((self.keys.get(affinity.key)?, affinity.kind)))
    }

    /// Starts to measure a call that may take this long.
    pub(crate) fn arm(&mut self, limit: Duration) {
        self.ticking.call();
        self.watchdog.arm(limit);
        // Set by an earlier call that survived the refusal.
        self.memory.refused = false;
        self.last_words.clear();
    }

    /// Returns, at a tick, whether the call may continue.
    pub(crate) fn may_go_on(&mut self) -> bool {
        self.ticking.call();
        self.watchdog.may_go_on() && !self.cut.load(Ordering::Relaxed)
    }

    /// Returns the errors that the policy has logged in this call.
    pub(crate) fn last_words(&self) -> &str {
        &self.last_words
    }
}
