//! The one wasmtime engine of the process.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use wasmtime::component::Linker;

use super::PolicyError;
use super::clock::{Ticker, Ticking};
use super::imports::{self, State};

/// What all policies share.
pub(super) struct Engine {
    pub(super) wasm: wasmtime::Engine,
    /// With all that policies may import.
    pub(super) linker: Linker<State>,
    ticker: Arc<Ticker>,
}

/// The most stack that a policy's call may use. Tokio's threads have 2 MiB.
const STACK: usize = 512 << 10;
/// What the host needs beside, for what a policy imports.
const HOST_STACK: usize = 128 << 10;

/// Whether there is as much stack left on this thread as a call into a policy may use. With less of it a policy that
/// recurses would not trap, but end the process.
pub(super) fn has_stack() -> bool {
    stacker::remaining_stack().is_none_or(|left| left >= STACK + HOST_STACK)
}

impl Engine {
    /// The engine, made at the first call. It needs a thread and some memory, and there may be none: at the next call
    /// there may.
    pub(super) fn shared() -> Result<&'static Self, PolicyError> {
        static ENGINE: OnceLock<Engine> = OnceLock::new();
        static MAKING: Mutex<()> = Mutex::new(());
        if let Some(engine) = ENGINE.get() {
            return Ok(engine);
        }
        let _one = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = ENGINE.get() {
            return Ok(engine);
        }
        let failed = |error| PolicyError::NotNow(format!("the engine cannot be made: {error:#}"));
        let engine = Self::new().map_err(failed)?;
        Ok(ENGINE.get_or_init(|| engine))
    }

    fn new() -> wasmtime::Result<Self> {
        let mut config = wasmtime::Config::new();
        config
            .wasm_component_model(true)
            // No policy may suspend, and every call would pay for it.
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
        Ticker::tick(&self.ticker)
    }
}
