//! A rehearsal on endpoints without connections.

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use crate::connectivity::ConnectivityState;
use crate::lifecycle::{Placement, SavedState};
use crate::policy::instance::{Fault, InstanceError, Program, Rehearsal};
use crate::resolver::Endpoint;
use crate::subconn::{FakeSubConns, ReadySet};

/// A rehearsal, and the endpoints that its policy is notified of.
pub(super) struct TestBed {
    rehearsal: Rehearsal,
    endpoints: FakeSubConns,
    /// Duration of the last notification of endpoints.
    pub(super) notified_in: Duration,
}

impl TestBed {
    pub(super) fn start(
        program: &Program,
        placement: &Placement,
        saved: &[SavedState],
    ) -> Result<Self, InstanceError> {
        let rehearsal = Rehearsal::start(program, placement, saved)?;
        Ok(Self { rehearsal, endpoints: FakeSubConns::default(), notified_in: Duration::ZERO })
    }

    /// Replaces the endpoints, and notifies the policy. An endpoint is identified by its first address; subconns
    /// are numbered from 0 in the order in which they first appear.
    pub(super) fn set(
        &mut self,
        endpoints: impl IntoIterator<Item = (Endpoint, ConnectivityState)>,
    ) -> Result<ReadySet, Fault> {
        let ready = self.endpoints.set(endpoints);
        self.notify(ready)
    }

    /// Replaces the endpoints by `count` ready ones, and notifies the policy.
    pub(super) fn set_ready(&mut self, count: u32) -> Result<ReadySet, Fault> {
        let ready = self.endpoints.ready(count);
        self.notify(ready)
    }

    fn notify(&mut self, ready: ReadySet) -> Result<ReadySet, Fault> {
        let begin = Instant::now();
        self.rehearsal.instance.notify(&ready)?;
        self.notified_in = begin.elapsed();
        Ok(ready)
    }
}

impl Deref for TestBed {
    type Target = Rehearsal;

    fn deref(&self) -> &Rehearsal {
        &self.rehearsal
    }
}

impl DerefMut for TestBed {
    fn deref_mut(&mut self) -> &mut Rehearsal {
        &mut self.rehearsal
    }
}
