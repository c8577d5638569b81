//! Adapters from the component's exports to a [`Policy`].

use std::marker::PhantomData;

use crate::bindings::exports::hotpick::policy::{endpoints, lifecycle, picker};
use crate::parts::about::exports::hotpick::policy::about;
use crate::parts::alarms::exports::hotpick::policy::alarms;
use crate::parts::connectivity::exports::hotpick::policy::connectivity;
use crate::parts::handover::exports::hotpick::policy::handover;
use crate::parts::outcomes::exports::hotpick::policy::outcomes;
use crate::parts::plans::exports::hotpick::policy::plans;
use crate::{
    About, Alarms, Connectivity, ConnectivityState, Description, Endpoint, Handover, Nanos, Outcome,
    Outcomes, PickInfo, PickResult, Placement, Plan, Plans, Policy, Saved, SubConn,
};

/// The standard library's allocator is 7 KB larger. This one takes constant time (TLSF, Masmano et al., 2004).
#[cfg(feature = "allocator")]
#[global_allocator]
static ALLOCATOR: rlsf::SmallGlobalTlsf = rlsf::SmallGlobalTlsf::new();

/// A policy with static storage for its instance. Implemented by [`export!`](crate::export).
pub trait Exported: Policy {
    /// Runs a function with the instance; `None` before `init`.
    fn with<R>(run: impl FnOnce(&mut Option<Self>) -> R) -> R;
}

/// The exports of the component.
#[derive(Debug)]
pub struct Component<P>(PhantomData<P>);

impl<P: Exported> lifecycle::Guest for Component<P> {
    fn init(config: String, place: Placement) -> Result<(), String> {
        // Without the hook a panic is a trap without a message.
        std::panic::set_hook(Box::new(|panic| crate::env::log(crate::env::Level::Error, &panic.to_string())));
        let policy = P::init(&config, &place)?;
        P::with(|place| *place = Some(policy));
        Ok(())
    }
}

impl<P: Exported> endpoints::Guest for Component<P> {
    fn changed(added: Vec<Endpoint>, removed: Vec<SubConn>, now: Nanos) {
        P::with(|policy| policy.as_mut().map(|policy| policy.endpoints(&added, &removed, now)));
    }

    fn ready(ready: Vec<SubConn>, now: Nanos) {
        P::with(|policy| policy.as_mut().map(|policy| policy.ready(&ready, now)));
    }
}

impl<P: Exported> picker::Guest for Component<P> {
    fn pick(info: PickInfo) -> PickResult {
        P::with(|policy| policy.as_mut().map_or(PickResult::Queue, |policy| policy.pick(&info)))
    }
}

impl<P: Exported + Plans> plans::Guest for Component<P> {
    fn make(budget: u32, random: u64, now: Nanos) -> Plan {
        P::with(|policy| {
            policy.as_mut().map_or(Plan::None, |policy| policy.plan(budget as usize, random, now))
        })
    }
}

impl<P: Exported + Outcomes> outcomes::Guest for Component<P> {
    fn done(batch: Vec<Outcome>, now: Nanos) {
        P::with(|policy| policy.as_mut().map(|policy| policy.done(&batch, now)));
    }
}

impl<P: Exported + Connectivity> connectivity::Guest for Component<P> {
    fn changed(id: SubConn, state: ConnectivityState, message: String, now: Nanos) {
        P::with(|policy| policy.as_mut().map(|policy| policy.connectivity(id, state, &message, now)));
    }
}

impl<P: Exported + Alarms> alarms::Guest for Component<P> {
    fn fired(id: u32, now: Nanos) {
        P::with(|policy| policy.as_mut().map(|policy| policy.fired(id, now)));
    }
}

impl<P: Exported + Handover> handover::Guest for Component<P> {
    fn save() -> Saved {
        let empty = || Saved { schema: 0, data: Vec::new() };
        P::with(|policy| policy.as_mut().map_or_else(empty, Handover::save))
    }

    fn restore(parts: Vec<Saved>) -> Result<(), String> {
        P::with(|policy| policy.as_mut().map_or(Ok(()), |policy| policy.restore(parts)))
    }
}

impl<P: Exported + About> about::Guest for Component<P> {
    fn describe() -> Description {
        P::describe()
    }
}
