//! The one wasmtime engine of the process, and the clock that cuts endless calls.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::Thread;
use std::time::Duration;

use wasmtime::component::Linker;

use super::imports::{self, State};

/// What all policies share.
pub(super) struct Engine {
    pub(super) wasm: wasmtime::Engine,
    /// With all that policies may import.
    pub(super) linker: Linker<State>,
    ticker: Arc<Ticker>,
}

/// How often the epoch advances, and with it a running call is looked at.
pub(super) const TICK: Duration = Duration::from_millis(1);

/// The most stack that a policy's call may use. Tokio's threads have 2 MiB.
const STACK: usize = 512 << 10;

impl Engine {
    /// The engine. Made at the first call; an error is for good.
    pub(super) fn shared() -> Result<&'static Self, String> {
        static ENGINE: LazyLock<Result<Engine, String>> =
            LazyLock::new(|| Engine::new().map_err(|error| format!("{error:#}")));
        ENGINE.as_ref().map_err(Clone::clone)
    }

    fn new() -> wasmtime::Result<Self> {
        let mut config = wasmtime::Config::new();
        config
            .wasm_component_model(true)
            // A call costs a third without it, and no policy may suspend.
            .concurrency_support(false)
            .epoch_interruption(true)
            .max_wasm_stack(STACK)
            // The same answer on every machine.
            .wasm_relaxed_simd(false)
            .cranelift_nan_canonicalization(false);
        let wasm = wasmtime::Engine::new(&config)?;
        let mut linker = Linker::new(&wasm);
        imports::add_to_linker(&mut linker)?;
        let ticker = Ticker::start(wasm.clone())?;
        Ok(Self { wasm, linker, ticker })
    }

    /// Keeps the epoch advancing for as long as the guard lives.
    pub(super) fn tick(&self) -> Ticking {
        self.ticker.instances.fetch_add(1, Ordering::SeqCst);
        self.ticker.thread.unpark();
        Ticking(Arc::clone(&self.ticker))
    }
}

/// A thread that advances the epoch while any instance lives, and sleeps otherwise.
struct Ticker {
    instances: AtomicUsize,
    thread: Thread,
}

impl Ticker {
    fn start(wasm: wasmtime::Engine) -> std::io::Result<Arc<Self>> {
        let (tell, told) = std::sync::mpsc::channel::<Arc<Self>>();
        let thread = std::thread::Builder::new().name("hotpick-epoch".to_owned()).spawn(move || {
            let Ok(ticker) = told.recv() else { return };
            loop {
                if ticker.instances.load(Ordering::SeqCst) == 0 {
                    std::thread::park();
                } else {
                    std::thread::sleep(TICK);
                    wasm.increment_epoch();
                }
            }
        })?;
        let ticker = Arc::new(Self { instances: AtomicUsize::new(0), thread: thread.thread().clone() });
        // The receiver is there: the thread waits for this one message.
        let _ = tell.send(Arc::clone(&ticker));
        Ok(ticker)
    }
}

/// See [`Engine::tick`].
pub(super) struct Ticking(Arc<Ticker>);

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.instances.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Measures what a call has spent, at each tick, in CPU time of its thread: a call that lost its CPU to
/// someone else is not cut for it.
#[derive(Debug, Default)]
pub(super) struct Watchdog {
    limit: Duration,
    /// The thread's CPU time when the call was first looked at.
    first: Option<Duration>,
}

impl Watchdog {
    /// A call begins that may take this long, give or take a tick.
    pub(super) fn arm(&mut self, limit: Duration) {
        // Up to a tick has passed when the call is first looked at.
        self.limit = limit.saturating_sub(TICK);
        self.first = None;
    }

    /// A tick: whether the call may go on.
    pub(super) fn look(&mut self) -> bool {
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
    static START: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);
    START.elapsed()
}
