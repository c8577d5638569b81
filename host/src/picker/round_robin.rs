//! The native round robin: what serves when no policy does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{
    Pick, PickInfo, PickResult, Picker, PickerBuilder, Placement, Policy, PolicyVersion, StartError,
};
use crate::subconn::{ReadySet, SubConn};

/// One ready subconn after the other, from a random start. The fallback of every channel.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct RoundRobin;

impl Policy for RoundRobin {
    fn version(&self) -> PolicyVersion {
        PolicyVersion::new("round_robin", 0, "")
    }

    fn start(&self, _placement: &Placement, _ready: &ReadySet) -> Result<Box<dyn PickerBuilder>, StartError> {
        Ok(Self::builder())
    }
}

/// Makes the pickers of one channel. They share their place, so that a change that leaves the ready
/// subconns as they are does not disturb the order.
#[derive(Debug)]
struct Rotations(Arc<Cursor>);

impl PickerBuilder for Rotations {
    fn build(&mut self, ready: &ReadySet) -> Arc<dyn Picker> {
        Arc::new(Rotation { ready: ready.clone(), cursor: Arc::clone(&self.0) })
    }
}

#[derive(Debug)]
struct Rotation {
    ready: ReadySet,
    cursor: Arc<Cursor>,
}

impl Picker for Rotation {
    fn pick(&self, _info: &PickInfo<'_>) -> PickResult {
        self.cursor.next(&self.ready).map_or(PickResult::Queue, |subconn| PickResult::Pick(Pick::to(subconn)))
    }
}

impl RoundRobin {
    /// For one channel.
    pub(crate) fn builder() -> Box<dyn PickerBuilder> {
        Box::new(Rotations(Arc::new(Cursor::random())))
    }
}

/// A place in a rotation, shared by threads.
#[derive(Debug)]
pub(crate) struct Cursor(AtomicUsize);

impl Cursor {
    /// Starts anywhere, so that many clients do not all begin with the same backend.
    pub(crate) fn random() -> Self {
        Self(AtomicUsize::new(fastrand::usize(..usize::MAX / 2)))
    }

    /// The next ready subconn, if there is one.
    pub(crate) fn next(&self, ready: &ReadySet) -> Option<SubConn> {
        let ready = ready.ready();
        let at = self.0.fetch_add(1, Ordering::Relaxed);
        ready.get(at.checked_rem(ready.len())?).cloned()
    }
}
