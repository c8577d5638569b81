//! What a policy may call: a file for each interface of the contract, and the state behind them.

mod call;
mod connections;
mod metrics;
mod numbers;
mod stats;
mod timers;
mod wasi;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use http::HeaderName;
use tokio::time::Instant;
use wasmtime::component::{HasSelf, Linker};

use self::call::CurrentCall;
use self::numbers::Values;
use self::timers::Timers;
use super::bindings::hotpick::policy::types;
use super::bindings::hotpick::policy::{
    call as call_bindings, connections as connections_bindings, env, metrics as metrics_bindings,
    stats as stats_bindings, timers as timers_bindings,
};
use super::clock::{Ticking, Watchdog};
use super::grants::Grants;
use super::limits::{Limits, Memory};
use super::meter::{Instrument, Meter};
use crate::subconn::ReadySet;
use crate::text::clip;

pub(super) use self::call::{BASE64, affinity};
pub(super) use self::connections::Wishes;
pub(super) use self::numbers::Methods;
pub(super) use self::wasi::provide as provide_wasi;

/// Everything that the contract has to import.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    env::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    stats_bindings::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    call_bindings::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    metrics_bindings::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    timers_bindings::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    connections_bindings::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    Ok(())
}

/// What an instance is made with.
pub(super) struct Fittings {
    pub(super) policy: String,
    pub(super) seed: u64,
    pub(super) limits: Limits,
    pub(super) grants: Arc<Grants>,
    pub(super) meter: Arc<Meter>,
    pub(super) generation: u64,
    /// The policy can ask for values of metadata, not only for the hash of one.
    pub(super) reads_metadata: bool,
    /// Its start is not wanted any more.
    pub(super) cut: Arc<AtomicBool>,
    /// An instance that is only tried out: what it logs goes nowhere.
    pub(super) silent: bool,
}

/// What the host keeps for one instance.
pub(super) struct State {
    pub(super) watchdog: Watchdog,
    pub(super) memory: Memory,
    pub(super) random: fastrand::Rng,
    /// Declarations are taken only while `init` runs.
    pub(super) in_init: bool,
    /// What the policy was last told. Numbers mean what they mean here.
    pub(super) told: ReadySet,
    pub(super) timers: Timers,
    pub(super) wishes: Wishes,
    /// The policy decides when to connect.
    pub(super) lazy: bool,
    limits: Limits,
    policy: String,
    grants: Arc<Grants>,
    meter: Arc<Meter>,
    generation: u64,
    instruments: Vec<Arc<Instrument>>,
    silent: bool,
    reads_metadata: bool,
    cut: Arc<AtomicBool>,
    keys: Vec<HeaderName>,
    affinity: Option<Affinity>,
    /// Of the values of those keys.
    values: Values,
    /// Shared with the plans of the instance.
    methods: Arc<Mutex<Methods>>,
    /// As a rule an RPC is like the one before it.
    last_method: (String, u32),
    call: CurrentCall,
    log: LogBudget,
    /// What was written to WASI's output since the last end of a line.
    line: Vec<u8>,
    /// What it has logged as errors in the call under way: if it ends in a trap, why.
    last_words: String,
    ticking: Ticking,
}

/// Where the affinity of picks comes from.
#[derive(Clone, Copy, Debug)]
struct Affinity {
    /// A declared key.
    key: usize,
    kind: AffinityKind,
}

/// What picks are given of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AffinityKind {
    Hash,
    Number,
}

/// The longest explanation of a trap, in bytes. Some runtimes give it in several pieces.
const LAST_WORDS: usize = 200;

