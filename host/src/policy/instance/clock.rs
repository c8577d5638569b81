//! The clock that cuts endless calls: a thread that advances wasmtime's epoch, and a look at what a call has
//! spent at each tick.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::Duration;

use crate::supervision::guarded;

/// How often the epoch advances, and with it a running call is looked at.
const TICK: Duration = Duration::from_millis(1);
/// So many ticks after the last sign of a call the thread rests.
const AWAKE: u32 = 8;
/// A tick now and then, even so: see [`Ticking::call`].
const REST: Duration = Duration::from_secs(1);

/// A thread that advances the epoch while calls run, and rests otherwise.
#[derive(Debug)]
pub(crate) struct Ticker {
    instances: AtomicUsize,
    /// A call has begun, or was seen to run, since the thread last looked.
    is_called: AtomicBool,
    thread: Thread,
}

impl Ticker {
    pub(crate) fn start(wasm: wasmtime::Engine) -> std::io::Result<Arc<Self>> {
        let (tell, told) = std::sync::mpsc::channel::<Arc<Self>>();
        let thread = std::thread::Builder::new().name("hotpick-epoch".to_owned()).spawn(move || {
            let Ok(ticker) = told.recv() else { return };
            let tick = || loop {
                if ticker.instances.load(Ordering::SeqCst) == 0 {
                    std::thread::park();
                    continue;
                }
                wasm.increment_epoch();
                if ticker.is_called.swap(false, Ordering::SeqCst) {
                    for _ in 0..AWAKE {
                        std::thread::sleep(TICK);
                        wasm.increment_epoch();
                    }
                } else {
                    std::thread::park_timeout(REST);
                }
            };
            // Without it no call would be cut.
            while guarded::<()>("the epoch's thread", tick).is_none() {}
        })?;
        let ticker = Arc::new(Self {
            instances: AtomicUsize::new(0),
            is_called: AtomicBool::new(false),
            thread: thread.thread().clone(),
        });
        // The receiver is there: the thread waits for this one message.
        let _ = tell.send(Arc::clone(&ticker));
        Ok(ticker)
    }

    /// Keeps the epoch advancing, while calls run, for as long as the guard lives.
    pub(crate) fn tick(self: &Arc<Self>) -> Ticking {
        self.instances.fetch_add(1, Ordering::SeqCst);
        self.thread.unpark();
        Ticking(Arc::clone(self))
    }
}

/// See [`Ticker::tick`].
#[derive(Debug)]
pub(crate) struct Ticking(Arc<Ticker>);

impl Ticking {
    /// A call begins, or was seen to run. The load keeps the line shared: this runs for every call.
    ///
    /// What it sees may be a moment old, and the thread have begun to rest in that moment: the tick that comes
    /// nevertheless finds the call, which says so here.
    pub(crate) fn call(&self) {
        if !self.0.is_called.load(Ordering::Relaxed) {
            self.0.is_called.store(true, Ordering::SeqCst);
            self.0.thread.unpark();
        }
    }
}

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.instances.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Measures what a call has spent, at each tick, in CPU time of its thread: a call that lost its CPU to
/// someone else is not cut for it.
#[derive(Debug, Default)]
pub(crate) struct Watchdog {
    limit: Duration,
    /// The thread's CPU time when the call was first looked at.
    first: Option<Duration>,
}

impl Watchdog {
    /// A call begins that may take this long, give or take a tick.
    pub(crate) fn arm(&mut self, limit: Duration) {
        // Up to a tick has passed when the call is first looked at, or, if the clock had rested, nothing.
        self.limit = limit.saturating_sub(TICK);
        self.first = None;
    }

    /// Returns at a tick whether the call may go on.
    pub(crate) fn may_go_on(&mut self) -> bool {
        let now = thread_cpu_time();
        // The first look says nothing: the tick may have come right after the call began.
        match self.first {
            None => {
                self.first = Some(now);
                true
            }
            Some(first) => now.saturating_sub(first) < self.limit,
        }
    }
}

#[cfg(unix)]
fn thread_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Where there is no such clock: the time that passed for everyone.
#[cfg(not(unix))]
fn thread_cpu_time() -> Duration {
    static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    START.elapsed()
}
