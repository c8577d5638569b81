//! The thread that follows a directory.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::listing::list;
use super::loader::{Job, Loaded, Loader};
use super::reading::{Files, LOOKS};
use super::settings::Settings;
use super::versions::{Earlier, Versions};
use super::watcher::{Watcher, is_on_a_network};
use super::{Entry, PolicyDirOptions, Quarantine, Shared, Snapshot};
use crate::files::{Fingerprint, ReadError};
use crate::picker::{Policy as _, PolicyVersion, StartError};
use crate::policy::{PolicyError, Record, WasmPolicy, digest, is_policy_name};
use crate::supervision::{self, guarded};

pub(super) struct Follower {
    shared: Weak<Shared>,
    directory: PathBuf,
    options: PolicyDirOptions,
    wake: Receiver<()>,
    dirty: SyncSender<()>,
    watcher: Watcher,
    loader: Loader,
    files: Files,
    policies: BTreeMap<String, Versions>,
    /// The last ticket that was given. Of all names together, and never less: what is known of a name is forgotten when its
    /// file is gone, and a job of then must not be taken for one of the file that has its name now.
    last_ticket: u64,
    snapshot: Snapshot,
    /// The directory could not be listed the last time.
    unreadable: bool,
    /// No events come from elsewhere.
    on_a_network: bool,
}

