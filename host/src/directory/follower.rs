//! The thread that follows a directory: scans it, lets files settle, and hands them to the catalog.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::catalog::{Catalog, Offer};
use super::judgement;
use super::listing::list;
use super::options::PolicyDirOptions;
use super::queue::{CompileQueue, Compiled, Job};
use super::rollout::Command;
use super::settled::{LOOKS, SettledFiles};
use super::shared::Shared;
use super::watch::{Watcher, is_on_a_network};
use crate::files::Fingerprint;
use crate::lifecycle::{PolicyVersion, is_policy_name};
use crate::policy::{PolicyError, digest};
use crate::supervision::{self, guarded};

pub(super) struct Follower {
    shared: Weak<Shared>,
    directory: PathBuf,
    options: PolicyDirOptions,
    wake: Receiver<()>,
    watcher: Watcher,
    queue: CompileQueue,
    files: SettledFiles,
    catalog: Catalog,
    /// Whether the last attempt to list the directory failed.
    unreadable: bool,
    /// Whether other machines may write to the directory, which causes no events here.
    on_a_network: bool,
}

/// Shortest time from the start of a scan to the start of the next.
const BETWEEN_SCANS: Duration = Duration::from_millis(10);
/// Delay before a compilation that the machine prevented is retried. Doubled each time.
const RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(5);
/// Interval of scans of a directory that other machines may write to.
const NETWORK_SCAN: Duration = Duration::from_secs(1);
/// Interval of looks at a rollout.
const BETWEEN_LOOKS: Duration = Duration::from_millis(250);
const SHORTEST_LOOK: Duration = Duration::from_millis(10);

impl Follower {
    pub(super) fn new(
        shared: &Arc<Shared>,
        options: PolicyDirOptions,
        dirty: SyncSender<()>,
        wake: Receiver<()>,
    ) -> io::Result<Self> {
        Ok(Self {
            shared: Arc::downgrade(shared),
            directory: shared.path.clone(),
            files: SettledFiles::new(shared.path.clone(), &options),
            wake,
            watcher: Watcher::new(&shared.path, dirty.clone()),
            queue: CompileQueue::start(options.compile.clone(), shared.wanted.clone(), dirty.clone())?,
            options,
            catalog: Catalog::new(dirty),
            unreadable: false,
            on_a_network: false,
        })
    }

    /// Runs until no one uses the directory any more.
    pub(super) fn run(mut self) {
        // No cause of a panic is known in `follow`, but the directory must be followed after one, too.
        while guarded("the follower of a policy directory", || self.follow()).is_none() {
            std::thread::sleep(supervision::AGAIN);
            self.files = SettledFiles::new(self.directory.clone(), &self.options);
            self.catalog.recover();
        }
    }

