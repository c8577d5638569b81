//! What a policy may call: the `env` and `call` interfaces, and the state behind them.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use http::{HeaderName, HeaderValue};
use tokio::time::Instant;
use twox_hash::XxHash64;
use wasmtime::component::{HasSelf, Linker};

use super::bindings::hotpick::policy::{call, env, types};
use super::clock::{Ticking, Watchdog};
use super::limits::{Limits, Memory};
use crate::picker::PickInfo;

/// All of [`contract::PROVIDED`](super::contract::PROVIDED).
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    env::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    call::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    Ok(())
}

/// What the host keeps for one instance.
pub(super) struct State {
    pub(super) watchdog: Watchdog,
    pub(super) memory: Memory,
    pub(super) random: fastrand::Rng,
    /// Declarations are taken only while `init` runs.
    pub(super) in_init: bool,
    limits: Limits,
    policy: String,
    keys: Vec<HeaderName>,
    affinity: Option<usize>,
    methods: Methods,
    call: CurrentCall,
    log: LogBudget,
    _ticking: Ticking,
}

/// The RPC being picked. Empty between picks.
#[derive(Default)]
struct CurrentCall {
    active: bool,
    /// Key and value, for each value of a declared key. The values are shared with the request.
    metadata: Vec<(usize, HeaderValue)>,
    tried: Vec<u32>,
    deadline: Option<Instant>,
    explanation: Option<String>,
    added: Vec<(HeaderName, HeaderValue)>,
}

/// What a pick left behind.
pub(super) struct Leavings {
    pub(super) explanation: Option<String>,
    pub(super) added: Vec<(HeaderName, HeaderValue)>,
}

impl State {
    pub(super) fn new(policy: String, seed: u64, limits: Limits, ticking: Ticking) -> Self {
        Self {
            watchdog: Watchdog::default(),
            memory: Memory::new(&limits),
            random: fastrand::Rng::with_seed(seed),
            in_init: false,
            limits,
            policy,
            keys: Vec::new(),
            affinity: None,
            methods: Methods::default(),
            call: CurrentCall::default(),
            log: LogBudget::default(),
            _ticking: ticking,
        }
    }

    /// A pick begins: keeps of the RPC what the policy declared that it reads.
    pub(super) fn begin(&mut self, info: &PickInfo<'_>) {
        let call = &mut self.call;
        call.active = true;
        for (index, key) in self.keys.iter().enumerate() {
            call.metadata.extend(info.metadata.get_all(key).iter().map(|value| (index, value.clone())));
        }
        call.tried.extend_from_slice(info.tried);
        call.deadline = info.deadline;
    }

    /// The pick is over, and with it all that the policy may know of the RPC.
    pub(super) fn end(&mut self) -> Leavings {
        let call = &mut self.call;
        call.active = false;
        call.metadata.clear();
        call.tried.clear();
        Leavings { explanation: call.explanation.take(), added: std::mem::take(&mut call.added) }
    }

    pub(super) fn method(&mut self, name: &str) -> u32 {
        self.methods.number(name)
    }

    /// The hash of the declared affinity key's value, if the RPC has one.
    pub(super) fn affinity(&self) -> Option<u64> {
        self.affinity.and_then(|key| self.call.first(key)).map(hash)
    }
}

impl CurrentCall {
    fn values(&self, key: usize) -> impl Iterator<Item = &HeaderValue> {
        self.metadata.iter().filter(move |(index, _)| *index == key).map(|(_, value)| value)
    }

    fn first(&self, key: usize) -> Option<&HeaderValue> {
        self.values(key).next()
    }
}

fn hash(value: &HeaderValue) -> u64 {
    XxHash64::oneshot(0, value.as_bytes())
}

/// Nanoseconds since an arbitrary moment.
pub(super) fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    nanos(START.elapsed())
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Texts of a policy that go to logs and statuses: bounded, and on one line.
pub(super) fn clip(text: &str, limit: usize) -> String {
    let end = text.floor_char_boundary(limit);
    text[..end].replace(['\n', '\r'], " ")
}

/// Numbers for method names. Callers may make names up (a proxy's can), so there are only so many.
#[derive(Default)]
struct Methods {
    numbers: HashMap<String, u32>,
    names: Vec<String>,
}

