//! Files that have settled, and reading them whole.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::options::PolicyDirOptions;
use super::scan::stem;
use super::settings::{BEGIN, END, Settings};
use crate::files::{self, Fingerprint, ReadError, Settling};
use crate::policy::{Limits, PolicyError, verify};

/// The files of a directory.
pub(super) struct SettledFiles {
    directory: PathBuf,
    quiet: Duration,
    scan: Duration,
    limits: Limits,
    settling: Settling,
    /// What is there, of all that has come to rest.
    settled: BTreeMap<String, Fingerprint>,
    /// Since when someone has been seen to write to a file, and what it was then.
    writing: BTreeMap<String, (Option<Fingerprint>, Instant)>,
}

/// How often a file is looked at within the quiet time.
pub(super) const LOOKS: u32 = 6;
/// What is larger takes seconds to compile: a head start is worth nothing there.
const AHEAD: usize = 1 << 20;
/// Who writes to a file for longer than this is told of.
const LONG_WRITE: Duration = Duration::from_secs(5);

impl SettledFiles {
    pub(super) fn new(directory: PathBuf, options: &PolicyDirOptions) -> Self {
        let PolicyDirOptions { quiet, scan, limits, .. } = *options;
        let (settling, settled, writing) = (Settling::default(), BTreeMap::new(), BTreeMap::new());
        Self { directory, quiet, scan, limits, settling, settled, writing }
    }

    /// Takes in what is there now. Gives the names of the policies of which a file has come to rest, or is gone, and none is
    /// still changing: the two files of a policy are one, and are taken together.
    pub(super) fn observe(&mut self, present: &BTreeMap<String, Fingerprint>) -> BTreeSet<String> {
        let mut changed = BTreeSet::new();
        for (file, seen) in self.settling.observe(present, self.quiet) {
            changed.insert(stem(&file).to_owned());
            match seen {
                Some(fingerprint) => self.settled.insert(file, fingerprint),
                None => self.settled.remove(&file),
            };
        }
        let is_moving = |name: &String| {
            self.settling.is_moving(&format!("{name}.wasm"))
                || self.settling.is_moving(&format!("{name}.toml"))
        };
        changed.retain(|name| !is_moving(name));
        changed
    }

    /// The components that will be there in a moment, most likely, by the names of their policies.
    pub(super) fn foresee(&mut self) -> Vec<(String, Vec<u8>)> {
        let foreseen = self.settling.foresee(self.quiet / LOOKS);
        // Whatever is said of it beside: that may be that it is not wanted.
        let wanted =
            foreseen.into_iter().filter(|(file, _)| file.ends_with(".wasm") && self.may_compile_ahead(file));
        let read = |(file, fingerprint): (String, Fingerprint)| {
            let bytes = files::read_open(&self.directory.join(&file), fingerprint, AHEAD).ok()??;
            Some((stem(&file).to_owned(), bytes))
        };
        wanted.filter_map(read).collect()
    }

    /// Something is still changing, or is to be looked at again soon.
    pub(super) fn is_pending(&self) -> bool {
        self.settling.is_pending(self.quiet)
    }

    /// The file, if it is there and has come to rest.
    pub(super) fn settled(&self, file: &str) -> Option<Fingerprint> {
        self.settled.get(file).copied()
    }

    /// Settings that are there, without the policy.
    pub(super) fn is_stray(&self, toml: &str) -> bool {
        self.settled.contains_key(toml) && !self.settled.contains_key(&format!("{}.wasm", stem(toml)))
    }

    /// The file is to be taken in once more after this time.
    pub(super) fn retry(&mut self, file: &str, after: Duration) {
        self.settling.retry(file, after);
    }

    /// The file is gone.
    pub(super) fn forget(&mut self, file: &str) {
        self.writing.remove(file);
    }

    /// Whether nothing that is known so far speaks against a file.
    fn may_compile_ahead(&self, file: &str) -> bool {
        let toml = self.directory.join(format!("{}.toml", stem(file)));
        match files::read_now(&toml, self.limits.config) {
            Ok(bytes) => Settings::parse(&bytes).is_ok_and(|settings| settings.enabled),
            Err(_) => true,
        }
    }

