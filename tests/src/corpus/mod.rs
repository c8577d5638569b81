//! Files that no one should drop into a directory of policies: what each does, and what must come of it.

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
    /// What it does.
    pub name: &'static str,
    /// How it comes to lie there.
    pub file: File,
    /// What must come of it.
    pub end: End,
}

/// How a file is made.
#[derive(Debug)]
pub enum File {
    /// Of these bytes.
    Bytes(Vec<u8>),
    /// By this, at a path where nothing is.
    Made(fn(&Path)),
}

/// What must come of a bad file. In no case does an RPC fail.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_enums, reason = "for tests")]
pub enum End {
    /// The directory refuses it, at this stage, with words like these.
    Rejected(Stage, &'static str),
    /// The channel does not take it.
    Refused(Stage, &'static str),
    /// It is taken, fails too often with faults like these, and the version before is back.
    Quarantined(&'static str),
    /// It is taken, and does no harm.
    Harmless,
    /// It is taken; when it is replaced these faults come of it, and its state is lost.
    CannotHandOver(&'static [FaultKind]),
    /// It is as if there were no file.
    Gone,
}

impl File {
    /// Puts the file at a path, in place of what is there.
    ///
    /// # Panics
    ///
    /// It cannot be written.
    pub fn put(&self, path: &Path) {
        let there = fs::symlink_metadata(path);
        match self {
            Self::Bytes(bytes) => {
                if there.is_ok_and(|there| !there.is_file()) {
                    remove(path);
                }
                fs::write(path, bytes).expect("written");
            }
            Self::Made(make) => {
                if there.is_ok() {
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

/// All of them.
#[must_use]
pub fn corpus() -> Vec<Bad> {
    let mut all = Vec::new();
    all.extend(files::no_policies());
    all.extend(files::too_much());
    all.extend(files::no_files());
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