/// From the beginning of a scan to that of the next, at least.
const BETWEEN_SCANS: Duration = Duration::from_millis(10);
/// How long after the last refusal a version is taken back that no channel has taken.
const JUDGEMENT: Duration = Duration::from_millis(200);
/// When a file is tried again that the machine, and not the file, was in the way of: doubled each time.
const AGAIN: Duration = Duration::from_millis(100);
const AGAIN_AT_MOST: Duration = Duration::from_secs(5);
/// How often a directory is scanned that other machines write to: they cause no events.
const NETWORK_SCAN: Duration = Duration::from_secs(1);

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
            files: Files::new(shared.path.clone(), &options),
            wake,
            watcher: Watcher::new(&shared.path, dirty.clone()),
            loader: Loader::start(options.compile.clone(), shared.wanted.clone(), dirty.clone())?,
            options,
            dirty,
            policies: BTreeMap::new(),
            last_ticket: 0,
            snapshot: Snapshot::default(),
            unreadable: false,
            on_a_network: false,
        })
    }

    /// Follows until nobody is interested any more.
    pub(super) fn run(mut self) {
        loop {
            // Nothing that is known of panics there; but if something does, the directory is followed all the same.
            match guarded("the follower of a policy directory", || self.follow()) {
                Some(()) => return,
                None => {
                    std::thread::sleep(supervision::AGAIN);
                    self.begin_anew();
                }
            }
        }
    }

    /// After a panic: what was taken in halfway is taken in again, and what was being made is made again.
    fn begin_anew(&mut self) {
        self.files = Files::new(self.directory.clone(), &self.options);
        for versions in self.policies.values_mut() {
            (versions.ticket, versions.job, versions.made_of) = (None, None, None);
        }
        for entry in self.snapshot.policies.values_mut() {
            entry.loading = false;
        }
    }

    fn follow(&mut self) {
        loop {
            let begun = Instant::now();
            // Armed first: what changes during the scan is then an event.
            self.watcher.arm();
            self.scan();
            self.take_loaded();
            self.judge();
            let Some(shared) = self.shared.upgrade() else { return };
            // The first picture is complete when nothing in it is still moving.
            self.snapshot.complete |= !self.files.is_pending();
            shared.snapshot.send_replace(self.snapshot.clone());
            drop(shared);
            match self.wake.recv_timeout(self.pause()) {
                // A file that is written to without a pause is an event without a pause.
                Ok(()) => {
                    let pause = (self.options.quiet / LOOKS).min(BETWEEN_SCANS);
                    std::thread::sleep(pause.saturating_sub(begun.elapsed()));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// How long until the next scan, if nothing happens.
    fn pause(&self) -> Duration {
        if self.files.is_pending() {
            self.options.quiet / LOOKS
        } else if self.is_refused_somewhere() {
            JUDGEMENT / 4
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
                // That it cannot be seen does not mean that nothing is there.
                if !std::mem::replace(&mut self.unreadable, true) {
                    let directory = self.directory.display();
                    tracing::warn!(%directory, %error, "policy directory cannot be read: all stays as it is");
                }
                return;
            }
        };
        self.unreadable = false;
        let changed = self.files.observe(&present);
        // The quiet time is not lost: what a file will be, most likely, is compiled meanwhile.
        for (name, bytes) in self.files.foresee() {
            self.loader.compile_ahead(&name, bytes, self.options.limits);
        }
        for name in changed {
            let (wasm, toml) = (format!("{name}.wasm"), format!("{name}.toml"));
            match self.files.at_rest(&wasm) {
                Some(fingerprint) => {
                    if let Err(error) = self.take_in(&name, &wasm, fingerprint, &toml) {
                        self.reject(&name, error);
                    }
                }
                None if self.snapshot.policies.contains_key(&name) => self.withdraw(&name, &toml),
                None => self.lone_settings(&toml),
            }
        }
        let files = &self.files;
        self.snapshot.strays.retain(|toml, _| files.is_stray(toml));
        self.forget_the_gone();
    }

    /// Of policies whose file is gone nothing is kept once no channel uses them: there may be any number of
    /// names.
    fn forget_the_gone(&mut self) {
        let Self { snapshot, policies, .. } = self;
        snapshot.policies.retain(|name, entry| {
            let keep = entry.present || !entry.enabled || entry.record.is_used();
            if !keep {
                policies.remove(name);
            }
            keep
        });
    }

    /// A version waits for its judgement: a channel has refused it, and none has taken it.
    fn is_refused_somewhere(&self) -> bool {
        let refused = |(name, entry): (&String, &Entry)| {
            let can_go_back = self.policies.get(name).is_some_and(|versions| !versions.earlier.is_empty());
            can_go_back && entry.record.refused_by_all(Duration::ZERO).is_some()
        };
        self.snapshot.policies.iter().any(refused)
    }

    /// Files that have come to rest: reads them, and has a version made of them if they are news.
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
            self.change(name, |entry| entry.present = true);
            return Ok(());
        }
        if !std::mem::replace(&mut self.entry(name).enabled, true) {
            tracing::info!(policy = name, "policy enabled");
            self.change(name, |entry| entry.present = true);
        }
        let Some(bytes) = self.files.read_whole(file, fingerprint)? else { return Ok(()) };
        let digest = digest(&bytes);
        settings.check(&digest)?;
        // Its number it gets when it comes into force.
        let version = PolicyVersion::new(name, 0, digest.clone());
        let record = self.record(name);
        let terms = settings.terms(version, &self.options, record)?;

        let entry = self.entry(name);
        let in_force = entry.policy.as_ref().map(|policy| policy.version().digest);
        if in_force.is_some_and(|in_force| in_force == digest) && entry.settings.are_the_same_terms(&settings)
        {
            self.forget_job(name);
            self.change(name, |entry| {
                entry.present = true;
                entry.settings = settings;
                entry.rejected = None;
                entry.quarantined = None;
            });
            return Ok(());
        }
        let versions = self.policies.entry(name.to_owned()).or_default();
        let is_made = versions
            .made_of
            .as_ref()
            .is_some_and(|(made_of, with)| *made_of == digest && with.are_the_same_terms(&settings));
        if is_made {
            // On its way, quarantined, or refused by every channel: as it was.
            self.change(name, |entry| {
                entry.present = true;
                entry.rejected =
                    entry.rejected.take().filter(|error| matches!(error, PolicyError::Refused(_)));
            });
            return Ok(());
        }
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        versions.ticket = Some(ticket);
        versions.made_of = Some((digest, settings.clone()));
        versions.job = Some(settings);
        let size = bytes.len();
        tracing::debug!(policy = name, size, "policy is being compiled");
        self.change(name, |entry| {
            entry.present = true;
            entry.loading = true;
            entry.rejected = None;
        });
        self.loader.load(Job { name: name.to_owned(), ticket, bytes: bytes.into(), terms });
        Ok(())
    }

    /// What the loader has made.
    fn take_loaded(&mut self) {
        for Loaded { name, ticket, result } in self.loader.take() {
            let Some(versions) =
                self.policies.get_mut(&name).filter(|versions| versions.ticket == Some(ticket))
            else {
                continue;
            };
            versions.ticket = None;
            let settings = versions.job.take().unwrap_or_default();
            let is_postponed = matches!(result, Err(PolicyError::NotNow(_)));
            versions.postponed = if is_postponed { versions.postponed + 1 } else { 0 };
            let again = AGAIN.saturating_mul(1 << versions.postponed.min(16)).min(AGAIN_AT_MOST);
            match result.and_then(|policy| self.options.admit(policy)) {
                Ok(policy) => self.put_in_force(&name, policy, settings),
                Err(error) => self.reject(&name, error),
            }
            if is_postponed {
                self.files.retry(&format!("{name}.wasm"), again);
            }
        }
    }

    fn put_in_force(&mut self, name: &str, policy: WasmPolicy, settings: Settings) {
        let ignored = policy.ignored_exports();
        if !ignored.is_empty() {
            tracing::info!(policy = name, exports = ignored.join(", "), "exports that nobody calls: ignored");
        }
        let record = self.record(name);
        let entry = self.entry(name);
        let before = entry.policy.clone().map(|policy| (policy, entry.settings.clone()));
        let versions = self.policies.entry(name.to_owned()).or_default();
        // To one that no channel has taken there is no way back.
        if let Some((policy, settings)) = before.filter(|_| record.is_taken()) {
            versions.keep(Earlier { policy, settings, proven: record.has_proven_itself() });
        }
        versions.generation += 1;
        let policy = policy.renumbered(versions.generation);
        tracing::info!(policy = %policy.version(), "policy loaded");
        record.begin(versions.generation, !versions.earlier.is_empty(), false);
        let previous = versions.previous();
        self.change(name, |entry| {
            entry.policy = Some(policy);
            entry.settings = settings;
            entry.rejected = None;
            entry.quarantined = None;
            entry.loading = false;
            entry.previous = previous;
        });
    }

    /// Takes versions out of force that have failed too often.
    fn judge(&mut self) {
        let verdict = |(name, entry): (&String, &Entry)| {
            let policy = entry.policy.as_ref()?;
            let (version, on_fault) = (policy.version(), policy.on_fault());
            let reason = entry.record.verdict(version.generation)?;
            Some((name.clone(), Quarantine { version, reason, on_fault }))
        };
        let condemned: Vec<_> = self.snapshot.policies.iter().filter_map(verdict).collect();
        for (name, quarantine) in condemned {
            self.go_back(&name, quarantine);
        }
        let refused = |(name, entry): (&String, &Entry)| {
            entry.record.refused_by_all(JUDGEMENT).map(|error| (name.clone(), error))
        };
        let refused: Vec<_> = self.snapshot.policies.iter().filter_map(refused).collect();
        for (name, error) in refused {
            self.take_back(&name, error);
        }
    }

    /// No channel has taken the version in force: the one before, which they all have, is what new channels
    /// are to get.
    fn take_back(&mut self, name: &str, error: StartError) {
        let record = self.record(name);
        let versions = self.policies.entry(name.to_owned()).or_default();
        let Some(Earlier { policy, settings, proven }) = versions.earlier.pop() else { return };
        let previous = versions.previous();
        tracing::warn!(policy = name, stage = %error.stage(), %error, back_to = %policy.version(), "no channel took it");
        record.begin(policy.version().generation, false, proven);
        self.change(name, |entry| {
            entry.policy = Some(policy);
            entry.settings = settings;
            entry.rejected = Some(PolicyError::Refused(error));
            entry.previous = previous;
        });
    }

    fn go_back(&mut self, name: &str, quarantine: Quarantine) {
        let record = self.record(name);
        let versions = self.policies.entry(name.to_owned()).or_default();
        let earlier = versions.earlier.pop().map(|earlier| {
            versions.generation += 1;
            (earlier.policy.renumbered(versions.generation), earlier.settings, earlier.proven)
        });
        let previous = versions.previous();
        let (policy, reason) = (&quarantine.version, &quarantine.reason);
        match &earlier {
            Some((earlier, _, proven)) => {
                let back_to = earlier.version();
                tracing::warn!(%policy, reason, %back_to, "policy quarantined: the one before it is in force");
                record.begin(back_to.generation, false, *proven);
            }
            None => {
                tracing::warn!(%policy, reason, "policy quarantined: there is none to go back to");
            }
        }
        self.change(name, |entry| {
            entry.policy = None;
            if let Some((earlier, settings, _)) = earlier {
                entry.policy = Some(earlier);
                entry.settings = settings;
            }
            entry.quarantined = Some(quarantine);
            entry.previous = previous;
        });
    }

    fn reject(&mut self, name: &str, error: PolicyError) {
        self.forget_job(name);
        if self.snapshot.policies.get(name).and_then(|entry| entry.rejected.as_ref()) == Some(&error) {
            return;
        }
        let (in_force, stage) = (self.in_force(name), error.stage());
        tracing::warn!(policy = name, %stage, %error, in_force, "policy rejected");
        self.record(name).rejected(stage);
        self.change(name, |entry| {
            entry.present = true;
            entry.rejected = Some(error);
        });
    }

    /// What is being made of a policy's files is out of date. What is in force counts as made.
    fn forget_job(&mut self, name: &str) {
        self.loader.forget(name);
        let Some(entry) = self.snapshot.policies.get_mut(name) else { return };
        entry.loading = false;
        let versions = self.policies.entry(name.to_owned()).or_default();
        versions.ticket = None;
        versions.job = None;
        let in_force = entry.policy.as_ref().map(|policy| policy.version().digest);
        versions.made_of = in_force.map(|digest| (digest, entry.settings.clone()));
    }

    /// No channel uses the policy from now on.
    fn disable(&mut self, name: &str) {
        self.forget_job(name);
        if std::mem::replace(&mut self.entry(name).enabled, false) {
            tracing::warn!(policy = name, "policy disabled by its settings");
        }
        self.change(name, |entry| entry.rejected = None);
    }

    fn withdraw(&mut self, name: &str, settings: &str) {
        self.files.forget(&format!("{name}.wasm"));
        // It is in force where it is used, and can be disabled there.
        match self.files.settings(settings) {
            Ok(Some(settings)) if !settings.enabled => self.disable(name),
            Ok(Some(_)) => self.entry(name).enabled = true,
            Ok(None) | Err(_) => {}
        }
        tracing::warn!(policy = name, in_force = self.in_force(name), "policy file is gone");
        self.forget_job(name);
        self.change(name, |entry| {
            entry.present = false;
            entry.rejected = None;
            entry.quarantined = None;
        });
    }

    /// Settings without a policy: a typing error in their name, as a rule.
    fn lone_settings(&mut self, file: &str) {
        if self.files.at_rest(file).is_none() {
            return;
        }
        let said = match self.files.settings(file) {
            Ok(Some(settings)) if settings.enabled => "there is no policy file of that name".to_owned(),
            Ok(Some(_)) => "there is no policy file of that name, and nothing is disabled".to_owned(),
            Ok(None) => return,
            Err(error) => format!("there is no policy file of that name, and the file {error}"),
        };
        if self.snapshot.strays.get(file) != Some(&said) {
            tracing::warn!(settings = ?file, "settings of no policy: {said}");
            self.snapshot.strays.insert(file.to_owned(), said);
        }
    }

    /// What channels that use the policy go on with.
    fn in_force(&self, name: &str) -> String {
        let policy = self.snapshot.policies.get(name).and_then(|entry| entry.policy.as_ref());
        policy.map_or_else(|| "round robin".to_owned(), |policy| policy.version().to_string())
    }

    fn record(&mut self, name: &str) -> Arc<Record> {
        Arc::clone(&self.entry(name).record)
    }

    fn entry(&mut self, name: &str) -> &mut Entry {
        let dirty = &self.dirty;
        self.snapshot.policies.entry(name.to_owned()).or_insert_with(|| {
            let dirty = dirty.clone();
            let record = Record::new(move || {
                let _ = dirty.try_send(());
            });
            Entry::new(Arc::new(record))
        })
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Entry)) {
        let entry = self.entry(name);
        change(entry);
        entry.revision += 1;
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
