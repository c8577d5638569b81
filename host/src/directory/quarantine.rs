//! Quarantine of a version that failed too often.

use crate::lifecycle::PolicyVersion;
use crate::policy::OnFault;

/// A version that failed too often.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quarantine {
    /// The version.
    pub version: PolicyVersion,
    /// Reason for the quarantine.
    pub reason: String,
    /// Treatment of RPCs if there is no version for a rollback.
    pub on_fault: OnFault,
}
