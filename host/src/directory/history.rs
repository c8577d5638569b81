//! The versions of each policy: the one that is being compiled, and those to go back to.

use std::collections::BTreeMap;

use super::settings::Settings;
use crate::lifecycle::Policy as _;
use crate::policy::WasmPolicy;

/// The versions of all policies.
#[derive(Default)]
pub(super) struct History {
    policies: BTreeMap<String, Versions>,
    /// The last ticket that was issued. There is one counter for all names, which never decreases: the versions of a
    /// name are forgotten when its file is gone, and an old job must not be mistaken for one of a new file of the
    /// same name.
    last_ticket: u64,
}

/// The versions of one policy.
#[derive(Default)]
pub(super) struct Versions {
    /// The last generation that was issued.
    pub(super) generation: u64,
    /// The compilation that was requested last. Results of earlier ones are discarded.
    pub(super) job: Option<Pending>,
    /// Digest and settings of the current compilation, or of the last one.
    pub(super) made_of: Option<(String, Settings)>,
    /// Number of times in a row that the machine prevented a compilation.
    pub(super) postponed: u32,
    /// Versions that were active, the latest last.
    earlier: Vec<Earlier>,
}

/// A compilation in progress.
pub(super) struct Pending {
    pub(super) ticket: u64,
    pub(super) settings: Settings,
}

/// A version that was active.
pub(super) struct Earlier {
    pub(super) policy: WasmPolicy,
    pub(super) settings: Settings,
    /// Whether the version has passed its probation.
    pub(super) proven: bool,
}

/// Number of versions of a policy that are kept to go back to.
const EARLIER: usize = 3;

impl History {
    /// Returns the versions of this name, empty if the name is new.
    pub(super) fn of(&mut self, name: &str) -> &mut Versions {
        self.policies.entry(name.to_owned()).or_default()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Versions> {
        self.policies.get(name)
    }

    pub(super) fn forget(&mut self, name: &str) {
        self.policies.remove(name);
    }

    /// Issues a ticket for a compilation of this name, whose result counts from now on.
    pub(super) fn start_job(&mut self, name: &str, digest: String, settings: Settings) -> u64 {
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        let versions = self.of(name);
        versions.made_of = Some((digest, settings.clone()));
        versions.job = Some(Pending { ticket, settings });
        ticket
    }

    /// Takes the job with this ticket, if its result counts.
    pub(super) fn take_job(&mut self, name: &str, ticket: u64) -> Option<Pending> {
        self.policies.get_mut(name)?.job.take_if(|job| job.ticket == ticket)
    }

    /// Forgets all compilations after a panic, so that their files are compiled again.
    pub(super) fn forget_jobs(&mut self) {
        for versions in self.policies.values_mut() {
            (versions.job, versions.made_of) = (None, None);
        }
    }
}

impl Versions {
    /// Keeps a version to go back to. Of too many, versions that have not passed their probation go first.
    pub(super) fn keep(&mut self, earlier: Earlier) {
        self.earlier.push(earlier);
        if self.earlier.len() > EARLIER {
            let unproven = self.earlier.iter().position(|earlier| !earlier.proven);
            self.earlier.remove(unproven.unwrap_or(0));
        }
    }

    /// Takes the version to go back to.
    pub(super) fn take_earlier(&mut self) -> Option<Earlier> {
        self.earlier.pop()
    }

    pub(super) fn can_go_back(&self) -> bool {
        !self.earlier.is_empty()
    }

    /// Issues the next generation.
    pub(super) fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    /// Returns the digest of the latest version that has passed its probation.
    pub(super) fn last_good(&self) -> Option<String> {
        let proven = self.earlier.iter().rev().find(|earlier| earlier.proven);
        proven.map(|earlier| earlier.policy.version().digest)
    }

    /// Returns whether this is being compiled, or was compiled last.
    pub(super) fn is_made_of(&self, digest: &str, settings: &Settings) -> bool {
        let made_of = self.made_of.as_ref();
        made_of.is_some_and(|(made_of, with)| {
            made_of == digest && with.has_same_spec(settings) && with.rollout == settings.rollout
        })
    }
}
