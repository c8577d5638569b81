//! Policies in WebAssembly.
//!
//! A [`WasmPolicy`] is a compiled component that fits `wit/policy.wit`. For each channel it makes one
//! instance, in a Store of its own, and asks it for every RPC. Whatever the component does (a trap, an
//! endless loop, an answer that makes no sense), the RPC in hand gets a subconn from the native round
//! robin, and the instance is replaced.

mod bindings;
mod cache;
mod check;
mod clock;
mod compiled;
mod compiler;
mod componentize;
mod conformance;
mod contract;
mod engine;
mod exports;
mod first_tries;
mod grants;
mod imports;
mod instance;
mod limits;
mod meter;
mod orca;
mod outcomes;
mod picker;
mod plan;
mod preflight;
mod record;
mod scan;
mod seal;
mod seat;
mod trial;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sha2::{Digest as _, Sha256};

use self::compiled::Compiled;
use self::first_tries::FirstTries;
use self::picker::WasmPickerBuilder;
use crate::picker::{PickerBuilder, Placement, Policy, PolicyVersion, Stage, StartError};
use crate::subconn::ReadySet;

pub use self::check::Report;
pub(crate) use self::compiler::Compiler;
pub use self::compiler::{CompileOptions, precompile};
pub use self::componentize::{CONTRACT, componentize, componentize_with};
pub use self::conformance::{Conformance, ConformanceOptions};
pub use self::grants::{Grants, OnFault};
pub use self::limits::Limits;
pub use self::meter::{Metric, MetricValue};
pub use self::record::{FaultKind, Refusal, Totals, Use};
pub(crate) use self::record::{Reading, Record};
pub(crate) use self::seal::verify;
pub use self::seal::{Seal, seal};
pub use self::trial::Trial;

/// Why bytes are not a policy, stage by stage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The name is not a policy's name.
    #[error("{0:?} is not a policy name: use a-z, 0-9, '_' and '-', at most 63, the first a letter or digit")]
    Name(String),
    /// The file could not be read.
    #[error("cannot be read: {0}")]
    Read(String),
    /// The file is larger than the limit.
    #[error("has {size} bytes, more than {limit}")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// There is so much of something in it that it would take too long to compile.
    #[error("has {count} {what}, more than {limit}")]
    TooComplex {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The settings beside the file are malformed.
    #[error("has settings that cannot be used: {0}")]
    Settings(String),
    /// The file is not the one that its settings ask for.
    #[error("has the SHA-256 {found}, but its settings ask for {wanted}")]
    Digest {
        /// The file's.
        found: String,
        /// The settings'.
        wanted: String,
    },
    /// The bytes do not begin as Wasm does.
    #[error("is not WebAssembly")]
    NotWasm,
    /// Less is there than its seal says.
    #[error("is cut short: its seal is for {sealed} bytes, of which {there} are there")]
    CutShort {
        /// Bytes that are there, after the seal.
        there: usize,
        /// Bytes that there should be.
        sealed: usize,
    },
    /// It is not what was sealed.
    #[error("does not fit its seal: it was changed after `hotpick build` made it, which can seal it again")]
    Seal,
    /// It has no seal.
    #[error("has no seal, and this host wants one: build it, or the file itself, with `hotpick build`")]
    Unsealed,
    /// A core module that does not say which world it is made for.
    #[error(
        "is a core module without a component-type section: build it with hotpick-guest or `hotpick build`"
    )]
    NoComponentType,
    /// A core module that does not fit the world that it names.
    #[error("cannot be made a component: {0}")]
    Encode(String),
    /// Wasm that does not parse, validate or compile.
    #[error("is not valid: {0}")]
    Invalid(String),
    /// It needs something that this host does not give.
    #[error("imports {0}, which this host does not provide")]
    UnknownImport(String),
    /// It needs something that its operator does not grant.
    #[error("imports the capability {0:?}, which its settings do not grant")]
    NotGranted(String),
    /// It lacks something that every policy has.
    #[error("does not export {0}: it is not a policy")]
    MissingExport(String),
    /// It was made for another version of the contract.
    #[error(
        "uses {name}, but this host speaks {spoken}.x of hotpick:policy: rebuild it with this version's SDK"
    )]
    WrongVersion {
        /// The import or export.
        name: String,
        /// The version of this host.
        spoken: &'static str,
    },
    /// An import or export has another type than in the contract.
    #[error("does not fit the contract: {0}")]
    Misfit(String),
    /// It is valid, but could not be compiled.
    #[error("cannot be compiled: {0}")]
    Compile(String),
    /// The machine, and not the file, is why it could not be compiled: it is tried again, by and by.
    #[error("cannot be compiled at this moment, and is tried again: {0}")]
    NotNow(String),
    /// No channel took it.
    #[error(transparent)]
    Refused(StartError),
}

