//! Trial picks, before a version is let at RPCs.

use http::{HeaderMap, HeaderValue};

use super::WasmPolicy;
use super::instance::{InitError, Instance, Role};
use crate::connectivity::ConnectivityState;
use crate::picker::{PickInfo, PickResult, Placement, Saved};
use crate::subconn::{ReadySet, SubConn};

/// How many picks are tried in each situation.
const PICKS: usize = 256;

/// Tries a version out, with an instance that is thrown away: on the channel's endpoints (as if all were
/// ready if none is, or if it only queues), on none, and on one. A version that fails here has not been asked for any RPC.
pub(super) fn preflight(
    policy: &WasmPolicy,
    placement: &Placement,
    now: &ReadySet,
    parts: &[Saved],
) -> Result<Instance, InitError> {
    let mut instance = Instance::new(policy, placement, Role::Trial, parts)?;
    let as_ready = |count: usize| {
        let all = now.all().iter().take(count).cloned();
        ReadySet::new(all.map(|subconn| (subconn, ConnectivityState::Ready)))
    };
    let current = if now.ready().is_empty() { as_ready(usize::MAX) } else { now.clone() };
    instance.tell(&current)?;
    let mut queued = picks(&mut instance)?;
    let ready = current.ready().len();
    // It may want others than are ready now, or all of those are busy.
    let full = |subconn: &SubConn| subconn.in_flight() >= subconn.max_streams();
    if queued == PICKS && ready > 0 && !current.ready().iter().all(full) {
        instance.tell(&as_ready(usize::MAX)).map_err(InitError::Trial)?;
        queued = picks(&mut instance)?;
        if queued == PICKS {
            return Err(InitError::OnlyQueues(ready));
        }
    }
    for situation in [ReadySet::default(), as_ready(1)] {
        instance.tell(&situation).map_err(InitError::Trial)?;
        picks(&mut instance)?;
    }
    Ok(instance)
}

/// Gives how many of the picks were queued. Every other RPC has a value for each key that the policy reads.
fn picks(instance: &mut Instance) -> Result<usize, InitError> {
    let bare = HeaderMap::new();
    let mut full = HeaderMap::new();
    for key in instance.state().keys() {
        full.insert(key, HeaderValue::from_static("cHJlZmxpZ2h0"));
    }
    instance.plan(0).map_err(InitError::Trial)?;
    let mut queued = 0;
    for number in 0..PICKS {
        let metadata = if number % 2 == 0 { &bare } else { &full };
        let answer = instance.pick(&PickInfo::new("/hotpick.PreFlight/Pick", metadata));
        let answer = answer.map_err(InitError::Trial)?;
        queued += usize::from(matches!(answer.result, PickResult::Queue));
    }
    Ok(queued)
}
