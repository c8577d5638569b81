//! Values that the balancer publishes: for RPCs, and for the channel's status.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::connectivity::ConnectivityState;
use crate::lifecycle::{Policy as _, PolicyVersion, RoundRobin, StartError};
use crate::picker::{Faults, Picker, PickerCell};
use crate::retry::Throttle;
use crate::service_config::MethodConfigs;
use crate::subconn::ReadySet;

/// Values that RPCs read.
#[derive(Debug, Default)]
pub(crate) struct Published {
    pub(crate) cell: PickerCell,
    /// `None` until the target has been resolved for the first time.
    pub(crate) methods: ArcSwapOption<Methods>,
}

/// The settings of the service config for RPCs.
#[derive(Debug)]
pub(crate) struct Methods {
    pub(crate) configs: Arc<MethodConfigs>,
    pub(crate) throttle: Option<Arc<Throttle>>,
}

/// The channel as of the last change.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) state: ConnectivityState,
    /// Whether RPCs are picked for, or would be once the channel has woken up.
    pub(crate) can_pick: bool,
    /// Whether the resolver has answered, if only with an error.
    pub(crate) resolved: bool,
    pub(crate) policy: PolicyVersion,
    pub(crate) swaps: u64,
    /// The snapshot that the policy was last notified of.
    pub(crate) ready: ReadySet,
    /// The last picker that the policy built.
    pub(crate) picker: Option<Arc<dyn Picker>>,
    /// The policy's faults when the channel was closed.
    pub(crate) faults: Faults,
    pub(crate) refused: Option<StartError>,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            state: ConnectivityState::Connecting,
            can_pick: false,
            resolved: false,
            policy: RoundRobin::default().version(),
            swaps: 0,
            ready: ReadySet::default(),
            picker: None,
            faults: Faults::default(),
            refused: None,
        }
    }
}
