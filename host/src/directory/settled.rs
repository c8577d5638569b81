//! Detects files that have settled, and reads them completely.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::listing::stem;
use super::options::PolicyDirOptions;
use super::settings::{BEGIN, END, Settings};
use crate::files::{self, Fingerprint, ReadError, Settling};
use crate::policy::{Limits, PolicyError, verify};

/// Files of a directory, and which of them have settled: they are not being written, and have not changed for a while.
pub(super) struct SettledFiles {
    directory: PathBuf,
    quiet: Duration,
    scan: Duration,
    limits: Limits,
    settling: Settling,
    /// Fingerprints of the existing files that have settled.
    settled: BTreeMap<String, Fingerprint>,
    /// Fingerprints of the files that seem to be written, and since when.
    writing: BTreeMap<String, (Option<Fingerprint>, Instant)>,
}

/// Number of checks of a file within the quiet time.
pub(super) const LOOKS: u32 = 6;
/// Maximum size of a file that is compiled ahead (bytes). A larger one takes seconds, so that a head start is of no
/// use.
const AHEAD: usize = 1 << 20;
/// Duration after which a file that is still being written is reported.
const LONG_WRITE: Duration = Duration::from_secs(5);

impl SettledFiles {
    pub(super) fn new(directory: PathBuf, options: &PolicyDirOptions) -> Self {
        let PolicyDirOptions { quiet, scan, limits, .. } = *options;
        let (settling, settled, writing) = (Settling::default(), BTreeMap::new(), BTreeMap::new());
        Self { directory, quiet, scan, limits, settling, settled, writing }
    }

    /// Records the files that exist now. Returns the names of policies with a file that has settled or is gone, and
    /// without a file that is still changing: the two files of a policy are one unit.
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

    /// Returns the components that will probably settle soon, with the names of their policies.
    pub(super) fn foresee(&mut self) -> Vec<(String, Vec<u8>)> {
        let foreseen = self.settling.foresee(self.quiet / LOOKS);
        // The settings beside a component may disable the policy.
        let wanted =
            foreseen.into_iter().filter(|(file, _)| file.ends_with(".wasm") && self.may_compile_ahead(file));
        let read = |(file, fingerprint): (String, Fingerprint)| {
            let bytes = files::read_open(&self.directory.join(&file), fingerprint, AHEAD).ok()??;
            Some((stem(&file).to_owned(), bytes))
        };
        wanted.filter_map(read).collect()
    }

    /// Returns whether a file is still changing, or is to be checked again soon.
    pub(super) fn is_pending(&self) -> bool {
        self.settling.is_pending(self.quiet)
    }

    /// Returns the fingerprint of a file. `None`: the file does not exist, or has not settled.
    pub(super) fn settled(&self, file: &str) -> Option<Fingerprint> {
        self.settled.get(file).copied()
    }

    /// Returns whether settings exist without their policy.
    pub(super) fn is_stray(&self, toml: &str) -> bool {
        self.settled.contains_key(toml) && !self.settled.contains_key(&format!("{}.wasm", stem(toml)))
    }

    /// Reports the file as settled once more after this time.
    pub(super) fn retry(&mut self, file: &str, after: Duration) {
        self.settling.retry(file, after);
    }

    /// Forgets a file that is gone.
    pub(super) fn forget(&mut self, file: &str) {
        self.writing.remove(file);
    }

    /// Returns whether a file may become active, as far as is known now.
    fn may_compile_ahead(&self, file: &str) -> bool {
        let toml = self.directory.join(format!("{}.toml", stem(file)));
        match files::read_now(&toml, self.limits.config) {
            Ok(bytes) => Settings::parse(&bytes).is_ok_and(|settings| settings.enabled),
            Err(_) => true,
        }
    }

    /// Returns the settings of a policy. `None`: the file is still changing.
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
            Err(error) if self.retries_silently(file, &error) => Ok(None),
            Err(error) => Err(PolicyError::Settings(format!("{file}: {error}"))),
        }
    }

    /// Retries a failed read later. Returns whether the retry is silent.
    fn retries_silently(&mut self, file: &str, error: &ReadError) -> bool {
        if matches!(error, ReadError::Young) {
            // The file will be old enough soon, unless someone keeps writing.
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

    /// Checks a file that seems to be written again later. Returns whether to wait silently: only a long write is
    /// reported.
    fn is_worth_waiting(&mut self, file: &str) -> bool {
        let seen = self.settled.get(file).copied();
        let writing = self.writing.entry(file.to_owned()).or_insert_with(|| (seen, Instant::now()));
        if writing.0 != seen {
            // The file has changed: the time for the write starts again.
            *writing = (seen, Instant::now());
        }
        let is_worth_it = writing.1.elapsed() < LONG_WRITE;
        // A file that has been reported is checked only at each scan: the rest of the directory must not wait for it.
        self.settling.retry(file, if is_worth_it { self.quiet } else { self.scan });
        is_worth_it
    }

    /// Reads a policy's file completely. `None`: the file is still changing.
    pub(super) fn read_whole(
        &mut self,
        file: &str,
        fingerprint: Fingerprint,
    ) -> Result<Option<Vec<u8>>, PolicyError> {
        let (path, limit) = (self.directory.join(file), self.limits.component);
        let mut bytes = files::read(&path, fingerprint, limit);
        if matches!(bytes, Err(ReadError::Young)) {
            // A seal can show at once that the file is complete.
            let now = files::read_open(&path, fingerprint, limit);
            if let Ok(Some(now)) = now
                && verify(&now).is_ok_and(|seal| seal.is_some())
            {
                bytes = Ok(Some(now));
            }
        }
        match bytes {
            Ok(Some(bytes)) => match verify(&bytes) {
                // The rest may still be written, unless the file is known to be closed.
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
            // A file that could not be read may be good, and may not change again.
            Err(error) if self.retries_silently(file, &error) => Ok(None),
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
