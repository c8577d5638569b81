//! Options of a policy directory.

use std::time::Duration;

use crate::policy::{CompileOptions, Limits, PolicyError, WasmPolicy};
use crate::setters::setters;
use crate::trace::RecordSettings;

/// Options of a policy directory.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PolicyDirOptions {
    /// How long a file must stay unchanged before it is read.
    pub quiet: Duration,
    /// Interval of scans when there are no events. Some changes cause no events.
    pub scan: Duration,
    /// The limits of each policy, unless its settings say otherwise.
    pub limits: Limits,
    /// Values to which the settings of a policy may raise its limits.
    pub caps: Limits,
    /// Options of compilation.
    pub compile: CompileOptions,
    /// Whether to reject files without a [seal](crate::policy::Seal), which may be incomplete.
    pub require_seal: bool,
    /// How policies are recorded whose settings do not say it. `None`: only on request. Settings that cannot be used
    /// (a share of 0, for example) have all policies rejected.
    pub record: Option<RecordSettings>,
}

setters!(PolicyDirOptions {
    with_quiet: quiet: Duration,
    with_scan: scan: Duration,
    with_limits: limits: Limits,
    with_caps: caps: Limits,
    with_compile: compile: CompileOptions,
    with_require_seal: require_seal: bool,
    with_record: record: Option<RecordSettings>,
});

impl Default for PolicyDirOptions {
    fn default() -> Self {
        Self {
            quiet: Duration::from_millis(150),
            scan: Duration::from_secs(5),
            limits: Limits::default(),
            caps: Limits::caps(),
            compile: CompileOptions::default(),
            require_seal: false,
            record: None,
        }
    }
}

impl PolicyDirOptions {
    /// Rejects a policy that these options do not allow.
    pub(super) fn admit(&self, policy: WasmPolicy) -> Result<WasmPolicy, PolicyError> {
        if self.require_seal && policy.seal().is_none() { Err(PolicyError::Unsealed) } else { Ok(policy) }
    }
}
