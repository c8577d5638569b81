//! A directory of policies, followed as its files change.
//!
//! Events are hints, a scan of the whole directory is the truth. A file that has come to rest is read,
//! compiled and checked on this module's own thread; the result goes to the channels that use the
//! policy. A bad file changes nothing but the status and the log: the version in force stays.
//!
//! Beside `color.wasm` there may be `color.toml`, with what the operator says of the policy:
//!
//! ```toml
//! enabled = true            # false: no channel uses it any more
//! wasm-sha256 = "9f86d0..." # the file must have this digest
//!
//! [config]                  # for channels that give the policy no configuration of their own
//! unmatched = "any"
//! ```
//!
//! Code and settings are one: a change of either is a new version, by the same road.

mod settings;
mod watcher;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_core::Stream;
use tokio::sync::watch;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::WatchStream;

use self::settings::Settings;
use self::watcher::Watcher;
use crate::files::{self, Fingerprint, ReadError, Settling};
use crate::picker::{Policy, PolicyVersion};
use crate::policy::{Limits, PolicyError, WasmPolicy, digest, is_policy_name};

/// A directory of policies: `color.wasm` is the policy "color". Cheap to clone; it is followed for as
/// long as a clone of it, or a channel that uses it, lives.
///
/// A directory that is missing or empty is no error: channels use round robin until there is a policy.
#[derive(Clone)]
pub struct PolicyDir(Arc<Shared>);

struct Shared {
    path: PathBuf,
    snapshot: watch::Sender<Snapshot>,
    dirty: SyncSender<()>,
}

/// How a directory is followed.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PolicyDirOptions {
    /// How long a file must stay the same before it is read.
    pub quiet: Duration,
    /// How often the directory is scanned when there are no events: some changes cause none.
    pub scan: Duration,
    /// The limits of each policy.
    pub limits: Limits,
}

impl Default for PolicyDirOptions {
    fn default() -> Self {
        Self { quiet: Duration::from_millis(150), scan: Duration::from_secs(5), limits: Limits::default() }
    }
}

/// Why a directory cannot be followed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyDirError {
    /// The path is something else.
    #[error("policy directory {0:?} is not a directory")]
    NotADirectory(PathBuf),
    /// The path cannot be made absolute, or the thread not be started.
    #[error("policy directory {path:?}: {error}")]
    Io {
        /// The path.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
}

/// What a channel is told of its policy. The first update comes when the directory has been read once.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PolicyUpdate {
    /// This version is to be used from now on.
    Loaded(Arc<dyn Policy>),
    /// The file is bad. The version in force stays.
    Rejected(PolicyError),
    /// The file is gone. The version in force stays: removal is not disabling.
    Withdrawn,
    /// Its settings say `enabled = false`: it is not to be used any more.
    Disabled,
    /// There is no such file.
    Unknown,
}

/// One policy of a directory.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PolicyStatus {
    /// The policy's name.
    pub name: String,
    /// The last good version, if there was one.
    pub version: Option<PolicyVersion>,
    /// Its settings do not say `enabled = false`.
    pub enabled: bool,
    /// Why the file that lies there now is not in force.
    pub rejected: Option<PolicyError>,
    /// The file is there. If it is not, channels that used it go on with the last good version.
    pub present: bool,
}

#[derive(Clone, Default)]
struct Snapshot {
    /// The directory has been read once.
    complete: bool,
    policies: BTreeMap<String, Entry>,
}

#[derive(Clone, Default)]
struct Entry {
    policy: Option<WasmPolicy>,
    /// With which the policy was loaded, or which disable it.
    settings: Settings,
    rejected: Option<PolicyError>,
    present: bool,
    /// One more at each change of this entry.
    revision: u64,
}

