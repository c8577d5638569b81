//! Functions that a policy may import: a file for each interface of the contract, and the [state] behind them.

mod answers;
mod call;
mod connections;
mod current_call;
mod effects;
mod env;
mod log_budget;
mod metrics;
mod numbers;
mod state;
mod stats;
mod tape;
mod timer_set;
mod timers;
mod wasi;

use wasmtime::component::{HasSelf, Linker};

use super::bindings::hotpick::policy as contract;

pub(crate) use self::call::affinity;
pub(crate) use self::current_call::PickExtras;
pub(crate) use self::effects::Effects;
pub(crate) use self::numbers::Methods;
pub(crate) use self::state::{AffinityKind, HostState, InstanceConfig};
#[cfg(feature = "testing")]
pub(crate) use self::tape::Playback;
pub(crate) use self::tape::Tape;
pub(crate) use self::wasi::provide as provide_wasi;

/// Adds everything that the contract lets policies import.
pub(crate) fn add_to_linker(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    contract::env::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    contract::stats::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    contract::call::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    contract::metrics::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    contract::timers::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    contract::connections::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    Ok(())
}
