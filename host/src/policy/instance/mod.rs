//! One instance of a policy: a wasmtime Store, the calls into it, and the functions that it may call.
//!
//! [`link`] makes compiled code instantiable. An [`Instance`](instance) is created and [called](calls) within
//! [limits of CPU time](clock) and [memory]; [`imports`] are the host's functions, [`convert`] translates between
//! the contract's types and the host's, [`plan`] holds picks made ahead, and [`fault`] describes faults and who
//! caused them. A [`Rehearsal`](rehearsal) is an instance whose actions have no effect.
//!
//! Endpoints appear here as [`subconn`](crate::subconn)s, which contain no connections.

mod bindings;
mod calls;
mod clock;
mod convert;
mod exports;
mod fault;
#[cfg(feature = "testing")]
mod fuel;
mod imports;
#[expect(clippy::module_inception, reason = "the instance itself")]
mod instance;
mod link;
mod memory;
mod plan;
#[cfg(feature = "testing")]
mod playback;
mod program;
mod record;
mod rehearsal;
mod runtime;
mod time;

#[cfg(feature = "testing")]
pub(crate) use self::bindings::exports::hotpick::policy::outcomes::Load;
pub(crate) use self::bindings::exports::hotpick::policy::outcomes::Outcome;
pub(crate) use self::calls::Answer;
pub(crate) use self::convert::outcome;
pub(crate) use self::fault::{Fault, InstanceError};
#[cfg(feature = "testing")]
pub(crate) use self::fuel::take as take_fuel;
pub(crate) use self::imports::{Methods, affinity};
pub(crate) use self::instance::{Instance, Role};
pub(crate) use self::link::Linked;
pub(crate) use self::plan::{Order, Plan};
#[cfg(feature = "testing")]
pub(crate) use self::playback::Player;
pub(crate) use self::program::Program;
pub(crate) use self::record::{PlannedPick, record_end, record_planned};
pub(crate) use self::rehearsal::{PICKS, Rehearsal};
pub(crate) use self::time::time;
