//! The thread that makes policies of files, one after the other: what takes seconds must not hold up the
//! look at the directory.

use std::io;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel};

use crate::policy::{CompileOptions, Compiler, PolicyError, Terms, WasmPolicy};

/// What is to be made a policy.
pub(super) struct Job {
    pub(super) name: String,
    /// Of several jobs of a name the last one counts.
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
    jobs: Sender<Job>,
    loaded: Receiver<Loaded>,
}

impl Loader {
    /// Starts the thread. It sends to `dirty` whenever it has made something of a job.
    pub(super) fn start(options: CompileOptions, dirty: SyncSender<()>) -> io::Result<Self> {
        let (jobs, todo) = channel::<Job>();
        let (done, loaded) = channel();
        let work = move || {
            let compiler = Compiler::new(options);
            while let Ok(Job { name, ticket, bytes, terms }) = todo.recv() {
                let result = WasmPolicy::load(&bytes, terms, &compiler);
                if done.send(Loaded { name, ticket, result }).is_err() {
                    return;
                }
                let _ = dirty.try_send(());
            }
        };
        std::thread::Builder::new().name("hotpick-loader".to_owned()).spawn(work)?;
        Ok(Self { jobs, loaded })
    }

    pub(super) fn load(&self, job: Job) {
        // The thread ends with this.
        let _ = self.jobs.send(job);
    }

    /// What has been made since the last time.
    pub(super) fn take(&self) -> Vec<Loaded> {
        self.loaded.try_iter().collect()
    }
}
