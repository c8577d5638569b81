//! Files that are harmful in a policy directory, and the expected result of each.

mod files;
mod parts;
mod policies;
mod wasi;

use std::fs;
use std::path::Path;

use hotpick::policy::FaultKind;
use hotpick::policy::Stage;

use crate::wat::Wat;

pub use self::files::truncations;
pub use self::wasi::with_wasi;

/// A bad file.
pub struct Bad {
    /// What the file is or does.
    pub name: &'static str,
    /// How the file is created.
    pub file: File,
    /// The expected result.
    pub end: End,
}

/// How a file is created.
#[derive(Debug)]
pub enum File {
    /// A regular file with these bytes.
    Bytes(Vec<u8>),
    /// Created by this function, at a path that does not exist.
    Made(fn(&Path)),
}

/// The expected result of a bad file. No RPC may fail in any case.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_enums, reason = "for tests")]
pub enum End {
    /// The directory rejects the file at this stage, with an error that contains this text.
    Rejected(Stage, &'static str),
    /// The channel refuses the version at this stage, with an error that contains this text.
    Refused(Stage, &'static str),
    /// The version becomes active, is quarantined for a reason that contains this text, and is rolled back.
    Quarantined(&'static str),
    /// The version becomes active and stays so.
    Harmless,
    /// The version becomes active. Its replacement causes these faults, and its state is lost.
    CannotHandOver(&'static [FaultKind]),
    /// The policy counts as removed.
    Gone,
}

impl File {
    /// Creates the file at a path, replacing an existing file or directory.
    ///
    /// # Panics
    ///
    /// Panics if the file cannot be created.
    pub fn put(&self, path: &Path) {
        let existing = fs::symlink_metadata(path);
        match self {
            Self::Bytes(bytes) => {
                if existing.is_ok_and(|existing| !existing.is_file()) {
                    remove(path);
                }
                fs::write(path, bytes).expect("written");
            }
            Self::Made(make) => {
                if existing.is_ok() {
                    remove(path);
                }
                make(path);
            }
        }
    }
}

fn remove(path: &Path) {
    let _ = fs::remove_file(path).or_else(|_| fs::remove_dir_all(path));
}

/// Returns all bad files.
#[must_use]
pub fn corpus() -> Vec<Bad> {
    let mut all = Vec::new();
    all.extend(files::not_policies());
    all.extend(files::too_much());
    all.extend(files::not_files());
    all.extend(policies::bad_starts());
    all.extend(policies::bad_picks());
    all.extend(policies::bad_in_service());
    all.extend(parts::bad_parts());
    all.extend(parts::nuisances());
    all
}

fn bad(name: &'static str, bytes: Vec<u8>, end: End) -> Bad {
    Bad { name, file: File::Bytes(bytes), end }
}

fn wat(name: &'static str, policy: &Wat<'_>, end: End) -> Bad {
    bad(name, policy.component(), end)
}

impl std::fmt::Debug for Bad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}
