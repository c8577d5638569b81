//! The clock that interrupts endless calls: a thread advances wasmtime's epoch, and the CPU time of a running call is
//! checked at each tick.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::Duration;

use crate::supervision::guarded;

/// Interval at which the epoch advances, and a running call is checked.
const TICK: Duration = Duration::from_millis(1);
/// Number of ticks after the last sign of a call until a call has to wake the thread. Fewer wake it more often, which the
/// thread that calls pays for; more are needless ticks.
const AWAKE: u32 = 3;
/// Intervals of the ticks that follow. They find a call that was not seen to run, because its thread had no processor.
const QUIET: [Duration; 2] = [Duration::from_millis(8), Duration::from_millis(64)];
/// Interval of ticks while the thread rests: see [`Ticking::call`].
const REST: Duration = Duration::from_secs(1);

/// A thread that advances the epoch while calls run, and rests otherwise.
#[derive(Debug)]
pub(crate) struct Ticker {
    instances: AtomicUsize,
    /// Whether a call has started, or was seen to run, since the thread last checked.
    is_called: AtomicBool,
    thread: Thread,
}

impl Ticker {
    pub(crate) fn start(wasm: wasmtime::Engine) -> std::io::Result<Arc<Self>> {
        let (sender, receiver) = std::sync::mpsc::channel::<Arc<Self>>();
        let thread = std::thread::Builder::new().name("hotpick-epoch".to_owned()).spawn(move || {
            let Ok(ticker) = receiver.recv() else { return };
            let tick = || {
                let (mut awake, mut quiet) = (0, QUIET.into_iter());
                loop {
                    if ticker.instances.load(Ordering::SeqCst) == 0 {
                        std::thread::park();
                        continue;
                    }
                    wasm.increment_epoch();
                    if ticker.is_called.swap(false, Ordering::SeqCst) {
                        (awake, quiet) = (AWAKE, QUIET.into_iter());
                    }
                    if awake > 0 {
                        awake -= 1;
                        // Not interrupted: however many calls there are, the thread ticks once a millisecond.
                        std::thread::sleep(TICK);
                    } else {
                        std::thread::park_timeout(quiet.next().unwrap_or(REST));
                    }
                }
            };
            // Without this thread no call would be interrupted.
            while guarded::<()>("the epoch's thread", tick).is_none() {}
        })?;
        let ticker = Arc::new(Self {
            instances: AtomicUsize::new(0),
            is_called: AtomicBool::new(false),
            thread: thread.thread().clone(),
        });
        // The receiver is there: the thread waits for this one message.
        let _ = sender.send(Arc::clone(&ticker));
        Ok(ticker)
    }

    /// Keeps the epoch advancing while calls run, as long as the guard lives.
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
    /// Records that a call starts, or was seen to run. This runs for every call, so it loads before it stores: that
    /// keeps the cache line shared.
    ///
    /// The loaded value may be outdated if the thread has just checked. In that case its next tick finds the call running,
    /// and this function is called again.
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

/// Measures the CPU time of a call's thread at each tick. Time during which the thread had no CPU does not count.
#[derive(Debug, Default)]
pub(crate) struct Watchdog {
    limit: Duration,
    /// CPU time of the thread at the first tick of the call.
    first: Option<Duration>,
}

impl Watchdog {
    /// Starts to measure a call that may take this long, accurate to a tick.
    pub(crate) fn arm(&mut self, limit: Duration) {
        self.limit = limit;
        self.first = None;
    }

    /// Returns, at a tick, whether the call may continue.
    pub(crate) fn may_go_on(&mut self) -> bool {
        let now = thread_cpu_time();
        // The first tick is only the reference: it may come right after the call has started.
        match self.first {
            None => {
                self.first = Some(now);
                true
            }
            // At the first tick up to a tick has passed, or nothing if the clock was at rest.
            Some(first) => now.saturating_sub(first) + TICK < self.limit,
        }
    }
}

#[cfg(unix)]
fn thread_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Returns the elapsed time, on platforms without a CPU clock for each thread.
#[cfg(not(unix))]
fn thread_cpu_time() -> Duration {
    static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    START.elapsed()
}
