//! A linked policy, as its instances need it.

use std::sync::Arc;

use super::link::Linked;
use crate::policy::judge::PolicyMetrics;
use crate::policy::spec::PolicySpec;

/// A linked policy, how it is run, and where its metrics and faults are recorded. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Program {
    pub(crate) linked: Arc<Linked>,
    pub(crate) spec: Arc<PolicySpec>,
    pub(crate) metrics: Arc<PolicyMetrics>,
}