impl PolicyDir {
    /// Follows a directory, with default options.
    ///
    /// # Errors
    ///
    /// The path names something that is not a directory.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, PolicyDirError> {
        Self::open_with(path, PolicyDirOptions::default())
    }

    /// Follows a directory.
    ///
    /// # Errors
    ///
    /// The path names something that is not a directory.
    pub fn open_with(path: impl AsRef<Path>, options: PolicyDirOptions) -> Result<Self, PolicyDirError> {
        let path = path.as_ref();
        let failed = |error| PolicyDirError::Io { path: path.to_owned(), error };
        // Not canonical: where a symlink leads may change.
        let absolute = std::path::absolute(path).map_err(failed)?;
        match std::fs::metadata(&absolute) {
            Ok(metadata) if !metadata.is_dir() => return Err(PolicyDirError::NotADirectory(path.to_owned())),
            Ok(_) => {}
            Err(error) => {
                let directory = path.display();
                tracing::warn!(%directory, %error, "no policy directory yet: channels use round robin until there is one");
            }
        }
        let (dirty, wake) = sync_channel(1);
        let shared = Arc::new(Shared {
            path: absolute.clone(),
            snapshot: watch::Sender::new(Snapshot::default()),
            dirty: dirty.clone(),
        });
        let follower = Follower {
            shared: Arc::downgrade(&shared),
            directory: absolute.clone(),
            options,
            wake,
            watcher: Watcher::new(&absolute, dirty),
            settling: Settling::default(),
            at_rest: BTreeMap::new(),
            snapshot: Snapshot::default(),
            unreadable: false,
        };
        let thread = std::thread::Builder::new().name("hotpick-policies".to_owned());
        thread.spawn(move || follower.run()).map_err(failed)?;
        Ok(Self(shared))
    }

    /// The directory, as an absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Each policy of the directory as it is now, by name.
    #[must_use]
    pub fn status(&self) -> Vec<PolicyStatus> {
        let snapshot = self.0.snapshot.borrow();
        let status = |(name, entry): (&String, &Entry)| PolicyStatus {
            name: name.clone(),
            version: entry.policy.as_ref().map(Policy::version),
            enabled: entry.settings.enabled,
            rejected: entry.rejected.clone(),
            present: entry.present,
        };
        snapshot.policies.iter().map(status).collect()
    }

    /// Follows one policy. Of several changes in a row only the last may be seen.
    pub fn watch(&self, name: &str) -> Pin<Box<dyn Stream<Item = PolicyUpdate> + Send>> {
        let name = name.to_owned();
        let mut seen = None;
        let mut given = PolicyVersion::default();
        // As long as someone watches, the directory is followed.
        let alive = Arc::clone(&self.0);
        let updates = WatchStream::new(self.0.snapshot.subscribe()).filter_map(move |snapshot| {
            let _alive = &alive;
            let Some(entry) = snapshot.policies.get(&name) else {
                // Not yet seen is not unknown.
                return (snapshot.complete && seen.replace(0) != Some(0)).then_some(PolicyUpdate::Unknown);
            };
            if seen.replace(entry.revision) == Some(entry.revision) {
                return None;
            }
            Some(entry.update(&mut given))
        });
        Box::pin(updates)
    }
}

impl Entry {
    /// The news for a watcher that has last been given this version. A good version comes before the bad
    /// file that lies there now: it is the one in force.
    fn update(&self, given: &mut PolicyVersion) -> PolicyUpdate {
        if self.present && !self.settings.enabled {
            // Enabled again, it is news.
            *given = PolicyVersion::default();
            return PolicyUpdate::Disabled;
        }
        match (&self.policy, &self.rejected) {
            (Some(policy), rejected)
                if self.present && (rejected.is_none() || policy.version() != *given) =>
            {
                *given = policy.version();
                PolicyUpdate::Loaded(Arc::new(policy.clone()))
            }
            (_, Some(error)) => PolicyUpdate::Rejected(error.clone()),
            (Some(_), None) => PolicyUpdate::Withdrawn,
            (None, None) => PolicyUpdate::Unknown,
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Wakes the thread, which finds that no one is left.
        let _ = self.dirty.try_send(());
    }
}

impl std::fmt::Debug for PolicyDir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PolicyDir").field(&self.0.path).finish()
    }
}