impl State {
    pub(super) fn new(fittings: Fittings, ticking: Ticking) -> Self {
        let Fittings { policy, seed, limits, grants, meter, generation, reads_metadata, cut, silent } =
            fittings;
        Self {
            watchdog: Watchdog::default(),
            memory: Memory::new(&limits),
            random: fastrand::Rng::with_seed(seed),
            in_init: false,
            told: ReadySet::default(),
            timers: Timers::default(),
            wishes: Wishes::default(),
            lazy: false,
            limits,
            policy,
            grants,
            meter,
            generation,
            instruments: Vec::new(),
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

    pub(super) fn method(&mut self, name: &str) -> u32 {
        let (last, number) = &mut self.last_method;
        if last != name {
            name.clone_into(last);
            *number = Methods::lock(&self.methods).number(name);
        }
        *number
    }

    pub(super) const fn methods(&self) -> &Arc<Mutex<Methods>> {
        &self.methods
    }

    /// The metadata keys that the policy has declared.
    pub(super) fn keys(&self) -> &[HeaderName] {
        &self.keys
    }

    /// The declared key that the affinity of picks is of, and what it is of that key's value.
    pub(super) fn affinity_key(&self) -> Option<(&HeaderName, AffinityKind)> {
        self.affinity.and_then(|affinity| Some((self.keys.get(affinity.key)?, affinity.kind)))
    }

    /// A call into the policy begins, which may take so long.
    pub(super) fn arm(&mut self, limit: Duration) {
        self.ticking.call();
        self.watchdog.arm(limit);
        // Of an earlier call, which has done without.
        self.memory.refused = false;
        self.last_words.clear();
    }

    /// A tick: whether the call may go on.
    pub(super) fn look(&mut self) -> bool {
        self.ticking.call();
        self.watchdog.look() && !self.cut.load(Ordering::Relaxed)
    }

    /// What the policy has logged as errors in this call.
    pub(super) fn last_words(&self) -> &str {
        &self.last_words
    }

    fn write(&mut self, level: env::Level, message: &str) {
        if matches!(level, env::Level::Error) {
            let left = LAST_WORDS.saturating_sub(self.last_words.len());
            self.last_words.push_str(&clip(message, left));
        }
        if self.silent || !self.log.take(self.limits.log_lines) {
            return;
        }
        let (policy, message) = (&self.policy, clip(message, self.limits.log_line));
        match level {
            env::Level::Trace => tracing::trace!(target: "hotpick::policy::log", policy, "{message}"),
            env::Level::Debug => tracing::debug!(target: "hotpick::policy::log", policy, "{message}"),
            env::Level::Info => tracing::info!(target: "hotpick::policy::log", policy, "{message}"),
            env::Level::Warn => tracing::warn!(target: "hotpick::policy::log", policy, "{message}"),
            env::Level::Error => tracing::error!(target: "hotpick::policy::log", policy, "{message}"),
        }
    }
}

/// Nanoseconds since an arbitrary moment.
pub(super) fn now() -> u64 {
    time(Instant::now())
}

/// A moment in the policies' time.
pub(super) fn time(moment: Instant) -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    // Not from zero: a policy may look some time back without minding that it cannot.
    const HEAD_START: u64 = 3_600_000_000_000;
    HEAD_START + nanos(moment.saturating_duration_since(*START))
}

pub(super) fn nanos(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(duration.subsec_nanos()))
}

/// How many lines an instance may still log in this second.
struct LogBudget {
    second: u64,
    left: u32,
}

impl Default for LogBudget {
    fn default() -> Self {
        Self { second: u64::MAX, left: 0 }
    }
}

impl LogBudget {
    fn take(&mut self, per_second: u32) -> bool {
        let second = now() / 1_000_000_000;
        if self.second != second {
            *self = Self { second, left: per_second };
        }
        let granted = self.left > 0;
        self.left = self.left.saturating_sub(1);
        granted
    }
}

impl types::Host for State {}

impl env::Host for State {
    fn method_name(&mut self, id: u32) -> String {
        Methods::lock(&self.methods).name(id)
    }

    fn now(&mut self) -> u64 {
        now()
    }

    fn random(&mut self) -> u64 {
        self.random.u64(..)
    }

    fn log(&mut self, level: env::Level, message: String) {
        if self.level_enabled(level) {
            self.write(level, &message);
        }
    }

    fn level_enabled(&mut self, level: env::Level) -> bool {
        match level {
            env::Level::Trace => tracing::enabled!(target: "hotpick::policy::log", tracing::Level::TRACE),
            env::Level::Debug => tracing::enabled!(target: "hotpick::policy::log", tracing::Level::DEBUG),
            env::Level::Info => tracing::enabled!(target: "hotpick::policy::log", tracing::Level::INFO),
            env::Level::Warn => tracing::enabled!(target: "hotpick::policy::log", tracing::Level::WARN),
            // Whoever logs: a fault says it, too.
            env::Level::Error => true,
        }
    }
}
