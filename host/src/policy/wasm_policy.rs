//! A policy in WebAssembly, shared by channels.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::compile::{Code, Compiler, Grants, PolicyError, Seal, digest};
use super::instance::{Linked, Program};
use super::judge::PolicyMetrics;
use super::limits::Limits;
use super::serve::{FirstStarts, WasmPickerBuilder};
use super::spec::{OnFault, PolicySpec};
use crate::lifecycle::{PickerBuilder, Placement, Policy, PolicyVersion, StartError, is_policy_name};
use crate::subconn::ReadySet;
use crate::trace::{self, RecordOptions, TraceStream};

/// A policy compiled from WebAssembly, and how it is run. Cheap to clone.
#[derive(Clone)]
pub struct WasmPolicy {
    program: Program,
    first_starts: Arc<FirstStarts>,
}

impl WasmPolicy {
    /// Compiles a component, or a core module with a `component-type` section, and checks that it fits
    /// the contract. Takes tens of milliseconds of CPU time, or seconds for a large component: not for a
    /// runtime's worker threads.
    ///
    /// # Errors
    ///
    /// If the bytes are not a policy. The error says why.
    pub fn compile(name: &str, generation: u64, bytes: &[u8], limits: Limits) -> Result<Self, PolicyError> {
        let version = PolicyVersion::new(name, generation, digest(bytes));
        let spec = PolicySpec::new(version, limits);
        Self::load(bytes, spec, Arc::default(), &Compiler::default())
    }

    /// Like [`compile`](Self::compile), with the settings of an operator and a compiler with a cache.
    pub(crate) fn load(
        bytes: &[u8],
        spec: PolicySpec,
        metrics: Arc<PolicyMetrics>,
        compiler: &Compiler,
    ) -> Result<Self, PolicyError> {
        if !is_policy_name(&spec.version.name) {
            return Err(PolicyError::Name(spec.version.name));
        }
        let code = Code::compile(bytes, &spec.limits, &spec.grants, compiler)?;
        let linked = Arc::new(Linked::new(code)?);
        let program = Program { linked, spec: Arc::new(spec), metrics };
        Ok(Self { program, first_starts: Arc::default() })
    }

    /// Fills the compiler's cache, if these bytes are a component.
    pub(crate) fn compile_ahead(bytes: &[u8], limits: &Limits, compiler: &Compiler) {
        // Errors are reported when the component is loaded.
        drop(Code::compile(bytes, limits, &Grants::default(), compiler));
    }

    /// Sets the configuration (JSON) for channels that pass none.
    #[must_use]
    pub fn with_config(self, config: impl Into<Arc<str>>) -> Self {
        self.with_spec(|spec| spec.config = Some(config.into()))
    }

    /// Sets whether the policy's plans are used (default: `true`). Without plans the policy is called for each RPC.
    #[must_use]
    pub fn with_plans(self, plans: bool) -> Self {
        self.with_spec(|spec| spec.plans = plans)
    }

    /// Sets the number of instances in each channel, at least 1. A single instance distributes RPCs exactly. More are
    /// for channels that pick more often than one instance can: a few million times per second.
    #[must_use]
    pub fn with_shards(self, shards: u32) -> Self {
        self.with_spec(|spec| spec.shards = shards.max(1))
    }

    /// Sets the generation of the version.
    pub(crate) fn with_generation(self, generation: u64) -> Self {
        self.with_spec(|spec| spec.version.generation = generation)
    }

    /// Returns the policy without recordings to files: what tools do with it must not be among those of production.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn unrecorded(self) -> Self {
        self.with_spec(|spec| spec.record = None)
    }

    /// Multiplies the limits of CPU time, for runs that do not test how fast the policy is.
    #[cfg(feature = "testing")]
    pub(super) fn with_more_time(self, factor: u32) -> Self {
        self.with_spec(|spec| {
            let limits = &mut spec.limits;
            let all = [
                &mut limits.pick,
                &mut limits.update,
                &mut limits.update_each,
                &mut limits.init,
                &mut limits.save,
            ];
            all.into_iter().for_each(|limit| *limit *= factor);
        })
    }

    fn with_spec(mut self, change: impl FnOnce(&mut PolicySpec)) -> Self {
        change(Arc::make_mut(&mut self.program.spec));
        self
    }

    /// Returns the number of faults within a minute that are too many.
    pub(crate) fn most_faults(&self) -> u64 {
        self.program.spec.limits.faults as u64
    }

    /// Returns what happens to RPCs whose pick fails because of a fault.
    pub(crate) fn on_fault(&self) -> OnFault {
        self.program.spec.on_fault
    }

    #[cfg(feature = "testing")]
    pub(super) fn program(&self) -> &Program {
        &self.program
    }

    /// Records the policy: the next instance that starts in a channel which uses it, and for which one is started at
    /// once. `None`: eight requests wait for channels already.
    #[must_use]
    pub fn record(&self, options: &RecordOptions) -> Option<TraceStream> {
        trace::request(&self.program.metrics.recordings, options)
    }

    /// Returns the interfaces of the contract that the policy imports. `wasi` stands for all of WASI.
    #[must_use]
    pub fn imports(&self) -> &[String] {
        &self.program.linked.code.shape.capabilities
    }

    /// Returns the optional interfaces of the contract that the policy exports.
    #[must_use]
    pub fn optional_parts(&self) -> &[String] {
        &self.program.linked.code.shape.optional
    }

    /// Returns the seal of the policy's file. `None`: the file has no seal.
    #[must_use]
    pub fn seal(&self) -> Option<&Seal> {
        self.program.linked.code.seal.as_ref()
    }

    /// Returns the exports that are not in the contract. The host ignores them.
    #[must_use]
    pub fn ignored_exports(&self) -> &[String] {
        &self.program.linked.code.shape.ignored
    }

    /// Completes a placement with the default configuration, and with the number of instances, which a policy may
    /// refuse.
    pub(super) fn placement(&self, placement: &Placement) -> Placement {
        let spec = &self.program.spec;
        let mut placement = placement.clone();
        placement.shard.count = spec.shards;
        if let (Some(config), "{}") = (&spec.config, placement.config.as_str()) {
            placement.config = config.to_string();
        }
        placement
    }
}

impl Policy for WasmPolicy {
    fn version(&self) -> PolicyVersion {
        self.program.spec.version.clone()
    }

    fn start(&self, placement: &Placement, ready: &ReadySet) -> Result<Box<dyn PickerBuilder>, StartError> {
        let placement = self.placement(placement);
        let Program { spec, metrics, .. } = &self.program;
        let version = &spec.version;
        let _trying = metrics.try_version(version.generation);
        let start = || {
            WasmPickerBuilder::start(&self.program, &placement, ready)
                .map(|builder| Box::new(builder) as Box<dyn PickerBuilder>)
                .map_err(|error| {
                    let (stage, sentence) = (error.stage(), format!("policy {version} {error}"));
                    // The result of a start that was cut is unknown.
                    let is_cut = placement.cut.load(Ordering::Relaxed);
                    if error.is_transient() || is_cut {
                        StartError::transient(stage, sentence)
                    } else if error.is_refusal() {
                        StartError::refusal(sentence)
                    } else {
                        StartError::at(stage, sentence)
                    }
                })
        };
        self.first_starts.start(&placement.config, start).inspect_err(|error| {
            if !error.is_transient() {
                metrics.refused(&placement.target, version.generation, error.clone());
            }
        })
    }
}

impl fmt::Debug for WasmPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WasmPolicy({})", self.program.spec.version)
    }
}
