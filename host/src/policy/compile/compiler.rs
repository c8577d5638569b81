//! Compiling: one component at a time, with low priority, within a time; at best not at all, because it has
//! been done before.
//!
//! wasmtime bounds what compiled code does, but not what compiling costs. [`scan`](super::scan) keeps the
//! worst away; what remains is bounded by a time limit here, and by a child process where there is a
//! program to be one.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use wasmtime::component::Component;

use super::cache::{Cache, Keep};
use super::child::compile_in_child;
use super::engine::engine;
use super::error::{PolicyError, of_compiler};
use super::lane::LARGE;
use super::thread::compile_in_thread;
use crate::policy::limits::Limits;

/// How policies are compiled.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CompileOptions {
    /// A directory for what has been compiled, so that it need not be done again. Made if it is not there,
    /// for its owner alone; refused if others may write to it, as what lies there is trusted. None: nothing
    /// is kept beyond the process.
    pub cache: Option<PathBuf>,
    /// How many bytes the cache may have: those that were not used for longest are removed, but none that this process
    /// has in use. None: 512 MiB.
    pub cache_bytes: Option<u64>,
    /// A program that compiles, and its arguments: it reads a component from its standard input, and
    /// writes what [`precompile`] makes of it to its standard output. It is ended after the time limit, which it
    /// finds, in seconds, in the environment variable `HOTPICK_COMPILE_SECONDS`.
    /// None: a thread of this process compiles, which cannot be ended, only given up.
    pub command: Option<Vec<std::ffi::OsString>>,
}

/// Compiles, and remembers.
#[derive(Debug, Default)]
pub(crate) struct Compiler {
    options: CompileOptions,
    recent: Mutex<Recent>,
    cache: Option<Cache>,
    /// What is being compiled is not wanted any more.
    stop: AtomicBool,
}

/// The components compiled last, by the digest of their file.
#[derive(Default)]
struct Recent(VecDeque<(String, Component)>);

/// Enough for a rollback, or an operator who tries some settings.
const REMEMBERED: usize = 8;

impl Compiler {
    pub(crate) fn new(options: CompileOptions) -> Self {
        let cache = options.cache.as_deref().map(|directory| Cache::new(directory, options.cache_bytes));
        Self { options, cache, ..Self::default() }
    }

    /// Ends what is being compiled, with [`PolicyError::NotNow`], or lets things be compiled again. A child process ends at
    /// once; a thread is given up.
    pub(crate) fn stop(&self, stop: bool) {
        self.stop.store(stop, Ordering::Relaxed);
    }

    /// Compiles a component that is made of the file with this digest.
    pub(crate) fn compile(
        &self,
        component: &[u8],
        digest: &str,
        limits: &Limits,
    ) -> Result<(Component, Option<Arc<Keep>>), PolicyError> {
        let engine = engine()?;
        let cached = self.cache.as_ref().map(|cache| (cache, cache.file(digest, engine)));
        let keep = cached.as_ref().map(|(cache, file)| cache.keep(file));
        if let Some((_, component)) = self.recent().0.iter().find(|(known, _)| known == digest) {
            return Ok((component.clone(), keep));
        }
        let compiled = match cached.as_ref().and_then(|(cache, file)| cache.find(engine, file)) {
            Some(component) => component,
            None => {
                let begin = Instant::now();
                let is_large = component.len() > LARGE;
                if is_large {
                    let (size, digest) = (component.len(), &digest[..12]);
                    tracing::info!(digest, size, "compiling a large policy, with low priority");
                }
                let component = match &self.options.command {
                    Some(command) => {
                        compile_in_child(engine, command, component, limits.compile, &self.stop)?
                    }
                    None => compile_in_thread(engine, component, limits.compile, &self.stop)?,
                };
                if is_large {
                    let digest = &digest[..12];
                    tracing::info!(digest, took = ?begin.elapsed(), "policy compiled");
                }
                if let Some((cache, file)) = &cached
                    && let Err(error) = cache.store(&component, file)
                {
                    tracing::warn!(file = %file.display(), error, "a compiled policy could not be kept");
                }
                component
            }
        };
        let mut recent = self.recent();
        recent.0.truncate(REMEMBERED - 1);
        recent.0.push_front((digest.to_owned(), compiled.clone()));
        Ok((compiled, keep))
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Recent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(digest, _)| digest)).finish()
    }
}

/// Compiles a component for [`CompileOptions::command`]: what a child process is to write out. It is machine
/// code: whoever reads it trusts whoever wrote it.
///
/// # Errors
///
/// The bytes are no component that can be compiled.
pub fn precompile(component: &[u8]) -> Result<Vec<u8>, PolicyError> {
    let engine = engine()?;
    engine.precompile_component(component).map_err(|error| of_compiler(&error))
}
