//! The loop that owns all mutable balancing state of a channel.
//!
//! Endpoints come in from the resolver, candidates for the channel's policy from a source, states from the
//! subconns; the output is one immutable value, the current picker, and a report for status. What to do is a
//! [pure step](state) from a state and an input to effects; the [shell] waits for inputs and carries the effects
//! out. [`starter`] decides which policy is being started, [`choice`] which of the policies that a service config
//! lists is used, and [`members`] keeps the subconns.

mod choice;
mod members;
mod report;
mod shell;
mod starter;
mod state;
mod step;

pub(crate) use self::choice::Sources;
pub(crate) use self::report::{Published, Report};
pub(crate) use self::shell::{Command, Inputs, run};
