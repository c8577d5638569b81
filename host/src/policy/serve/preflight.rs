//! Trial picks before a version gets RPCs.

use crate::connectivity::ConnectivityState;
use crate::lifecycle::{Placement, SavedState};
use crate::policy::instance::{InstanceError, PICKS, Program, Rehearsal};
use crate::subconn::{ReadySet, SubConn};

/// Makes trial picks with an instance that is discarded: with the channel's endpoints (all of them as if ready, if none
/// is ready or if the policy only queues), with none, and with one. A version that fails here has not been called for
/// any RPC.
pub(crate) fn preflight(
    program: &Program,
    placement: &Placement,
    current: &ReadySet,
    saved: &[SavedState],
) -> Result<Rehearsal, InstanceError> {
    let mut rehearsal = Rehearsal::start(program, placement, saved)?;
    let as_ready = |count: usize| {
        let all = current.all().iter().take(count).cloned();
        ReadySet::new(all.map(|subconn| (subconn, ConnectivityState::Ready)))
    };
    let first = if current.ready().is_empty() { as_ready(usize::MAX) } else { current.clone() };
    rehearsal.instance.notify(&first)?;
    let mut queued = picks(&mut rehearsal)?;
    let ready = first.ready().len();
    // The policy may choose among endpoints that are not ready now, or those that are ready may have no free stream:
    // only a policy that queues with all endpoints ready is bad.
    let is_full = |subconn: &SubConn| subconn.in_flight() >= subconn.max_streams();
    if queued == PICKS && ready > 0 && !first.ready().iter().all(is_full) {
        rehearsal.instance.notify(&as_ready(usize::MAX)).map_err(InstanceError::Trial)?;
        queued = picks(&mut rehearsal)?;
        if queued == PICKS {
            return Err(InstanceError::OnlyQueues(ready));
        }
    }
    for situation in [ReadySet::default(), as_ready(1)] {
        rehearsal.instance.notify(&situation).map_err(InstanceError::Trial)?;
        picks(&mut rehearsal)?;
    }
    Ok(rehearsal)
}

/// Returns how many of the picks were queued.
fn picks(rehearsal: &mut Rehearsal) -> Result<usize, InstanceError> {
    rehearsal.instance.plan(0).map_err(InstanceError::Trial)?;
    rehearsal.picks("/hotpick.PreFlight/Pick", "cHJlZmxpZ2h0").map_err(InstanceError::Trial)
}
