//! A slot's instance that is recorded.

use std::sync::Arc;

use http::HeaderName;

use crate::lifecycle::Placement;
use crate::policy::instance::Program;
use crate::subconn::OutcomeSink;
use crate::trace::Recorder;

/// The instance of a slot that is recorded.
pub(super) struct Recording {
    /// Serial number of the instance.
    pub(super) serial: u64,
    pub(super) recorder: Arc<Recorder>,
    /// Metadata keys that the policy has declared.
    pub(super) keys: Vec<HeaderName>,
    /// Receives the ends of the RPCs that the instance has picked for.
    pub(super) sink: Arc<dyn OutcomeSink>,
}

impl Recording {
    pub(super) fn sink(&self) -> Arc<dyn OutcomeSink> {
        Arc::clone(&self.sink)
    }
}

/// Returns a recorder for an instance that is about to start, if it is to be recorded.
pub(super) fn recorder(program: &Program, placement: &Placement, may_sample: bool) -> Option<Arc<Recorder>> {
    let Program { spec, metrics, .. } = program;
    let requested = metrics.recordings.take(&placement.target);
    let settings = spec.record.as_ref().filter(|_| may_sample);
    requested.or_else(|| settings?.recorder(&spec.version.name)).map(Arc::new)
}