    /// What the operator says of a policy. None: the file is still changing.
    pub(super) fn settings(&mut self, file: &str) -> Result<Option<Settings>, PolicyError> {
        let Some(fingerprint) = self.settled.get(file).copied() else { return Ok(Some(Settings::default())) };
        match files::read(&self.directory.join(file), fingerprint, self.limits.config) {
            Ok(Some(bytes)) if Settings::are_finished(&bytes) => {
                self.writing.remove(file);
                Settings::parse(&bytes).map(Some)
            }
            Ok(Some(_)) if self.is_worth_waiting(file) => Ok(None),
            Ok(Some(_)) => Err(PolicyError::Settings(format!(
                "{file}: begins with {BEGIN:?} and does not end with {END:?}"
            ))),
            Ok(None) => {
                self.settling.retry(file, Duration::ZERO);
                Ok(None)
            }
            Err(error) if self.passes(file, &error) => Ok(None),
            Err(error) => Err(PolicyError::Settings(format!("{file}: {error}"))),
        }
    }

    /// A file could not be read. It is tried again; but whether that is worth no word?
    fn passes(&mut self, file: &str, error: &ReadError) -> bool {
        if matches!(error, ReadError::Young) {
            // It will not be young for ever, unless someone goes on writing.
            self.settling.retry(file, self.quiet);
            return true;
        }
        if matches!(error, ReadError::BeingWritten) {
            return self.is_worth_waiting(file);
        }
        self.writing.remove(file);
        self.settling.retry(file, self.scan);
        false
    }

    /// Someone writes to a file, it seems: it is looked at again, and told of only when that takes long.
    fn is_worth_waiting(&mut self, file: &str) -> bool {
        let seen = self.settled.get(file).copied();
        let writing = self.writing.entry(file.to_owned()).or_insert_with(|| (seen, Instant::now()));
        if writing.0 != seen {
            // Something has come: who writes has as much time as anyone.
            *writing = (seen, Instant::now());
        }
        let is_worth_it = writing.1.elapsed() < LONG_WRITE;
        // What is told of is looked at when all is: the rest of the directory must not wait for it.
        self.settling.retry(file, if is_worth_it { self.quiet } else { self.scan });
        is_worth_it
    }

    /// The bytes of a policy's file. None: it is still changing.
    pub(super) fn read_whole(
        &mut self,
        file: &str,
        fingerprint: Fingerprint,
    ) -> Result<Option<Vec<u8>>, PolicyError> {
        let (path, limit) = (self.directory.join(file), self.limits.component);
        let mut bytes = files::read(&path, fingerprint, limit);
        if matches!(bytes, Err(ReadError::Young)) {
            // That it is whole its seal can show at once.
            let now = files::read_open(&path, fingerprint, limit);
            if let Ok(Some(now)) = now
                && verify(&now).is_ok_and(|seal| seal.is_some())
            {
                bytes = Ok(Some(now));
            }
        }
        match bytes {
            Ok(Some(bytes)) => match verify(&bytes) {
                // The rest may be on its way, as far as that can be known.
                Err(PolicyError::CutShort { .. })
                    if !files::is_closed(&path) && self.is_worth_waiting(file) =>
                {
                    Ok(None)
                }
                Err(error) => Err(error),
                Ok(_) => {
                    self.writing.remove(file);
                    Ok(Some(bytes))
                }
            },
            Ok(None) => {
                self.settling.retry(file, Duration::ZERO);
                Ok(None)
            }
            // What could not be read may be good, and not change.
            Err(error) if self.passes(file, &error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl From<ReadError> for PolicyError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::TooLarge { size, limit } => Self::TooLarge { size, limit },
            ReadError::Io(_) | ReadError::NotRegular | ReadError::BeingWritten | ReadError::Young => {
                Self::Read(error.to_string())
            }
        }
    }
}