    fn follow(&mut self) {
        loop {
            let begun = Instant::now();
            // Armed first: a change during the scan is then an event.
            self.watcher.arm();
            self.scan();
            self.take_compiled();
            self.catalog.roll_back();
            self.catalog.tend_rollouts();
            let Some(shared) = self.shared.upgrade() else { return };
            for Command { policy, command, answer } in shared.take_commands() {
                let _ = answer.send(self.catalog.steer(&policy, command));
            }
            // The first snapshot is complete when no file is changing.
            self.catalog.snapshot.complete |= !self.files.is_pending();
            shared.snapshot.send_replace(self.catalog.snapshot.clone());
            drop(shared);
            match self.wake.recv_timeout(self.pause()) {
                // A file that is written to without a pause causes events without a pause.
                Ok(()) => {
                    let pause = (self.options.quiet / LOOKS).min(BETWEEN_SCANS);
                    std::thread::sleep(pause.saturating_sub(begun.elapsed()));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Returns the time until the next scan if there is no event.
    fn pause(&self) -> Duration {
        let rollout = self.catalog.rollout_due().map(|due| {
            // A version that keeps RPCs must not keep them for a whole interval.
            let due = due.saturating_duration_since(tokio::time::Instant::now());
            due.clamp(SHORTEST_LOOK, BETWEEN_LOOKS)
        });
        rollout.map_or_else(|| self.pause_of_files(), |rollout| rollout.min(self.pause_of_files()))
    }

    fn pause_of_files(&self) -> Duration {
        if self.files.is_pending() {
            self.options.quiet / LOOKS
        } else if self.catalog.awaits_judgement() {
            judgement::ROLL_BACK_AFTER / 4
        } else if self.on_a_network {
            self.options.scan.min(NETWORK_SCAN)
        } else {
            self.options.scan
        }
    }

    fn scan(&mut self) {
        let before = std::mem::replace(&mut self.on_a_network, is_on_a_network(&self.directory));
        if self.on_a_network && !before {
            let directory = self.directory.display();
            tracing::info!(%directory, every = ?NETWORK_SCAN, "policy directory is on a network: it is polled");
        }
        let present = match list(&self.directory) {
            Ok(present) => present,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                // A directory that cannot be listed is not an empty one.
                if !std::mem::replace(&mut self.unreadable, true) {
                    let directory = self.directory.display();
                    tracing::warn!(%directory, %error, "policy directory cannot be read: all stays as it is");
                }
                return;
            }
        };
        self.unreadable = false;
        let changed = self.files.observe(&present);
        // The quiet time is used to compile files that will probably settle.
        for (name, bytes) in self.files.foresee() {
            self.queue.compile_ahead(&name, bytes, self.options.limits);
        }
        for name in changed {
            let (wasm, toml) = (format!("{name}.wasm"), format!("{name}.toml"));
            match self.files.settled(&wasm) {
                Some(fingerprint) => {
                    if let Err(error) = self.take_in(&name, &wasm, fingerprint, &toml) {
                        self.reject(&name, error);
                    }
                }
                None if self.catalog.snapshot.policies.contains_key(&name) => self.remove(&name, &toml),
                None => self.lone_settings(&toml),
            }
        }
        let files = &self.files;
        self.catalog.snapshot.strays.retain(|toml, _| files.is_stray(toml));
        self.catalog.forget_removed();
    }

    /// Reads files that have settled, and has them compiled if they are new.
    fn take_in(
        &mut self,
        name: &str,
        file: &str,
        fingerprint: Fingerprint,
        settings: &str,
    ) -> Result<(), PolicyError> {
        if !is_policy_name(name) {
            return Err(PolicyError::Name(name.to_owned()));
        }
        let Some(settings) = self.files.settings(settings)? else { return Ok(()) };
        if !settings.enabled {
            self.disable(name);
            self.catalog.change(name, |entry| entry.present = true);
            return Ok(());
        }
        self.catalog.enable(name);
        let Some(bytes) = self.files.read_whole(file, fingerprint)? else { return Ok(()) };
        let digest = digest(&bytes);
        settings.check(&digest)?;
        // The version gets its generation when it becomes active.
        let version = PolicyVersion::new(name, 0, digest.clone());
        let spec = settings.spec(version, &self.options)?;
        match self.catalog.offer(name, digest, settings) {
            Offer::Known => {}
            Offer::Active => self.queue.forget(name),
            Offer::Compile(ticket) => {
                tracing::debug!(policy = name, size = bytes.len(), "policy is being compiled");
                let metrics = self.catalog.metrics(name);
                self.queue.load(Job { name: name.to_owned(), ticket, bytes: bytes.into(), spec, metrics });
            }
        }
        Ok(())
    }

    /// Takes what the queue has compiled.
    fn take_compiled(&mut self) {
        for Compiled { name, ticket, result } in self.queue.take() {
            let Some(job) = self.catalog.history.take_job(&name, ticket) else { continue };
            let is_postponed = matches!(result, Err(PolicyError::NotNow(_)));
            let versions = self.catalog.history.of(&name);
            versions.postponed = if is_postponed { versions.postponed + 1 } else { 0 };
            let after = RETRY.saturating_mul(1 << versions.postponed.min(16)).min(LONGEST_RETRY);
            match result.and_then(|policy| self.options.admit(policy)) {
                Ok(policy) => self.catalog.activate(&name, policy, job.settings),
                Err(error) => self.reject(&name, error),
            }
            if is_postponed {
                self.files.retry(&format!("{name}.wasm"), after);
            }
        }
    }

    fn reject(&mut self, name: &str, error: PolicyError) {
        self.queue.forget(name);
        self.catalog.reject(name, error);
    }

    fn disable(&mut self, name: &str) {
        self.queue.forget(name);
        self.catalog.disable(name);
    }

    fn remove(&mut self, name: &str, settings: &str) {
        self.files.forget(&format!("{name}.wasm"));
        // Channels continue to use the policy, and its settings can still disable it.
        match self.files.settings(settings) {
            Ok(Some(settings)) if !settings.enabled => self.disable(name),
            Ok(Some(_)) => self.catalog.entry(name).enabled = true,
            Ok(None) | Err(_) => {}
        }
        self.queue.forget(name);
        self.catalog.remove(name);
    }

    /// Handles settings without a policy: usually the file's name is misspelled.
    fn lone_settings(&mut self, file: &str) {
        if self.files.settled(file).is_none() {
            return;
        }
        let explanation = match self.files.settings(file) {
            Ok(Some(settings)) if settings.enabled => "there is no policy file of that name".to_owned(),
            Ok(Some(_)) => "there is no policy file of that name, and nothing is disabled".to_owned(),
            Ok(None) => return,
            Err(error) => format!("there is no policy file of that name, and the file {error}"),
        };
        let strays = &mut self.catalog.snapshot.strays;
        if strays.get(file) != Some(&explanation) {
            tracing::warn!(settings = ?file, "settings of no policy: {explanation}");
            strays.insert(file.to_owned(), explanation);
        }
    }
}
