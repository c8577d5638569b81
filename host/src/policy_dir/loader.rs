//! The thread that makes policies of files, one after the other: what takes seconds must not hold up the
//! look at the directory.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel};

use crate::policy::{CompileOptions, Compiler, Limits, PolicyError, Terms, WasmPolicy};

enum Task {
    /// Bytes that may be a policy soon: compiled now, they need not be then.
    CompileAhead(Vec<u8>, Limits),
    Load(Job),
}

/// What is to be made a policy.
pub(super) struct Job {
    pub(super) name: String,
    /// By which its result is known; no two jobs have the same.
    pub(super) ticket: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) terms: Terms,
}

/// What has become of it.
pub(super) struct Loaded {
    pub(super) name: String,
    pub(super) ticket: u64,
    pub(super) result: Result<WasmPolicy, PolicyError>,
}

/// Ends when it is dropped.
pub(super) struct Loader {
    tasks: Sender<Task>,
    loaded: Receiver<Loaded>,
    /// Tasks that are not done.
    open: Arc<AtomicUsize>,
}

impl Loader {
    /// Starts the thread. It sends to `dirty` whenever it has made something of a job.
    pub(super) fn start(options: CompileOptions, dirty: SyncSender<()>) -> io::Result<Self> {
        let (tasks, todo) = channel::<Task>();
        let (done, loaded) = channel();
        let open = Arc::new(AtomicUsize::new(0));
        let done_with = Arc::clone(&open);
        let work = move || {
            let compiler = Compiler::new(options);
            while let Ok(task) = todo.recv() {
                let Job { name, ticket, bytes, terms } = match task {
                    Task::Load(job) => job,
                    Task::CompileAhead(bytes, limits) => {
                        WasmPolicy::compile_ahead(&bytes, &limits, &compiler);
                        done_with.fetch_sub(1, Ordering::Relaxed);
                        continue;
                    }
                };
                let result = WasmPolicy::load(&bytes, terms, &compiler);
                done_with.fetch_sub(1, Ordering::Relaxed);
                if done.send(Loaded { name, ticket, result }).is_err() {
                    return;
                }
                let _ = dirty.try_send(());
            }
        };
        std::thread::Builder::new().name("hotpick-loader".to_owned()).spawn(work)?;
        Ok(Self { tasks, loaded, open })
    }

    pub(super) fn load(&self, job: Job) {
        self.send(Task::Load(job));
    }

    /// Has bytes compiled that may be loaded soon, if there is nothing else to do.
    pub(super) fn compile_ahead(&self, bytes: Vec<u8>, limits: Limits) {
        if self.open.load(Ordering::Relaxed) == 0 {
            self.send(Task::CompileAhead(bytes, limits));
        }
    }

    fn send(&self, task: Task) {
        self.open.fetch_add(1, Ordering::Relaxed);
        // The thread ends with this.
        let _ = self.tasks.send(task);
    }

    /// What has been made since the last time.
    pub(super) fn take(&self) -> Vec<Loaded> {
        self.loaded.try_iter().collect()
    }
}
