//! The versions of one policy: the one that is being made, and those to go back to.

use super::settings::Settings;
use crate::picker::Policy as _;
use crate::policy::WasmPolicy;

/// The versions of one policy.
#[derive(Default)]
pub(super) struct Versions {
    /// The last that was given.
    pub(super) generation: u64,
    /// Of the job whose result counts, if one is under way.
    pub(super) ticket: Option<u64>,
    /// What is being made, or was made last: of which bytes, with which settings.
    pub(super) made_of: Option<(String, Settings)>,
    /// The settings of the job.
    pub(super) job: Option<Settings>,
    /// How often in a row it could not be compiled for want of something else.
    pub(super) postponed: u32,
    /// Versions that were in force, the last one last.
    pub(super) earlier: Vec<Earlier>,
}

pub(super) struct Earlier {
    pub(super) policy: WasmPolicy,
    pub(super) settings: Settings,
    /// It was beyond its probation.
    pub(super) proven: bool,
}

/// How many versions are kept to go back to.
const EARLIER: usize = 3;

impl Versions {
    /// Keeps a version to go back to. Of too many, those go first that have proven nothing.
    pub(super) fn keep(&mut self, earlier: Earlier) {
        self.earlier.push(earlier);
        if self.earlier.len() > EARLIER {
            let unproven = self.earlier.iter().position(|earlier| !earlier.proven);
            self.earlier.remove(unproven.unwrap_or(0));
        }
    }

    /// The digest of the last one that has done well.
    pub(super) fn previous(&self) -> Option<String> {
        let proven = self.earlier.iter().rev().find(|earlier| earlier.proven);
        proven.map(|earlier| earlier.policy.version().digest)
    }
}
