//! The compile queue: a thread that loads policies from files, one after the other, because a compilation of several
//! seconds must not delay the scans of the directory.
//!
//! Among the waiting files, those that a channel wants come first, then the smallest. A newer file of a name replaces a
//! waiting older one, and stops one that is being compiled. A wanted file stops one that no channel wants, which then
//! waits again.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use crate::policy::{CompileOptions, Compiler, Limits, PolicyError, PolicyMetrics, PolicySpec, WasmPolicy};
use crate::supervision::guarded;

/// A file that is to be loaded as a policy.
#[derive(Clone)]
pub(super) struct Job {
    pub(super) name: String,
    /// Unique number that identifies the result.
    pub(super) ticket: u64,
    pub(super) bytes: Arc<[u8]>,
    pub(super) spec: PolicySpec,
    pub(super) metrics: Arc<PolicyMetrics>,
}

/// Result of a job.
pub(super) struct Compiled {
    pub(super) name: String,
    pub(super) ticket: u64,
    pub(super) result: Result<WasmPolicy, PolicyError>,
}

/// Number of channels that want each policy.
#[derive(Clone, Default)]
pub(super) struct Wanted(Arc<Wants>);

#[derive(Default)]
struct Wants {
    counts: Mutex<BTreeMap<String, usize>>,
    /// The queue to notify when a channel wants a policy that none wanted before.
    loader: OnceLock<Weak<Shared>>,
}

/// A registration that a channel wants a policy. Ends when it is dropped.
pub(super) struct Want {
    wanted: Wanted,
    name: String,
}

impl Wanted {
    pub(super) fn want(&self, name: &str) -> Want {
        *self.lock().entry(name.to_owned()).or_default() += 1;
        if let Some(loader) = self.0.loader.get().and_then(Weak::upgrade) {
            loader.is_wanted_now(name);
        }
        Want { wanted: self.clone(), name: name.to_owned() }
    }

    fn is_wanted(&self, name: &str) -> bool {
        self.lock().contains_key(name)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Want {
    fn drop(&mut self) {
        let mut wanted = self.wanted.lock();
        if let Some(count) = wanted.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                wanted.remove(&self.name);
            }
        }
    }
}

/// A queue of jobs, and the thread that works on them. The thread ends when the queue is dropped.
pub(super) struct CompileQueue(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    news: Condvar,
    compiler: Compiler,
    wanted: Wanted,
}

#[derive(Default)]
struct Queue {
    /// Waiting jobs, at most one for each name.
    jobs: BTreeMap<String, Job>,
    ahead: Option<Ahead>,
    current: Option<Current>,
    compiled: Vec<Compiled>,
    is_over: bool,
}

/// Bytes that may become a policy soon, compiled ahead of time.
struct Ahead {
    name: String,
    bytes: Arc<[u8]>,
    limits: Limits,
}

/// The job in progress.
struct Current {
    name: String,
    bytes: Arc<[u8]>,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Keep,
    /// A newer file of the name has come, or the file is gone.
    Superseded,
    /// A file that a channel wants has come: the job waits again.
    Postponed,
}

impl CompileQueue {
    /// Starts the thread, which sends to `dirty` whenever it has finished a job.
    pub(super) fn start(options: CompileOptions, wanted: Wanted, dirty: SyncSender<()>) -> io::Result<Self> {
        let compiler = Compiler::new(options);
        let wants = Arc::clone(&wanted.0);
        let shared = Arc::new(Shared { queue: Mutex::default(), news: Condvar::new(), compiler, wanted });
        // Never set before: a directory has one loader.
        let _ = wants.loader.set(Arc::downgrade(&shared));
        let theirs = Arc::clone(&shared);
        let work = move || {
            while let Some(task) = theirs.next() {
                theirs.work(task);
                let _ = dirty.try_send(());
            }
        };
        std::thread::Builder::new().name("hotpick-loader".to_owned()).spawn(work)?;
        Ok(Self(shared))
    }

    pub(super) fn load(&self, job: Job) {
        let mut queue = self.0.queue();
        // The same bytes are not compiled twice: the compiler remembers the component.
        if let Some(current) = &mut queue.current
            && current.bytes != job.bytes
        {
            let is_wanted = |name: &str| self.0.wanted.is_wanted(name);
            if current.name == job.name {
                current.fate = Fate::Superseded;
            } else if current.fate == Fate::Keep && !is_wanted(&current.name) && is_wanted(&job.name) {
                current.fate = Fate::Postponed;
            }
            if current.fate != Fate::Keep {
                self.0.compiler.stop(true);
            }
        }
        queue.ahead = None;
        queue.jobs.insert(job.name.clone(), job);
        self.0.news.notify_one();
    }

