//! A policy without a channel: [tried](test_channel) in tests, [checked](check) by tools, and held against what
//! [any policy must do](conformance). All of them are scripts for one engine, the
//! [`Rehearsal`](super::instance::Rehearsal).

mod check;
mod conformance;
mod scenarios;
mod test_bed;
mod test_channel;

pub use self::check::Report;
pub use self::conformance::{Conformance, ConformanceOptions};
pub use self::test_channel::TestChannel;
