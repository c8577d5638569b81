//! Compilation on a thread of this process, which cannot be killed, only abandoned.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use wasmtime::component::Component;

use super::error::{PolicyError, of_compiler};
use super::forward::forwarded;
use super::lane::{Ended, LARGE, LOOK, Lane, busy, stopped, took_longer};

/// The lane of all compilations on threads of this process.
static LANE: Lane = Lane::new();

pub(super) fn compile_in_thread(
    engine: &'static wasmtime::Engine,
    component: &[u8],
    limit: Duration,
    stop: &AtomicBool,
) -> Result<Component, PolicyError> {
    LANE.take(limit, stop).map_err(busy)?;
    let (done, result) = sync_channel(1);
    let is_abandoned = Arc::new(AtomicBool::new(false));
    let (component, abandoned) = (component.to_vec(), Arc::clone(&is_abandoned));
    let work = move || {
        if component.len() > LARGE {
            lower_priority();
        }
        let compile = || {
            let compiled = Component::from_binary(engine, &forwarded(&component));
            // What is said of a component is said of its own bytes.
            compiled.or_else(|_| Component::from_binary(engine, &component))
        };
        let compiled = std::panic::catch_unwind(AssertUnwindSafe(compile))
            .unwrap_or_else(|_| Err(wasmtime::Error::msg("the compiler panicked on it")));
        // The receiver is gone if the compilation took too long.
        let _ = done.send(compiled);
        if abandoned.swap(true, Ordering::SeqCst) {
            LANE.lock().abandoned -= 1;
        } else {
            LANE.free();
        }
    };
    std::thread::Builder::new()
        .name("hotpick-compile".to_owned())
        // Deeply nested code must not overflow the compiler's stack, which would end the process.
        .stack_size(64 << 20)
        .spawn(work)
        .map_err(|error| {
            LANE.free();
            PolicyError::NotNow(format!("cannot start a thread for it: {error}"))
        })?;
    let heard = wait(&result, limit, stop);
    if heard.is_err() && !is_abandoned.swap(true, Ordering::SeqCst) {
        // The compilation continues beside later ones.
        LANE.lock().abandoned += 1;
        LANE.free();
    }
    match heard {
        Ok(compiled) => compiled.map_err(|error| of_compiler(&error)),
        Err(Ended::Stopped) => Err(stopped()),
        Err(Ended::Late) => Err(took_longer(limit)),
        Err(Ended::Gone) => Err(PolicyError::Compile("the compiler ended without a result".to_owned())),
    }
}

/// Lowers the priority of this thread: a compilation of several seconds must not take the processor from RPCs.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    // On Linux this applies to the calling thread alone.
    let _ = rustix::process::setpriority_process(None, 10);
}

/// Receives a message within a time limit, unless the compilation is no longer wanted.
fn wait<T>(from: &Receiver<T>, limit: Duration, stop: &AtomicBool) -> Result<T, Ended> {
    let deadline = Instant::now() + limit;
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(Ended::Stopped);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        match from.recv_timeout(left.min(LOOK)) {
            Ok(news) => return Ok(news),
            Err(RecvTimeoutError::Disconnected) => return Err(Ended::Gone),
            Err(RecvTimeoutError::Timeout) if left.is_zero() => return Err(Ended::Late),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}
