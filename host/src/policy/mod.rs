//! Policies in WebAssembly, and the interface between channels and policies.
//!
//! A [`WasmPolicy`] is a compiled component that fits `wit/policy.wit`. For each channel it creates one
//! instance, in a Store of its own, and calls it for each RPC. Whatever the component does (a trap, an
//! endless loop, an invalid answer), the current RPC gets a subconn from the native round
//! robin, and the instance is replaced.
//!
//! | module | owns | answers |
//! |---|---|---|
//! | `compile` | bytes to code | may these bytes become code? |
//! | `instance` | one Store | what did the guest answer, within which bounds? |
//! | `serve` | one channel | who picks now, and what follows a fault? |
//! | `judge` | all channels | is this version good enough? |
//! | `rollout` | all channels | is a new version as good as the active one? |
//! | `exercise` | no channel | does the policy conform? |
//!
//! The path of a fault: `instance` reports it, the slot in `serve` handles it (fallback now, replacement later),
//! `judge` counts it, and the [directory](crate::directory) requests the verdict of `judge`.

mod compile;
#[cfg(feature = "testing")]
mod exercise;
mod instance;
mod judge;
mod limits;
mod rollout;
mod serve;
mod spec;
mod wasm_policy;

#[cfg(all(feature = "compile", feature = "testing"))]
#[doc(hidden)]
pub use self::compile::forwarded;
pub use self::compile::{CONTRACT, CompileOptions, Grants, PolicyError, Seal, digest, seal};
pub(crate) use self::compile::{Compiler, verify};
#[cfg(feature = "compile")]
pub use self::compile::{componentize, componentize_with, precompile};
#[cfg(feature = "testing")]
pub use self::exercise::{
    Conformance, ConformanceOptions, Difference, ReplayError, Replayed, Report, SimulatedChannel,
    SimulatedPick, SimulatedRpc, TestChannel, replay,
};
pub use self::judge::{ChannelUsage, FaultKind, Metric, MetricValue, PolicyTotals, Refusal};
pub(crate) use self::judge::{MetricsSnapshot, PolicyMetrics};
pub use self::limits::Limits;
pub(crate) use self::rollout::{Decision, RolloutMachine, Seen, Split};
pub use self::rollout::{
    Reading, RolloutCommand, RolloutEvent, RolloutMode, RolloutPhase, RolloutSettings, SideReading, Verdict,
};
pub use self::spec::OnFault;
pub(crate) use self::spec::PolicySpec;
pub use self::wasm_policy::WasmPolicy;
pub use crate::lifecycle::{
    Handover, PickAgain, PickerBuilder, Placement, Policy, PolicyVersion, RoundRobin, SavedState, Stage,
    StartError, is_policy_name,
};
