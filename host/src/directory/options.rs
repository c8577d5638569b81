//! How a directory is followed.

use std::time::Duration;

use crate::policy::{CompileOptions, Limits, PolicyError, WasmPolicy};

/// Options of a policy directory.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PolicyDirOptions {
    /// How long a file must stay the same before it is read.
    pub quiet: Duration,
    /// How often the directory is scanned when there are no events: some changes cause none.
    pub scan: Duration,
    /// The limits of each policy, unless its settings say otherwise.
    pub limits: Limits,
    /// What the settings of a policy may raise its limits to.
    pub caps: Limits,
    /// How policies are compiled.
    pub compile: CompileOptions,
    /// Refuse files without a [seal](crate::policy::Seal), of which nothing shows whether they are whole.
    pub require_seal: bool,
}

impl Default for PolicyDirOptions {
    fn default() -> Self {
        Self {
            quiet: Duration::from_millis(150),
            scan: Duration::from_secs(5),
            limits: Limits::default(),
            caps: Limits::caps(),
            compile: CompileOptions::default(),
            require_seal: false,
        }
    }
}

impl PolicyDirOptions {
    /// Rejects a policy that these options do not allow.
    pub(super) fn admit(&self, policy: WasmPolicy) -> Result<WasmPolicy, PolicyError> {
        if self.require_seal && policy.seal().is_none() { Err(PolicyError::Unsealed) } else { Ok(policy) }
    }
}
