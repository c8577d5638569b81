//! Faults of instances, and who caused them.

use wasmtime::Store;

use super::imports::HostState;
use crate::lifecycle::{Stage, StartError};
use crate::policy::judge::FaultKind;
use crate::policy::limits::LONGEST_PLAN;
use crate::text::clip;

/// A fault, which ends an instance. The instance must not be called again: wasmtime has poisoned its Store, or its
/// answers are invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("trapped: {0}")]
    Trap(String),
    #[error("could not be called: the host panicked")]
    Host,
    #[error("ran past its limit of time")]
    Deadline,
    #[error("asked for more memory than its limit")]
    Memory,
    #[error("picked subconn {0}, which does not exist")]
    UnknownSubConn(u32),
    #[error("made a plan of {0} picks, more than {LONGEST_PLAN}")]
    LongPlan(usize),
}

impl Fault {
    /// Returns the kind of the fault. `None`: the policy did not cause it.
    pub(crate) const fn kind(&self) -> Option<FaultKind> {
        match self {
            Self::Host => None,
            Self::Trap(_) => Some(FaultKind::Trap),
            Self::Deadline => Some(FaultKind::Deadline),
            Self::Memory => Some(FaultKind::Memory),
            Self::UnknownSubConn(_) => Some(FaultKind::UnknownSubConn),
            Self::LongPlan(_) => Some(FaultKind::LongPlan),
        }
    }

    /// Attributes the error of a call.
    pub(super) fn of_call(store: &Store<HostState>, error: &wasmtime::Error) -> Self {
        match error.downcast_ref::<wasmtime::Trap>() {
            Some(wasmtime::Trap::Interrupt) => Self::Deadline,
            // Most languages answer a refused growth by trapping.
            _ if store.data().memory.refused => Self::Memory,
            trap => {
                let what =
                    trap.map_or_else(|| clip(&error.root_cause().to_string(), 200), ToString::to_string);
                Self::Trap(match store.data().last_words() {
                    "" => what,
                    words => format!("{what}; it said: {words}"),
                })
            }
        }
    }
}

/// Reason why an instance could not be started.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum InstanceError {
    #[error("failed to start: it cannot be instantiated: {0}")]
    Instantiate(Fault),
    #[error("cannot be started at this moment, and is tried again: {0}")]
    NotNow(String),
    #[error("failed to start: {0}")]
    Fault(#[from] Fault),
    #[error("refused its configuration: {0}")]
    Refused(String),
    #[error(
        "failed to start: the thread that starts it has less stack left than the 640 KiB that a policy may need"
    )]
    NoStack,
    #[error("has a configuration of {0} bytes, more than {1}")]
    ConfigTooLong(usize, usize),
    #[error("failed its trial picks: {0}")]
    Trial(Fault),
    #[error("only queues RPCs, though {0} endpoints are ready")]
    OnlyQueues(usize),
}

impl InstanceError {
    /// Attributes the error of an instantiation.
    pub(super) fn of_instantiation(store: &Store<HostState>, error: &wasmtime::Error) -> Self {
        lack(error).map_or_else(|| Self::Instantiate(Fault::of_call(store, error)), Self::NotNow)
    }

    /// Returns whether the policy works, but refuses its configuration.
    pub(crate) const fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_))
    }

    /// Returns whether the machine, and not the policy, caused the error.
    pub(crate) const fn is_transient(&self) -> bool {
        matches!(self, Self::NotNow(_))
    }

    pub(crate) const fn stage(&self) -> Stage {
        match self {
            Self::Instantiate(_) | Self::NoStack | Self::NotNow(_) => Stage::Instantiate,
            Self::Fault(_) | Self::Refused(_) | Self::ConfigTooLong(..) => Stage::Init,
            Self::Trial(_) | Self::OnlyQueues(_) => Stage::PreFlight,
        }
    }
}

impl From<InstanceError> for StartError {
    fn from(error: InstanceError) -> Self {
        match error {
            InstanceError::Refused(_) => Self::refusal(error.to_string()),
            _ => Self::at(error.stage(), error.to_string()),
        }
    }
}

/// Returns what the machine lacks, if that is the cause. wasmtime reports it only as text.
fn lack(error: &wasmtime::Error) -> Option<String> {
    let text = error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ");
    let of_the_system = ["mmap failed", "mprotect failed", "Cannot allocate memory", "os error 12"];
    of_the_system.iter().any(|words| text.contains(words)).then(|| clip(&text, 200))
}