impl PolicyError {
    /// The stage at which the policy was refused.
    #[must_use]
    pub const fn stage(&self) -> Stage {
        match self {
            Self::Name(_) | Self::Read(_) => Stage::File,
            Self::Settings(_) | Self::Digest { .. } => Stage::Settings,
            Self::TooLarge { .. } => Stage::Size,
            Self::TooComplex { .. } => Stage::Scan,
            Self::CutShort { .. }
            | Self::Encode(_)
            | Self::Invalid(_)
            | Self::NoComponentType
            | Self::NotWasm
            | Self::Seal
            | Self::Unsealed => Stage::Parse,
            Self::UnknownImport(_) | Self::MissingExport(_) | Self::WrongVersion { .. } | Self::Misfit(_) => {
                Stage::World
            }
            Self::NotGranted(_) => Stage::Grants,
            Self::Compile(_) | Self::NotNow(_) => Stage::Compile,
            Self::Refused(error) => error.stage(),
        }
    }
}

/// A policy compiled from WebAssembly, and the terms that it works on. Cheap to clone.
#[derive(Clone)]
pub struct WasmPolicy {
    compiled: Arc<Compiled>,
    terms: Arc<Terms>,
}

/// What is said of a policy, other than by itself.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) version: PolicyVersion,
    /// For channels that give none.
    pub(crate) config: Option<Arc<str>>,
    pub(crate) limits: Limits,
    pub(crate) grants: Arc<Grants>,
    pub(crate) on_fault: OnFault,
    /// How many instances each channel makes.
    pub(crate) shards: u32,
    /// The policy may plan ahead.
    pub(crate) plans: bool,
    /// Its settings do not say `enabled = false`; a directory makes nothing of those that do.
    pub(crate) enabled: bool,
    pub(crate) record: Arc<Record>,
    first_tries: Arc<FirstTries>,
}

impl Terms {
    pub(crate) fn new(version: PolicyVersion, limits: Limits) -> Self {
        let (grants, record) = (Arc::default(), Arc::default());
        Self {
            version,
            config: None,
            limits,
            grants,
            on_fault: OnFault::default(),
            shards: 1,
            plans: true,
            enabled: true,
            record,
            first_tries: Arc::default(),
        }
    }
}

impl WasmPolicy {
    /// Compiles a component, or a core module with a `component-type` section, and checks that it fits
    /// the contract. Takes tens of milliseconds of CPU, or seconds for a large one: not for a
    /// runtime's worker threads.
    ///
    /// # Errors
    ///
    /// The bytes are not a policy; the error says what they are.
    pub fn compile(name: &str, generation: u64, bytes: &[u8], limits: Limits) -> Result<Self, PolicyError> {
        let version = PolicyVersion::new(name, generation, digest(bytes));
        Self::load(bytes, Terms::new(version, limits), &compiler::alone())
    }

    /// The same on terms, and by a compiler that remembers.
    pub(crate) fn load(bytes: &[u8], terms: Terms, compiler: &Compiler) -> Result<Self, PolicyError> {
        if !is_policy_name(&terms.version.name) {
            return Err(PolicyError::Name(terms.version.name));
        }
        let compiled = Compiled::new(bytes, &terms.limits, &terms.grants, compiler)?;
        Ok(Self { compiled: Arc::new(compiled), terms: Arc::new(terms) })
    }

    /// Has the compiler remember a component, if these bytes are one.
    pub(crate) fn compile_ahead(bytes: &[u8], limits: &Limits, compiler: &Compiler) {
        // What is wrong with them is said when they are loaded.
        drop(Compiled::new(bytes, limits, &Grants::default(), compiler));
    }

