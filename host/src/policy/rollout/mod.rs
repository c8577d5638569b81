//! Rollouts: a new version beside the active one, as a shadow or as a canary.
//!
//! The two versions are one [policy](split) for a channel: as a shadow the new version is asked for each RPC and told how it
//! ended, and its picks are only compared; as a canary it picks for a share of the RPCs. What both do is counted in
//! [cohorts](cohort), which a [verdict] compares, and the [machine] decides what follows.

mod cohort;
mod machine;
mod settings;
mod split;
mod verdict;

pub use self::cohort::{Reading, SideReading};
pub(crate) use self::machine::{Decision, RolloutMachine, Seen};
pub use self::machine::{RolloutCommand, RolloutEvent, RolloutPhase};
pub use self::settings::{RolloutMode, RolloutSettings};
pub(crate) use self::split::Split;
pub use self::verdict::Verdict;
