//! The interface between channels and policies: how a policy is started, replaced and identified.
//!
//! A [`Policy`] is shared by many channels. Each channel starts it with a [`Placement`] and gets a
//! [`PickerBuilder`], which builds one [`Picker`](crate::picker::Picker) for each snapshot of the channel's
//! subconns. Policies come as a stream of [`Candidate`]s from a [`PolicySource`], a policy directory for
//! instance. The public path of these types is [`policy`](crate::policy).

mod candidate;
mod placement;
mod policy;
mod refusing;
mod round_robin;
mod start_error;

pub(crate) use self::candidate::{Candidate, Candidates, PolicySource};
pub use self::placement::{Handover, PickAgain, Placement, SavedState};
pub(crate) use self::placement::{Shard, Standing};
pub use self::policy::{PickerBuilder, Policy};
pub(crate) use self::refusing::Refusing;
pub use self::round_robin::RoundRobin;
pub use self::start_error::{Stage, StartError};
pub use crate::policy_version::{PolicyVersion, is_policy_name};
