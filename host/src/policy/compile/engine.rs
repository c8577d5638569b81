//! The wasmtime engine of the process.

#[cfg(feature = "testing")]
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::error::PolicyError;

/// Maximum stack of a call into a policy (bytes). Tokio's threads have 2 MiB.
const STACK: usize = 512 << 10;
/// Additional stack for the host's functions (bytes).
const HOST_STACK: usize = 128 << 10;

/// Returns whether this thread has as much stack left as a call into a policy may use. With less, a policy that
/// recurses would end the process instead of trapping.
pub(crate) fn has_stack() -> bool {
    stacker::remaining_stack().is_none_or(|left| left >= STACK + HOST_STACK)
}

/// Returns the engine, which the first call creates.
///
/// # Errors
///
/// [`PolicyError::NotNow`]: the machine lacks the memory for it. A later call may succeed.
pub(crate) fn engine() -> Result<&'static wasmtime::Engine, PolicyError> {
    static ENGINE: OnceLock<wasmtime::Engine> = OnceLock::new();
    static CREATING: Mutex<()> = Mutex::new(());
    if let Some(engine) = ENGINE.get() {
        return Ok(engine);
    }
    let _guard = CREATING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(engine) = ENGINE.get() {
        return Ok(engine);
    }
    let failed = |error| PolicyError::NotNow(format!("the Wasm engine cannot be created: {error:#}"));
    let engine = create().map_err(failed)?;
    Ok(ENGINE.get_or_init(|| engine))
}

/// Whether policies count the instructions that they execute.
#[cfg(feature = "testing")]
static METERED: AtomicBool = AtomicBool::new(false);
/// Whether the engine has been created.
#[cfg(feature = "testing")]
static HAS_ENGINE: AtomicBool = AtomicBool::new(false);

/// Has all policies of this process count the instructions that they execute. They are a little slower. `false`: it is too
/// late, a policy has been compiled or loaded before.
#[cfg(feature = "testing")]
pub(crate) fn meter() -> bool {
    let is_first = !HAS_ENGINE.load(Ordering::SeqCst);
    METERED.store(is_first, Ordering::SeqCst);
    is_first && engine().is_ok()
}

/// Returns whether policies count their instructions.
#[cfg(feature = "testing")]
pub(crate) fn is_metered() -> bool {
    METERED.load(Ordering::Relaxed)
}

fn create() -> wasmtime::Result<wasmtime::Engine> {
    let mut config = wasmtime::Config::new();
    #[cfg(feature = "testing")]
    {
        HAS_ENGINE.store(true, Ordering::SeqCst);
        config.consume_fuel(is_metered());
    }
    config
        .wasm_component_model(true)
        // Policies must not suspend, and the support for it would slow down every call.
        .concurrency_support(false)
        .epoch_interruption(true)
        .max_wasm_stack(STACK)
        // Relaxed SIMD may return different results on different machines.
        .wasm_relaxed_simd(false);
    wasmtime::Engine::new(&config)
}