    /// The same policy, with a configuration (JSON) for channels that give it none of their own.
    #[must_use]
    pub fn with_config(self, config: impl Into<Arc<str>>) -> Self {
        let terms = Terms { config: Some(config.into()), ..Terms::clone(&self.terms) };
        Self { terms: Arc::new(terms), ..self }
    }

    /// The same policy, whose plans are used or not. They are, as a rule; without them it is called for
    /// each RPC.
    #[must_use]
    pub fn with_plans(self, plans: bool) -> Self {
        let terms = Terms { plans, ..Terms::clone(&self.terms) };
        Self { terms: Arc::new(terms), ..self }
    }

    /// The same policy, of which each channel makes so many instances; at least one. One is exact; more are for
    /// channels that pick more often than one instance can, a few million times a second.
    #[must_use]
    pub fn with_shards(self, shards: u32) -> Self {
        let terms = Terms { shards: shards.max(1), ..Terms::clone(&self.terms) };
        Self { terms: Arc::new(terms), ..self }
    }

    /// What becomes of the RPC in hand when it fails.
    pub(crate) fn on_fault(&self) -> OnFault {
        self.terms.on_fault
    }

    /// The same policy in another generation.
    pub(crate) fn renumbered(&self, generation: u64) -> Self {
        let mut terms = Terms::clone(&self.terms);
        terms.version.generation = generation;
        Self { terms: Arc::new(terms), ..self.clone() }
    }

    /// The interfaces of the contract that the policy imports: what it may ask of the host. `wasi` stands
    /// for all of WASI.
    #[must_use]
    pub fn imports(&self) -> &[String] {
        &self.compiled.shape.capabilities
    }

    /// The optional interfaces of the contract that the policy exports.
    #[must_use]
    pub fn optional_parts(&self) -> &[String] {
        &self.compiled.shape.optional
    }

    /// What its builder says of its file, if it does.
    #[must_use]
    pub fn seal(&self) -> Option<&Seal> {
        self.compiled.seal.as_ref()
    }

    /// What the policy exports beside: nobody calls it.
    #[must_use]
    pub fn ignored_exports(&self) -> &[String] {
        &self.compiled.shape.ignored
    }
}

impl Policy for WasmPolicy {
    fn version(&self) -> PolicyVersion {
        self.terms.version.clone()
    }

    fn start(&self, placement: &Placement, ready: &ReadySet) -> Result<Box<dyn PickerBuilder>, StartError> {
        let placement = self.placement(placement);
        let version = &self.terms.version;
        let _trying = self.terms.record.trying(version.generation);
        let start = || {
            WasmPickerBuilder::start(self, &placement, ready)
                .map(|builder| Box::new(builder) as Box<dyn PickerBuilder>)
                .map_err(|error| {
                    let (stage, said) = (error.stage(), format!("policy {version} {error}"));
                    // What it would have come to, had it been wanted, nobody knows.
                    let is_cut = placement.cut.load(Ordering::Relaxed);
                    if error.is_passing() || is_cut {
                        StartError::passing(stage, said)
                    } else {
                        StartError::at(stage, said)
                    }
                })
        };
        self.terms.first_tries.start(&placement.config, start).inspect_err(|error| {
            if !error.is_passing() {
                self.terms.record.refused(&placement.target, version.generation, error.clone());
            }
        })
    }
}

impl WasmPolicy {
    /// With the configuration that counts, and the number of instances, which some refuse.
    fn placement(&self, placement: &Placement) -> Placement {
        let mut placement = placement.clone();
        placement.shard.count = self.terms.shards;
        if let (Some(config), "{}") = (&self.terms.config, placement.config.as_str()) {
            placement.config = config.to_string();
        }
        placement
    }
}

impl fmt::Debug for WasmPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WasmPolicy({})", self.terms.version)
    }
}

/// Whether a policy can have this name: `[a-z0-9][a-z0-9_-]{0,62}`.
#[must_use]
pub fn is_policy_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=63).contains(&name.len())
        && name.starts_with(plain)
        && name.chars().all(|c| plain(c) || c == '_' || c == '-')
}

/// SHA-256, in hexadecimal.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
