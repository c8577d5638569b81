//! Compiles components: one at a time, with low priority and within a time limit. A component that was compiled before
//! is taken from memory or from the cache.
//!
//! wasmtime limits what compiled code does, but not the cost of compiling. [`scan`](super::scan) rejects the worst
//! files. For the others the cost is bounded by a time limit, and by a child process if a compiler program is set.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use wasmtime::component::Component;

use super::cache::{Cache, Keep};
use super::child::compile_in_child;
use super::engine::engine;
use super::error::PolicyError;
#[cfg(feature = "compile")]
use super::error::of_compiler;
#[cfg(feature = "compile")]
use super::forward::forwarded;
use super::lane::LARGE;
#[cfg(feature = "compile")]
use super::thread::compile_in_thread;
use crate::policy::limits::Limits;
use crate::setters::setters;

/// Options of the compilation of policies.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CompileOptions {
    /// Directory for compiled policies, so that they need not be compiled again. Created if missing, for its owner
    /// alone. Not used if others may write to it, because its files are trusted. `None`: compiled policies are kept
    /// only in the memory of the process.
    pub cache: Option<PathBuf>,
    /// Maximum size of the cache (bytes). The least recently used files are removed, but none that this process uses.
    /// `None`: 512 MiB.
    pub cache_bytes: Option<u64>,
    /// Program that compiles, and its arguments. The program reads a component from its standard input, and writes the
    /// result of [`precompile`] to its standard output. It is killed after the time limit, which it finds, in seconds,
    /// in the environment variable `HOTPICK_COMPILE_SECONDS`. `None`: a thread of this process compiles. A thread
    /// cannot be killed, only abandoned.
    pub command: Option<Vec<std::ffi::OsString>>,
}

setters!(CompileOptions {
    with_cache: cache: Option<PathBuf>,
    with_cache_bytes: cache_bytes: Option<u64>,
    with_command: command: Option<Vec<std::ffi::OsString>>,
});

/// Compiles components, and remembers recent ones.
#[derive(Debug, Default)]
pub(crate) struct Compiler {
    options: CompileOptions,
    recent: Mutex<Recent>,
    cache: Option<Cache>,
    /// Whether the current compilation is no longer wanted.
    stop: AtomicBool,
}

/// Recently compiled components, by the digest of their file.
#[derive(Default)]
struct Recent(VecDeque<(String, Component)>);

/// Number of components remembered: enough for a rollback, or an operator who tries several settings.
const REMEMBERED: usize = 8;

impl Compiler {
    pub(crate) fn new(options: CompileOptions) -> Self {
        let cache = options.cache.as_deref().map(|directory| Cache::new(directory, options.cache_bytes));
        Self { options, cache, ..Self::default() }
    }

    /// Ends the current compilation with [`PolicyError::NotNow`] (`true`), or permits compilations again (`false`). A
    /// child process is killed at once; a thread is abandoned.
    pub(crate) fn stop(&self, stop: bool) {
        self.stop.store(stop, Ordering::Relaxed);
    }

    /// Compiles a component that was made from the file with this digest.
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
                    #[cfg(feature = "compile")]
                    None => compile_in_thread(engine, component, limits.compile, &self.stop)?,
                    #[cfg(not(feature = "compile"))]
                    None => {
                        return Err(PolicyError::Compile(
                            "this host is built without the feature `compile`, and the cache does not have it: set \
                             CompileOptions::cache or CompileOptions::command"
                                .to_owned(),
                        ));
                    }
                };
                if is_large {
                    let digest = &digest[..12];
                    tracing::info!(digest, took = ?begin.elapsed(), "policy compiled");
                }
                if let Some((cache, file)) = &cached
                    && let Err(error) = cache.store(&component, file)
                {
                    tracing::warn!(file = %file.display(), error, "cannot store a compiled policy in the cache");
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

/// Compiles a component to machine code, for the program of [`CompileOptions::command`]. The process that loads the
/// machine code trusts the process that wrote it.
///
/// # Errors
///
/// If the bytes are not a component that can be compiled.
#[cfg(feature = "compile")]
pub fn precompile(component: &[u8]) -> Result<Vec<u8>, PolicyError> {
    let engine = engine()?;
    let forwarded = forwarded(component);
    // What is said of a component is said of its own bytes.
    let compiled =
        engine.precompile_component(&forwarded).or_else(|_| engine.precompile_component(component));
    compiled.map_err(|error| match of_compiler(&error) {
        // The limit is this process's own, and counts against the file.
        PolicyError::NotNow(reason) => PolicyError::Compile(reason),
        error => error,
    })
}
