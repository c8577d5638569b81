//! Inputs and effects of the balancer's step.

use std::sync::Arc;

use super::choice::Chosen;
use super::starter::StartEffect;
use crate::connectivity::ConnectivityState;
use crate::lifecycle::{PolicyVersion, StartError};
use crate::resolver::ResolverUpdate;
use crate::service_config::{MethodConfigs, PolicyConfig};
use crate::subconn::{ReadySet, SubConn};

/// An event of a channel.
pub(super) enum Input {
    /// An RPC has come to the idle channel, or its user wants connections.
    Wake,
    /// There were no RPCs for a while, or its user wants no connections.
    Sleep,
    Resolver(ResolverEvent),
    /// These subconns may have another state.
    SubConns(Vec<u32>),
    /// The list of policies has a result.
    Chosen(Chosen),
    /// The start in progress has ended. `Ok`: whether the policy is lazy.
    StartEnded(Result<bool, StartError>),
    /// A start that the machine prevented is due again.
    RetryStart,
    /// RPCs have waited for the first policy long enough.
    FirstPolicyTimeout,
    /// The policy's answers have changed.
    PickAgain,
}

/// An event of a resolver.
pub(super) enum ResolverEvent {
    Update(ResolverUpdate),
    Ended,
    Panicked,
}

/// What to do after a step, in the order of the fields.
pub(super) struct Effects {
    /// Methods and health service of another service config.
    pub(super) config: Option<(Arc<MethodConfigs>, Option<Arc<str>>)>,
    /// Follow this list of policies instead of the previous one.
    pub(super) follow: Option<Vec<PolicyConfig>>,
    pub(super) resolver: Option<ResolverEffect>,
    /// Ask the resolver for a new answer.
    pub(super) resolve_now: bool,
    /// Wait for the first policy, from now on.
    pub(super) restart_policy_timeout: bool,
    pub(super) start: Option<StartEffect>,
    /// The policy that was started becomes active: its version, and whether it is the first policy.
    pub(super) activated: Option<(PolicyVersion, bool)>,
    /// Report this refusal of a policy. `Some(None)`: report that no policy is refused any more.
    pub(super) refused: Option<Option<StartError>>,
    pub(super) connect: Vec<SubConn>,
    pub(super) disconnect: Vec<SubConn>,
    /// Subconns of endpoints that are gone.
    pub(super) shutdown: Vec<SubConn>,
    /// Notify the policy of the snapshot: an idle channel's is not notified, because it might connect at once.
    pub(super) notify: bool,
    pub(super) ready: ReadySet,
    pub(super) picker: PickerEffect,
    pub(super) state: ConnectivityState,
    pub(super) is_resolved: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResolverEffect {
    Watch,
    Stop,
}

/// Which picker RPCs get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PickerEffect {
    /// Queues RPCs and wakes the channel.
    Wake,
    Queue,
    /// The policy's own.
    Policy,
    /// Fails RPCs with UNAVAILABLE and this message.
    Fail(String),
}

impl Effects {
    /// Returns no effects.
    pub(super) fn new() -> Self {
        Self {
            config: None,
            follow: None,
            resolver: None,
            resolve_now: false,
            restart_policy_timeout: false,
            start: None,
            activated: None,
            refused: None,
            connect: Vec::new(),
            disconnect: Vec::new(),
            shutdown: Vec::new(),
            notify: false,
            ready: ReadySet::default(),
            picker: PickerEffect::Queue,
            state: ConnectivityState::Connecting,
            is_resolved: false,
        }
    }
}
