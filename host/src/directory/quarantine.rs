//! A version that is not used any more because it failed too often.

use crate::lifecycle::PolicyVersion;
use crate::policy::OnFault;

/// A version that failed too often.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quarantine {
    /// The version.
    pub version: PolicyVersion,
    /// Why it was quarantined.
    pub reason: String,
    /// What happens to RPCs if there is no version to go back to.
    pub on_fault: OnFault,
}
