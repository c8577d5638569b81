//! Compilation on a thread of this process, which cannot be ended, only given up.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use wasmtime::component::Component;

use super::error::{PolicyError, of_compiler};
use super::lane::{Ended, LARGE, Lane, busy, stopped, took_longer, wait};

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
    let is_given_up = Arc::new(AtomicBool::new(false));
    let (component, given_up) = (component.to_vec(), Arc::clone(&is_given_up));
    let work = move || {
        if component.len() > LARGE {
            lower_priority();
        }
        let compile = || Component::from_binary(engine, &component);
        let compiled = std::panic::catch_unwind(AssertUnwindSafe(compile))
            .unwrap_or_else(|_| Err(wasmtime::Error::msg("the compiler panicked on it")));
        // Nobody waits if it took too long.
        let _ = done.send(compiled);
        if given_up.swap(true, Ordering::SeqCst) {
            LANE.lock().given_up -= 1;
        } else {
            LANE.free();
        }
    };
    std::thread::Builder::new()
        .name("hotpick-compile".to_owned())
        // Deeply nested code: what the compiler needs must not end the process.
        .stack_size(64 << 20)
        .spawn(work)
        .map_err(|error| {
            LANE.free();
            PolicyError::NotNow(format!("there is no thread for it: {error}"))
        })?;
    let heard = wait(&result, limit, stop);
    if heard.is_err() && !is_given_up.swap(true, Ordering::SeqCst) {
        // It goes on, beside those that come.
        LANE.lock().given_up += 1;
        LANE.free();
    }
    match heard {
        Ok(compiled) => compiled.map_err(|error| of_compiler(&error)),
        Err(Ended::Stopped) => Err(stopped()),
        Err(Ended::Late) => Err(took_longer(limit)),
        Err(Ended::Gone) => Err(PolicyError::Compile("the compiler ended without a word".to_owned())),
    }
}

/// Compiling for seconds must not take the processor from RPCs.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    // On Linux this is the thread's own.
    let _ = rustix::process::setpriority_process(None, 10);
}
