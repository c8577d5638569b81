//! The thread that makes policies of files, one after the other: what takes seconds must not hold up the
//! look at the directory.
//!
//! Of the files that wait, one that a channel wants comes first, then the smaller one. A newer file of a name takes the place
//! of an older one that waits, and ends one that is being compiled; and one that is wanted ends one that nobody wants,
//! which then waits again.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use crate::policy::{CompileOptions, Compiler, Limits, PolicyError, PolicyMetrics, PolicySpec, WasmPolicy};
use crate::supervision::guarded;

/// What is to be made a policy.
#[derive(Clone)]
pub(super) struct Job {
    pub(super) name: String,
    /// By which its result is known; no two jobs have the same.
    pub(super) ticket: u64,
    pub(super) bytes: Arc<[u8]>,
    pub(super) spec: PolicySpec,
    pub(super) metrics: Arc<PolicyMetrics>,
}

/// What has become of it.
pub(super) struct Compiled {
    pub(super) name: String,
    pub(super) ticket: u64,
    pub(super) result: Result<WasmPolicy, PolicyError>,
}

/// How many channels want each policy.
#[derive(Clone, Default)]
pub(super) struct Wanted(Arc<Wants>);

#[derive(Default)]
struct Wants {
    counts: Mutex<BTreeMap<String, usize>>,
    /// Whom it concerns that another one is.
    loader: OnceLock<Weak<Shared>>,
}

/// A channel that wants a policy, for as long as it does.
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

/// Ends its thread when it is dropped.
pub(super) struct CompileQueue(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    news: Condvar,
    compiler: Compiler,
    wanted: Wanted,
}

#[derive(Default)]
struct Queue {
    /// One of each name.
    jobs: BTreeMap<String, Job>,
    ahead: Option<Ahead>,
    current: Option<Current>,
    compiled: Vec<Compiled>,
    is_over: bool,
}

/// Bytes that may be a policy soon: compiled now, they need not be then.
struct Ahead {
    name: String,
    bytes: Arc<[u8]>,
    limits: Limits,
}

/// What is being made.
struct Current {
    name: String,
    bytes: Arc<[u8]>,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Wanted,
    /// A newer one has come.
    Superseded,
    /// One that is wanted has come: it waits again.
    Postponed,
}

impl CompileQueue {
    /// Starts the thread. It sends to `dirty` whenever it has made something of a job.
    pub(super) fn start(options: CompileOptions, wanted: Wanted, dirty: SyncSender<()>) -> io::Result<Self> {
        let compiler = Compiler::new(options);
        let wants = Arc::clone(&wanted.0);
        let shared = Arc::new(Shared { queue: Mutex::default(), news: Condvar::new(), compiler, wanted });
        // There is one loader of a directory.
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
        // Of the same bytes the compiler remembers what it makes.
        if let Some(current) = &mut queue.current
            && current.bytes != job.bytes
        {
            let is_wanted = |name: &str| self.0.wanted.is_wanted(name);
            if current.name == job.name {
                current.fate = Fate::Superseded;
            } else if current.fate == Fate::Wanted && !is_wanted(&current.name) && is_wanted(&job.name) {
                current.fate = Fate::Postponed;
            }
            if current.fate != Fate::Wanted {
                self.0.compiler.stop(true);
            }
        }
        queue.ahead = None;
        queue.jobs.insert(job.name.clone(), job);
        self.0.news.notify_one();
    }

    /// Nothing is wanted of the file of this name any more.
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

    /// Has bytes compiled that may be loaded soon, if there is nothing else to do.
    pub(super) fn compile_ahead(&self, name: &str, bytes: Vec<u8>, limits: Limits) {
        let mut queue = self.0.queue();
        if queue.current.is_none() && queue.jobs.is_empty() {
            queue.ahead = Some(Ahead { name: name.to_owned(), bytes: bytes.into(), limits });
            self.0.news.notify_one();
        }
    }

    /// What has been made since the last time.
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

    /// A channel wants this one from now on: it comes before one that nobody wants.
    fn is_wanted_now(&self, name: &str) {
        let mut queue = self.queue();
        if queue.jobs.contains_key(name)
            && let Some(current) = &mut queue.current
            && current.name != name
            && !self.wanted.is_wanted(&current.name)
            && current.fate == Fate::Wanted
        {
            current.fate = Fate::Postponed;
            self.compiler.stop(true);
        }
    }

    /// Waits for something to do. None: it is over.
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
                queue.current = Some(Current { name, bytes, fate: Fate::Wanted });
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
                // What is wrong with it is said when it is loaded.
                let _ = guarded("the loader", ahead);
                self.queue().current = None;
                return;
            }
        };
        let Job { name, ticket, bytes, spec, metrics } = job.clone();
        let _span = tracing::info_span!("load", policy = name).entered();
        let load = || WasmPolicy::load(&bytes, spec, metrics, &self.compiler);
        // Nothing that is known of panics there; but if something does, this thread must go on.
        let result = guarded("the loader", load)
            .unwrap_or_else(|| Err(PolicyError::Compile("the host panicked on it".to_owned())));
        let mut queue = self.queue();
        let fate = queue.current.take().map_or(Fate::Wanted, |current| current.fate);
        match fate {
            // What is done is done, though it was to be stopped.
            Fate::Postponed if matches!(result, Err(PolicyError::NotNow(_))) => {
                queue.jobs.entry(name).or_insert(job);
            }
            Fate::Superseded => {}
            Fate::Wanted | Fate::Postponed => queue.compiled.push(Compiled { name, ticket, result }),
        }
    }
}
