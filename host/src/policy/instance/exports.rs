//! Exports of a component: the required interfaces, and the optional ones that it has.

use wasmtime::Store;
use wasmtime::component::{Instance, InstancePre};

#[cfg(feature = "testing")]
use super::bindings::exports::hotpick::policy::about;
use super::bindings::exports::hotpick::policy::{
    alarms, connectivity, endpoints, handover, lifecycle, outcomes, picker, plans,
};
use super::imports::HostState;

/// Positions of the interfaces in a component.
pub(crate) struct Indices {
    lifecycle: lifecycle::GuestIndices,
    endpoints: endpoints::GuestIndices,
    picker: picker::GuestIndices,
    plans: Option<plans::GuestIndices>,
    outcomes: Option<outcomes::GuestIndices>,
    connectivity: Option<connectivity::GuestIndices>,
    alarms: Option<alarms::GuestIndices>,
    handover: Option<handover::GuestIndices>,
    #[cfg(feature = "testing")]
    about: Option<about::GuestIndices>,
}

/// Interfaces of one instance.
pub(crate) struct Exports {
    pub(crate) lifecycle: lifecycle::Guest,
    pub(crate) endpoints: endpoints::Guest,
    pub(crate) picker: picker::Guest,
    pub(crate) plans: Option<plans::Guest>,
    pub(crate) outcomes: Option<outcomes::Guest>,
    pub(crate) connectivity: Option<connectivity::Guest>,
    pub(crate) alarms: Option<alarms::Guest>,
    pub(crate) handover: Option<handover::Guest>,
    #[cfg(feature = "testing")]
    pub(crate) about: Option<about::Guest>,
}

impl Indices {
    /// Finds the interfaces of a component that exports these optional ones. Fails if an export has another type than
    /// in the contract.
    pub(crate) fn new(pre: &InstancePre<HostState>, optional: &[String]) -> wasmtime::Result<Self> {
        let has = |name: &str| optional.iter().any(|optional| optional == name);
        Ok(Self {
            lifecycle: lifecycle::GuestIndices::new(pre)?,
            endpoints: endpoints::GuestIndices::new(pre)?,
            picker: picker::GuestIndices::new(pre)?,
            plans: has("plans").then(|| plans::GuestIndices::new(pre)).transpose()?,
            outcomes: has("outcomes").then(|| outcomes::GuestIndices::new(pre)).transpose()?,
            connectivity: has("connectivity").then(|| connectivity::GuestIndices::new(pre)).transpose()?,
            alarms: has("alarms").then(|| alarms::GuestIndices::new(pre)).transpose()?,
            handover: has("handover").then(|| handover::GuestIndices::new(pre)).transpose()?,
            #[cfg(feature = "testing")]
            about: has("about").then(|| about::GuestIndices::new(pre)).transpose()?,
        })
    }

    pub(crate) fn load(
        &self,
        store: &mut Store<HostState>,
        instance: &Instance,
    ) -> wasmtime::Result<Exports> {
        let plans = self.plans.as_ref().map(|indices| indices.load(&mut *store, instance));
        let outcomes = self.outcomes.as_ref().map(|indices| indices.load(&mut *store, instance));
        let connectivity = self.connectivity.as_ref().map(|indices| indices.load(&mut *store, instance));
        let alarms = self.alarms.as_ref().map(|indices| indices.load(&mut *store, instance));
        let handover = self.handover.as_ref().map(|indices| indices.load(&mut *store, instance));
        #[cfg(feature = "testing")]
        let about = self.about.as_ref().map(|indices| indices.load(&mut *store, instance));
        Ok(Exports {
            lifecycle: self.lifecycle.load(&mut *store, instance)?,
            endpoints: self.endpoints.load(&mut *store, instance)?,
            picker: self.picker.load(&mut *store, instance)?,
            plans: plans.transpose()?,
            outcomes: outcomes.transpose()?,
            connectivity: connectivity.transpose()?,
            alarms: alarms.transpose()?,
            handover: handover.transpose()?,
            #[cfg(feature = "testing")]
            about: about.transpose()?,
        })
    }
}