impl Methods {
    const MOST: usize = 4096;
    /// Stands for every method beyond the most.
    const OTHER: u32 = u32::MAX;

    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        if self.names.len() == Self::MOST {
            return Self::OTHER;
        }
        let number = u32::try_from(self.names.len()).unwrap_or(Self::OTHER);
        self.names.push(name.to_owned());
        self.numbers.insert(name.to_owned(), number);
        number
    }

    fn name(&self, number: u32) -> String {
        usize::try_from(number).ok().and_then(|at| self.names.get(at)).cloned().unwrap_or_default()
    }
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
        self.methods.name(id)
    }

    fn now(&mut self) -> u64 {
        now()
    }

    fn random(&mut self) -> u64 {
        self.random.u64(..)
    }

    fn log(&mut self, level: env::Level, message: String) {
        if !self.level_enabled(level) || !self.log.take(self.limits.log_lines) {
            return;
        }
        let (policy, message) = (&self.policy, clip(&message, self.limits.log_line));
        match level {
            env::Level::Trace => tracing::trace!(target: "hotpick::policy::log", policy, "{message}"),
            env::Level::Debug => tracing::debug!(target: "hotpick::policy::log", policy, "{message}"),
            env::Level::Info => tracing::info!(target: "hotpick::policy::log", policy, "{message}"),
            env::Level::Warn => tracing::warn!(target: "hotpick::policy::log", policy, "{message}"),
            env::Level::Error => tracing::error!(target: "hotpick::policy::log", policy, "{message}"),
        }
    }

    fn level_enabled(&mut self, level: env::Level) -> bool {
        match level {
            env::Level::Trace => tracing::enabled!(target: "hotpick::policy::log", tracing::Level::TRACE),
            env::Level::Debug => tracing::enabled!(target: "hotpick::policy::log", tracing::Level::DEBUG),
            env::Level::Info => tracing::enabled!(target: "hotpick::policy::log", tracing::Level::INFO),
            env::Level::Warn => tracing::enabled!(target: "hotpick::policy::log", tracing::Level::WARN),
            env::Level::Error => tracing::enabled!(target: "hotpick::policy::log", tracing::Level::ERROR),
        }
    }
}

impl call::Host for State {
    fn declare_metadata(&mut self, key: String) -> Result<u32, String> {
        if !self.in_init {
            return Err("metadata keys are declared in init".to_owned());
        }
        let name = header_name(&key)?;
        let index = match self.keys.iter().position(|known| *known == name) {
            Some(index) => index,
            None if self.keys.len() == self.limits.metadata_keys => {
                return Err(format!("at most {} metadata keys", self.limits.metadata_keys));
            }
            None => {
                self.keys.push(name);
                self.keys.len() - 1
            }
        };
        u32::try_from(index).map_err(|error| error.to_string())
    }

    fn declare_affinity(&mut self, key: u32) -> Result<(), String> {
        if !self.in_init {
            return Err("the affinity key is declared in init".to_owned());
        }
        let key = key as usize;
        if key >= self.keys.len() {
            return Err(format!("{key} is not a declared metadata key"));
        }
        self.affinity = Some(key);
        Ok(())
    }

    fn metadata(&mut self, key: u32) -> Option<String> {
        let value = self.call.first(key as usize)?;
        value.to_str().ok().filter(|text| text.len() <= self.limits.metadata_value).map(str::to_owned)
    }

    fn metadata_all(&mut self, key: u32) -> Vec<Vec<u8>> {
        let binary = self.keys.get(key as usize).is_some_and(is_binary);
        let fits = |bytes: &Vec<u8>| bytes.len() <= self.limits.metadata_value;
        let decode = |value: &HeaderValue| {
            if binary { BASE64.decode(value.as_bytes()).ok() } else { Some(value.as_bytes().to_vec()) }
        };
        self.call.values(key as usize).filter_map(decode).filter(fits).collect()
    }

    fn metadata_hash(&mut self, key: u32) -> Option<u64> {
        self.call.first(key as usize).map(hash)
    }

    fn set_metadata(&mut self, key: String, value: Vec<u8>) -> Result<(), String> {
        if !self.call.active {
            return Err("metadata is set in pick".to_owned());
        }
        let name = header_name(&key)?;
        if is_reserved(&name) {
            return Err(format!("metadata key {key:?} is gRPC's own"));
        }
        if value.len() > self.limits.metadata_value {
            return Err(format!("a value of more than {} bytes", self.limits.metadata_value));
        }
        if self.call.added.len() == self.limits.metadata_keys {
            return Err(format!("at most {} metadata keys", self.limits.metadata_keys));
        }
        let value = if is_binary(&name) { BASE64.encode(value).into_bytes() } else { value };
        let value = HeaderValue::from_bytes(&value)
            .map_err(|_| format!("metadata {key:?} has a value that no header may have"))?;
        self.call.added.push((name, value));
        Ok(())
    }

    fn tried(&mut self, id: u32) -> bool {
        self.call.tried.contains(&id)
    }

    fn time_left(&mut self) -> Option<u64> {
        let deadline = self.call.deadline.filter(|_| self.call.active)?;
        Some(nanos(deadline.saturating_duration_since(Instant::now())))
    }

    fn explain(&mut self, message: String) {
        if self.call.active {
            self.call.explanation = Some(clip(&message, self.limits.log_line));
        }
    }
}

/// `-bin` values, with or without padding, as gRPC takes them.
const BASE64: base64::engine::GeneralPurpose = base64::engine::GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    base64::engine::GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
);

fn header_name(key: &str) -> Result<HeaderName, String> {
    HeaderName::from_lowercase(key.as_bytes())
        .map_err(|_| format!("{key:?} is not a metadata key: use a-z, 0-9, '-', '_' and '.'"))
}

fn is_binary(name: &HeaderName) -> bool {
    name.as_str().ends_with("-bin")
}

/// Headers that make a request what it is.
fn is_reserved(name: &HeaderName) -> bool {
    let hop_by_hop =
        ["te", "content-type", "content-length", "host", "connection", "transfer-encoding", "upgrade"];
    name.as_str().starts_with("grpc-") || hop_by_hop.contains(&name.as_str())
}
