//! Policies without a channel: [in tests](test_channel), [checked](check) by tools, and
//! [tested for conformance](conformance). All of these are scripts for a [`Rehearsal`](super::instance::Rehearsal),
//! with the endpoints of a [test bed](test_bed). [`replay`](replay()) repeats what a trace contains.

mod check;
mod conformance;
mod replay;
mod scenarios;
mod simulated;
mod test_bed;
mod test_channel;

pub use self::check::Report;
pub use self::conformance::{Conformance, ConformanceOptions};
pub use self::replay::{Difference, ReplayError, Replayed, replay};
pub use self::simulated::{SimulatedChannel, SimulatedPick, SimulatedRpc};
pub use self::test_channel::TestChannel;