/// The thread that follows a directory.
struct Follower {
    shared: Weak<Shared>,
    directory: PathBuf,
    options: PolicyDirOptions,
    wake: Receiver<()>,
    watcher: Watcher,
    settling: Settling,
    /// What is there, of all that has come to rest.
    at_rest: BTreeMap<String, Fingerprint>,
    snapshot: Snapshot,
    /// The directory could not be listed the last time.
    unreadable: bool,
}

impl Follower {
    fn run(mut self) {
        loop {
            // Armed first: what changes during the scan is then an event.
            self.watcher.arm();
            self.scan();
            let Some(shared) = self.shared.upgrade() else { return };
            // The first picture is complete when nothing in it is still moving.
            self.snapshot.complete |= !self.settling.is_pending();
            shared.snapshot.send_replace(self.snapshot.clone());
            drop(shared);
            let wait = if self.settling.is_pending() { self.options.quiet / 3 } else { self.options.scan };
            match self.wake.recv_timeout(wait) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn scan(&mut self) {
        let present = match list(&self.directory) {
            Ok(present) => present,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                // That it cannot be seen does not mean that nothing is there.
                if !std::mem::replace(&mut self.unreadable, true) {
                    let directory = self.directory.display();
                    tracing::warn!(%directory, %error, "policy directory cannot be read: all stays as it is");
                }
                return;
            }
        };
        self.unreadable = false;
        let mut changed = BTreeSet::new();
        for (file, seen) in self.settling.observe(&present, self.options.quiet) {
            changed.insert(stem(&file).to_owned());
            match seen {
                Some(fingerprint) => self.at_rest.insert(file, fingerprint),
                None => self.at_rest.remove(&file),
            };
        }
        for name in changed {
            let (wasm, toml) = (format!("{name}.wasm"), format!("{name}.toml"));
            if self.settling.is_moving(&wasm) || self.settling.is_moving(&toml) {
                // The two are one: both are taken when the other has come to rest.
                continue;
            }
            match self.at_rest.get(&wasm).copied() {
                Some(fingerprint) => self.load(&name, &wasm, fingerprint, &toml),
                None => self.withdraw(&name),
            }
        }
    }

    /// What the operator says of a policy. None: the file is still changing.
    fn settings(&mut self, file: &str) -> Result<Option<Settings>, PolicyError> {
        let Some(fingerprint) = self.at_rest.get(file).copied() else { return Ok(Some(Settings::default())) };
        match files::read(&self.directory.join(file), fingerprint, self.options.limits.config) {
            Ok(Some(bytes)) => Settings::parse(&bytes).map(Some),
            Ok(None) => {
                self.settling.retry(file, Duration::ZERO);
                Ok(None)
            }
            Err(error) => {
                self.settling.retry(file, self.options.scan);
                Err(PolicyError::Settings(format!("{file}: {error}")))
            }
        }
    }

    fn load(&mut self, name: &str, file: &str, fingerprint: Fingerprint, settings: &str) {
        if !is_policy_name(name) {
            return self.reject(name, PolicyError::Name(name.to_owned()));
        }
        let settings = match self.settings(settings) {
            Ok(Some(settings)) => settings,
            Ok(None) => return,
            Err(error) => return self.reject(name, error),
        };
        if !settings.enabled {
            tracing::warn!(policy = name, "policy disabled by its settings");
            return self.change(name, |entry| {
                entry.settings = settings;
                entry.rejected = None;
            });
        }
        let bytes = match files::read(&self.directory.join(file), fingerprint, self.options.limits.component)
        {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return self.settling.retry(file, Duration::ZERO),
            Err(error) => {
                // What could not be read may be good, and not change: it is tried again.
                self.settling.retry(file, self.options.scan);
                return self.reject(name, error.into());
            }
        };
        let digest = digest(&bytes);
        if let Err(error) = settings.check(&digest) {
            return self.reject(name, error);
        }
        let entry = self.snapshot.policies.get(name);
        let current = entry.and_then(|entry| entry.policy.as_ref()).map(Policy::version).unwrap_or_default();
        if current.digest == digest && entry.is_some_and(|entry| entry.settings.config == settings.config) {
            return self.change(name, |entry| {
                entry.settings = settings;
                entry.rejected = None;
            });
        }
        match WasmPolicy::compile(name, current.generation + 1, &bytes, self.options.limits) {
            Ok(policy) => {
                tracing::info!(policy = %policy.version(), "policy loaded");
                let policy = match &settings.config {
                    Some(config) => policy.with_config(serde_json::Value::Object(config.clone()).to_string()),
                    None => policy,
                };
                self.change(name, |entry| {
                    entry.policy = Some(policy);
                    entry.settings = settings;
                    entry.rejected = None;
                });
            }
            Err(error) => self.reject(name, error),
        }
    }

    fn reject(&mut self, name: &str, error: PolicyError) {
        if self.snapshot.policies.get(name).and_then(|entry| entry.rejected.as_ref()) == Some(&error) {
            return;
        }
        let in_force = self.in_force(name);
        tracing::warn!(policy = name, %error, in_force, "policy rejected");
        self.change(name, |entry| entry.rejected = Some(error));
    }

    fn withdraw(&mut self, name: &str) {
        if self.snapshot.policies.contains_key(name) {
            tracing::warn!(policy = name, in_force = self.in_force(name), "policy file is gone");
            self.change(name, |entry| {
                entry.present = false;
                entry.rejected = None;
            });
        }
    }

    /// What channels that use the policy go on with.
    fn in_force(&self, name: &str) -> String {
        let policy = self.snapshot.policies.get(name).and_then(|entry| entry.policy.as_ref());
        policy.map_or_else(|| "round robin".to_owned(), |policy| policy.version().to_string())
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Entry)) {
        let entry = self.snapshot.policies.entry(name.to_owned()).or_default();
        entry.present = true;
        change(entry);
        entry.revision += 1;
    }
}

