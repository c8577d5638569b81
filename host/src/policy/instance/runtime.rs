//! The linker and the epoch clock of the process.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use wasmtime::component::Linker;

use super::clock::Ticker;
use super::imports::{self, HostState};
use crate::policy::compile::{PolicyError, engine};

/// The parts that all instances of the process share, beside the engine.
pub(super) struct Runtime {
    /// Linker with everything that the contract lets policies import.
    pub(super) linker: Linker<HostState>,
    pub(super) ticker: Arc<Ticker>,
}

impl Runtime {
    /// Returns the runtime, which the first call creates.
    pub(super) fn shared() -> Result<&'static Self, PolicyError> {
        static RUNTIME: OnceLock<Runtime> = OnceLock::new();
        static CREATING: Mutex<()> = Mutex::new(());
        if let Some(runtime) = RUNTIME.get() {
            return Ok(runtime);
        }
        let engine = engine()?;
        let _guard = CREATING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = RUNTIME.get() {
            return Ok(runtime);
        }
        let runtime = Self::new(engine)
            .map_err(|error| PolicyError::NotNow(format!("the Wasm engine cannot be created: {error:#}")))?;
        Ok(RUNTIME.get_or_init(|| runtime))
    }

    fn new(engine: &wasmtime::Engine) -> wasmtime::Result<Self> {
        let mut linker = Linker::new(engine);
        imports::add_to_linker(&mut linker)?;
        Ok(Self { linker, ticker: Ticker::start(engine.clone())? })
    }
}