    /// Removes the job of this name, and stops it if it is in progress.
    pub(super) fn forget(&self, name: &str) {
        let mut queue = self.0.queue();
        queue.jobs.remove(name);
        if let Some(current) = &mut queue.current
            && current.name == name
        {
            current.fate = Fate::Superseded;
            self.0.compiler.stop(true);
        }
    }

    /// Compiles bytes that may be loaded soon, if there is nothing else to do.
    pub(super) fn compile_ahead(&self, name: &str, bytes: Vec<u8>, limits: Limits) {
        let mut queue = self.0.queue();
        if queue.current.is_none() && queue.jobs.is_empty() {
            queue.ahead = Some(Ahead { name: name.to_owned(), bytes: bytes.into(), limits });
            self.0.news.notify_one();
        }
    }

    /// Takes the results since the last call.
    pub(super) fn take(&self) -> Vec<Compiled> {
        std::mem::take(&mut self.0.queue().compiled)
    }
}

impl Drop for CompileQueue {
    fn drop(&mut self) {
        self.0.queue().is_over = true;
        self.0.compiler.stop(true);
        self.0.news.notify_one();
    }
}

enum Task {
    CompileAhead(Ahead),
    Load(Job),
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Postpones the job in progress if no channel wants it, because a channel now wants this waiting one.
    fn is_wanted_now(&self, name: &str) {
        let mut queue = self.queue();
        if queue.jobs.contains_key(name)
            && let Some(current) = &mut queue.current
            && current.name != name
            && !self.wanted.is_wanted(&current.name)
            && current.fate == Fate::Keep
        {
            current.fate = Fate::Postponed;
            self.compiler.stop(true);
        }
    }

    /// Waits for the next task. `None`: the queue was dropped.
    fn next(&self) -> Option<Task> {
        let mut queue = self.queue();
        loop {
            if queue.is_over {
                return None;
            }
            let order = |job: &&Job| (!self.wanted.is_wanted(&job.name), job.bytes.len(), job.ticket);
            let first = queue.jobs.values().min_by_key(order).map(|job| job.name.clone());
            let task = match first.and_then(|name| queue.jobs.remove(&name)) {
                Some(job) => Some(Task::Load(job)),
                None => queue.ahead.take().map(Task::CompileAhead),
            };
            if let Some(task) = task {
                let (name, bytes) = match &task {
                    Task::Load(Job { name, bytes, .. }) | Task::CompileAhead(Ahead { name, bytes, .. }) => {
                        (name.clone(), Arc::clone(bytes))
                    }
                };
                queue.current = Some(Current { name, bytes, fate: Fate::Keep });
                self.compiler.stop(false);
                return Some(task);
            }
            queue = self.news.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn work(&self, task: Task) {
        let job = match task {
            Task::Load(job) => job,
            Task::CompileAhead(Ahead { bytes, limits, .. }) => {
                let ahead = || WasmPolicy::compile_ahead(&bytes, &limits, &self.compiler);
                // An error is reported when the file is loaded.
                let _ = guarded("the loader", ahead);
                self.queue().current = None;
                return;
            }
        };
        let Job { name, ticket, bytes, spec, metrics } = job.clone();
        let _span = tracing::info_span!("load", policy = name).entered();
        let load = || WasmPolicy::load(&bytes, spec, metrics, &self.compiler);
        // No cause of a panic is known in `load`, but the thread must survive one.
        let result = guarded("the loader", load)
            .unwrap_or_else(|| Err(PolicyError::Compile("the host panicked on it".to_owned())));
        let mut queue = self.queue();
        let fate = queue.current.take().map_or(Fate::Keep, |current| current.fate);
        match fate {
            // Only a job that was interrupted waits again. One that finished nevertheless has a result.
            Fate::Postponed if matches!(result, Err(PolicyError::NotNow(_))) => {
                queue.jobs.entry(name).or_insert(job);
            }
            Fate::Superseded => {}
            Fate::Keep | Fate::Postponed => queue.compiled.push(Compiled { name, ticket, result }),
        }
    }
}
