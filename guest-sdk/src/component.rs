//! From the component's exports to a [`Policy`].

use std::marker::PhantomData;

use crate::bindings::exports::hotpick::policy::{endpoints, lifecycle, picker};
use crate::{Endpoint, Nanos, PickInfo, PickResult, Placement, Policy, SubConn};

/// A policy with a place to live in. Implemented by [`export!`](crate::export).
pub trait Exported: Policy {
    /// Runs with the one instance; `None` before `init`.
    fn with<R>(run: impl FnOnce(&mut Option<Self>) -> R) -> R;
}

/// What the component exports.
#[derive(Debug)]
pub struct Component<P>(PhantomData<P>);

impl<P: Exported> lifecycle::Guest for Component<P> {
    fn init(config: String, place: Placement) -> Result<(), String> {
        // Without this a panic is but a trap, and no one knows why.
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
