//! The handle to a policy directory, and loading one file as a directory would.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};

use futures_core::Stream;
use tokio::sync::{oneshot, watch};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::WatchStream;

use super::entry::DirectoryState;
use super::follower::Follower;
use super::options::PolicyDirOptions;
use super::queue::Wanted;
use super::rollout::{Command, RolloutError};
use super::settings::Settings;
use super::shared::Shared;
use super::status::PolicyStatus;
use super::update::PolicyUpdate;
use crate::files::{self, ReadError};
use crate::lifecycle::PolicyVersion;
use crate::policy::{Compiler, PolicyError, RolloutCommand, WasmPolicy, digest};
use crate::trace::{self, RecordOptions, TraceStream};
use crate::workers;

/// A directory of policies: `color.wasm` is the policy "color". Cheap to clone. The directory is followed as long as a
/// clone of the handle, or a channel that uses it, exists.
///
/// A directory that is missing or empty is not an error: channels use round robin until there is a policy.
#[derive(Clone)]
pub struct PolicyDir(Arc<Shared>);

/// Reason why a directory cannot be followed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyDirError {
    /// The path names something that is not a directory.
    #[error("policy directory {0:?} is not a directory")]
    NotADirectory(PathBuf),
    /// The path cannot be made absolute, or a thread cannot be started.
    #[error("policy directory {path:?}: {source}")]
    Io {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// Loads one file, with the settings beside it, as a directory would.
///
/// # Errors
///
/// If the file is not a policy, or is disabled. The error says why.
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
    let spec = settings.spec(PolicyVersion::new(name, 1, digest), options)?;
    let policy = WasmPolicy::load(&bytes, spec, Arc::default(), &Compiler::new(options.compile.clone()))?;
    options.admit(policy)
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
        let failed = |source| PolicyDirError::Io { path: path.to_owned(), source };
        // Absolute, but not canonical: the target of a symlink may change.
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
            snapshot: watch::Sender::new(DirectoryState::default()),
            dirty: dirty.clone(),
            wanted: Wanted::default(),
            commands: Mutex::default(),
        });
        let follower = Follower::new(&shared, options, dirty, wake).map_err(failed)?;
        let thread = std::thread::Builder::new().name("hotpick-policies".to_owned());
        thread.spawn(move || follower.run()).map_err(failed)?;
        Ok(Self(shared))
    }

    /// Returns the absolute path of the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Returns the current status of each policy of the directory, sorted by name.
    #[must_use]
    pub fn status(&self) -> Vec<PolicyStatus> {
        let snapshot = self.0.snapshot.borrow();
        snapshot.policies.iter().map(|(name, entry)| PolicyStatus::of(name, entry)).collect()
    }

    /// Records a policy: the next instance that starts in a channel which uses the policy, and for which one is
    /// started at once. `None`: the directory has no policy of this name, or eight requests wait already.
    #[must_use]
    pub fn record(&self, name: &str, options: &RecordOptions) -> Option<TraceStream> {
        let metrics = Arc::clone(&self.0.snapshot.borrow().policies.get(name)?.metrics);
        trace::request(&metrics.recordings, options)
    }

    /// Steers the rollout of a policy. The effect is there when this returns.
    ///
    /// # Errors
    ///
    /// If there is no rollout, or the command makes no sense now.
    pub async fn steer(&self, name: &str, command: RolloutCommand) -> Result<(), RolloutError> {
        let (answer, answered) = oneshot::channel();
        let command = Command { policy: name.to_owned(), command, answer };
        self.0.commands.lock().unwrap_or_else(PoisonError::into_inner).push(command);
        let _ = self.0.dirty.try_send(());
        answered.await.unwrap_or(Err(RolloutError::Ended))
    }

    /// Returns the settings files of the directory that belong to no policy, by name, each with an explanation. Usually
    /// the name is misspelled.
    #[must_use]
    pub fn stray_settings(&self) -> BTreeMap<String, String> {
        self.0.snapshot.borrow().strays.clone()
    }

    /// Follows one policy. Only the last of several changes in quick succession may be reported.
    pub fn watch(&self, name: &str) -> Pin<Box<dyn Stream<Item = PolicyUpdate> + Send>> {
        let name = name.to_owned();
        let mut seen = None;
        let mut given = PolicyVersion::default();
        // While someone watches, the directory is followed, and this policy is loaded before others.
        let alive = (Arc::clone(&self.0), self.0.wanted.want(&name));
        let updates = WatchStream::new(self.0.snapshot.subscribe()).filter_map(move |snapshot| {
            let _alive = &alive;
            let Some(entry) = snapshot.policies.get(&name) else {
                // A policy is unknown only after the first complete scan.
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

impl std::fmt::Debug for PolicyDir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PolicyDir").field(&self.0.path).finish()
    }
}
