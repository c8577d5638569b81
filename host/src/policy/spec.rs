//! The specification of how a policy is run.

use std::sync::Arc;

use super::compile::Grants;
use super::limits::Limits;
use crate::lifecycle::PolicyVersion;
use crate::trace::RecordSettings;

/// Specification of how a policy is run: its version, its operator's settings and its limits.
#[derive(Clone, Debug)]
pub(crate) struct PolicySpec {
    pub(crate) version: PolicyVersion,
    /// Configuration (JSON) for channels that pass none.
    pub(crate) config: Option<Arc<str>>,
    pub(crate) limits: Limits,
    pub(crate) grants: Arc<Grants>,
    pub(crate) on_fault: OnFault,
    /// Number of instances in each channel.
    pub(crate) shards: u32,
    /// Whether the policy may plan ahead.
    pub(crate) plans: bool,
    /// How the policy is recorded. `None`: only on request.
    pub(crate) record: Option<Arc<RecordSettings>>,
    /// Whether the policy is enabled. `false`: its settings say `enabled = false`.
    pub(crate) enabled: bool,
}

impl PolicySpec {
    pub(crate) fn new(version: PolicyVersion, limits: Limits) -> Self {
        Self {
            version,
            config: None,
            limits,
            grants: Arc::default(),
            on_fault: OnFault::default(),
            shards: 1,
            plans: true,
            record: None,
            enabled: true,
        }
    }
}

/// Treatment of an RPC whose pick fails because of a fault of the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnFault {
    /// The native round robin picks for it, among all ready subconns.
    #[default]
    RoundRobin,
    /// The RPC fails with UNAVAILABLE, or waits if it is wait-for-ready: for policies whose RPCs must not go
    /// to arbitrary endpoints.
    Fail,
}
