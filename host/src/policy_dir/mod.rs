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
//! Code and settings are one: a change of either is a new version, by the same road. `docs/operating.md` has
//! all that settings can say.

mod follower;
mod listing;
mod loader;
mod reading;
mod settings;
mod status;
mod versions;
mod watcher;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use futures_core::Stream;
use tokio::sync::watch;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::WatchStream;

use self::follower::Follower;
use self::loader::Wanted;
use self::settings::Settings;
use crate::files::{self, ReadError};
use crate::picker::{Policy, PolicyVersion};
use crate::policy::{CompileOptions, Compiler, Limits, PolicyError, Record, WasmPolicy, digest};
use crate::workers;

pub use self::status::{PolicyState, PolicyStatus, Quarantine};

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
    wanted: Wanted,
}

/// How a directory is followed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PolicyDirOptions {
    /// How long a file must stay the same before it is read.
    pub quiet: Duration,
    /// How often the directory is scanned when there are no events: some changes cause none.
    pub scan: Duration,
    /// The limits of each policy, unless its settings say otherwise.
    pub limits: Limits,
    /// What the settings of a policy may raise its limits to.
    pub caps: Limits,
    /// How policies are compiled.
    pub compile: CompileOptions,
    /// Refuse files without a [seal](crate::policy::Seal), of which nothing shows whether they are whole.
    pub require_seal: bool,
}

impl Default for PolicyDirOptions {
    fn default() -> Self {
        Self {
            quiet: Duration::from_millis(150),
            scan: Duration::from_secs(5),
            limits: Limits::default(),
            caps: Limits::caps(),
            compile: CompileOptions::default(),
            require_seal: false,
        }
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
    /// It failed too often, and there is no earlier version: it is not to be used any more.
    Quarantined(Quarantine),
    /// There is no such file.
    Unknown,
}

#[derive(Clone, Default)]
struct Snapshot {
    /// The directory has been read once.
    complete: bool,
    policies: BTreeMap<String, Entry>,
    /// Settings that belong to no policy: by the file's name, what there is to say of them.
    strays: BTreeMap<String, String>,
}

#[derive(Clone)]
struct Entry {
    /// The version in force.
    policy: Option<WasmPolicy>,
    /// With which the policy was loaded.
    settings: Settings,
    /// The settings that lie there do not say `enabled = false`.
    enabled: bool,
    rejected: Option<PolicyError>,
    quarantined: Option<Quarantine>,
    /// A version is being made.
    loading: bool,
    /// The digest of the version to go back to.
    previous: Option<String>,
    present: bool,
    record: Arc<Record>,
    /// One more at each change of this entry.
    revision: u64,
}

/// Loads one file, with the settings beside it, as a directory would.
///
/// # Errors
///
/// It is no policy, or is disabled; the error says why.
pub fn load(file: impl AsRef<Path>, options: &PolicyDirOptions) -> Result<WasmPolicy, PolicyError> {
    let file = file.as_ref();
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let bytes = files::read_now(file, options.limits.component)?;
    let beside = if file.extension().is_some_and(|extension| extension == "wasm") {
        files::read_now(&file.with_extension("toml"), options.limits.config)
    } else {
        Ok(Vec::new())
    };
    let settings = match beside {
        Ok(bytes) => Settings::parse(&bytes)?,
        Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Settings::default(),
        Err(error) => return Err(PolicyError::Settings(error.to_string())),
    };
    let digest = digest(&bytes);
    settings.check(&digest)?;
    let terms = settings.terms(PolicyVersion::new(name, 1, digest), options, Arc::default())?;
    let policy = WasmPolicy::load(&bytes, terms, &Compiler::new(options.compile.clone()))?;
    options.admit(policy)
}

impl PolicyDirOptions {
    fn admit(&self, policy: WasmPolicy) -> Result<WasmPolicy, PolicyError> {
        if self.require_seal && policy.seal().is_none() { Err(PolicyError::Unsealed) } else { Ok(policy) }
    }
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
        workers::ready().map_err(failed)?;
        let (dirty, wake) = sync_channel(1);
        let shared = Arc::new(Shared {
            path: absolute,
            snapshot: watch::Sender::new(Snapshot::default()),
            dirty: dirty.clone(),
            wanted: Wanted::default(),
        });
        let follower = Follower::new(&shared, options, dirty, wake).map_err(failed)?;
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
        snapshot.policies.iter().map(|(name, entry)| PolicyStatus::of(name, entry)).collect()
    }

    /// The settings files of the directory that belong to no policy, by name, each with a sentence: a typing error in the
    /// name, as a rule.
    #[must_use]
    pub fn stray_settings(&self) -> BTreeMap<String, String> {
        self.0.snapshot.borrow().strays.clone()
    }

    /// Follows one policy. Of several changes in a row only the last may be seen.
    pub fn watch(&self, name: &str) -> Pin<Box<dyn Stream<Item = PolicyUpdate> + Send>> {
        let name = name.to_owned();
        let mut seen = None;
        let mut given = PolicyVersion::default();
        // As long as someone watches, the directory is followed, and this policy comes before others.
        let alive = (Arc::clone(&self.0), self.0.wanted.want(&name));
        let updates = WatchStream::new(self.0.snapshot.subscribe()).filter_map(move |snapshot| {
            let _alive = &alive;
            let Some(entry) = snapshot.policies.get(&name) else {
                // Not yet seen is not unknown.
                return (snapshot.complete && seen.replace(0) != Some(0)).then_some(PolicyUpdate::Unknown);
            };
            if seen.replace(entry.revision) == Some(entry.revision) {
                return None;
            }
            entry.update(&mut given)
        });
        Box::pin(updates)
    }
}

impl Entry {
    fn new(record: Arc<Record>) -> Self {
        Self {
            policy: None,
            settings: Settings::default(),
            enabled: true,
            rejected: None,
            quarantined: None,
            loading: false,
            previous: None,
            present: false,
            record,
            revision: 0,
        }
    }

    /// The news for a watcher that has last been given this version. A good version comes before the bad
    /// file that lies there now: it is the one in force.
    fn update(&self, given: &mut PolicyVersion) -> Option<PolicyUpdate> {
        if !self.enabled {
            // Enabled again, it is news.
            *given = PolicyVersion::default();
            return Some(PolicyUpdate::Disabled);
        }
        Some(match (&self.policy, &self.rejected) {
            (Some(policy), rejected)
                if self.present && (rejected.is_none() || policy.version() != *given) =>
            {
                *given = policy.version();
                PolicyUpdate::Loaded(Arc::new(policy.clone()))
            }
            // What will become of it is not known yet.
            (None, None) if self.loading => return None,
            (None, _) if self.quarantined.is_some() => {
                *given = PolicyVersion::default();
                PolicyUpdate::Quarantined(self.quarantined.clone()?)
            }
            (_, Some(error)) => PolicyUpdate::Rejected(error.clone()),
            (Some(_), None) => PolicyUpdate::Withdrawn,
            (None, None) => PolicyUpdate::Unknown,
        })
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