fn stem(file: &str) -> &str {
    file.strip_suffix(".wasm").or(file.strip_suffix(".toml")).unwrap_or(file)
}

/// The policy files in a directory, by name, each with its fingerprint: what ends in `.wasm` or `.toml` and is not
/// an editor's, a tool's or a hidden file. What cannot be looked at (a dangling symlink) is not there.
pub(crate) fn list(directory: &Path) -> io::Result<BTreeMap<String, Fingerprint>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        // A name that is not UTF-8 cannot be a policy's; shown, it names itself in the refusal.
        let name = entry.file_name().to_string_lossy().into_owned();
        if (name.ends_with(".wasm") || name.ends_with(".toml"))
            && !name.starts_with(['.', '_'])
            && let Some(fingerprint) = Fingerprint::at(&entry.path())
        {
            files.insert(name, fingerprint);
        }
    }
    Ok(files)
}

impl From<ReadError> for PolicyError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::TooLarge { size, limit } => Self::TooLarge { size, limit },
            ReadError::Io(_) | ReadError::NotRegular => Self::Read(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_files_are_passed_over() {
        let directory = tempfile::tempdir().expect("a directory");
        for name in
            ["a.wasm", ".a.wasm", "_a.wasm", "a.wasm~", "a.wasm.tmp", "a.toml", "a.wasm.swp", "B c.wasm"]
        {
            std::fs::write(directory.path().join(name), "x").expect("written");
        }
        std::fs::create_dir(directory.path().join("..data")).expect("made");
        let names: Vec<_> = list(directory.path()).expect("listed").into_keys().collect();
        assert_eq!(names, ["B c.wasm", "a.toml", "a.wasm"]);
    }
}
