//! Compiling: one component at a time, with low priority, within a time; at best not at all, because it has
//! been done before.
//!
//! wasmtime bounds what compiled code does, but not what compiling costs. [`scan`](super::scan) keeps the
//! worst away; what remains is bounded by a time limit here, and by a child process where there is a
//! program to be one.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use wasmtime::component::Component;

use super::PolicyError;
use super::cache::{Cache, Keep, deserialize};
use super::engine::Engine;
use super::limits::Limits;
use crate::text::clip;

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
    pub(super) fn compile(
        &self,
        component: &[u8],
        digest: &str,
        limits: &Limits,
    ) -> Result<(Component, Option<Arc<Keep>>), PolicyError> {
        let engine = Engine::shared()?;
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
                    Some(command) => in_child(engine, command, component, limits.compile, &self.stop)?,
                    None => in_thread(engine, component, limits.compile, &self.stop)?,
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
    let engine = Engine::shared()?;
    engine.wasm.precompile_component(component).map_err(|error| PolicyError::Invalid(one_line(&error)))
}

/// Only one at a time, over all directories of the process.
static CHILDREN: Slot = Slot::new();
/// The same of those on threads of this process.
static SLOT: Slot = Slot::new();
/// So many that take longer than they may, and may never end, have this process go on without compiling.
const GIVEN_UP: usize = 4;
/// What tells the compiler's process how long it has.
const SECONDS: &str = "HOTPICK_COMPILE_SECONDS";

/// Where one compiles. A thread cannot be ended: one that takes too long is given up, and leaves the place to others.
struct Slot {
    state: Mutex<SlotState>,
    freed: Condvar,
}

struct SlotState {
    is_taken: bool,
    given_up: usize,
}

/// Frees the place when it is dropped.
struct Taken(&'static Slot);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.free();
    }
}

impl Slot {
    const fn new() -> Self {
        Self { state: Mutex::new(SlotState { is_taken: false, given_up: 0 }), freed: Condvar::new() }
    }

    /// Takes the place when it is free. `Gone`: too many have been given up.
    fn take(&self, limit: Duration, stop: &AtomicBool) -> Result<(), Unheard> {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        while state.is_taken {
            if stop.load(Ordering::Relaxed) {
                return Err(Unheard::Stopped);
            }
            if Instant::now() >= deadline {
                return Err(Unheard::Late);
            }
            state = self.freed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.given_up >= GIVEN_UP {
            return Err(Unheard::Gone);
        }
        state.is_taken = true;
        Ok(())
    }

    fn free(&self) {
        self.lock().is_taken = false;
        self.freed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often one looks whether what is being compiled is still wanted.
const LOOK: Duration = Duration::from_millis(20);

/// What comes within a time, unless it is not wanted any more.
fn wait<T>(from: &Receiver<T>, limit: Duration, stop: &AtomicBool) -> Result<T, Unheard> {
    let deadline = Instant::now() + limit;
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(Unheard::Stopped);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        match from.recv_timeout(left.min(LOOK)) {
            Ok(news) => return Ok(news),
            Err(RecvTimeoutError::Disconnected) => return Err(Unheard::Gone),
            Err(RecvTimeoutError::Timeout) if left.is_zero() => return Err(Unheard::Late),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Why nothing was heard.
enum Unheard {
    Stopped,
    Gone,
    Late,
}

/// Why there is no place to compile in.
fn busy(unheard: Unheard) -> PolicyError {
    match unheard {
        Unheard::Stopped => stopped(),
        Unheard::Late => PolicyError::NotNow("another policy is still being compiled".to_owned()),
        Unheard::Gone => PolicyError::NotNow(format!(
            "{GIVEN_UP} compilations that were given up have not ended: if they never do, restart the process, or compile in \
             another one (CompileOptions::command)"
        )),
    }
}

fn stopped() -> PolicyError {
    PolicyError::NotNow("another file comes first".to_owned())
}

fn in_thread(
    engine: &'static Engine,
    component: &[u8],
    limit: Duration,
    stop: &AtomicBool,
) -> Result<Component, PolicyError> {
    SLOT.take(limit, stop).map_err(busy)?;
    let (done, result) = sync_channel(1);
    let is_given_up = Arc::new(AtomicBool::new(false));
    let (component, given_up) = (component.to_vec(), Arc::clone(&is_given_up));
    let work = move || {
        if component.len() > LARGE {
            lower_priority();
        }
        let compile = || Component::from_binary(&engine.wasm, &component);
        let compiled = std::panic::catch_unwind(AssertUnwindSafe(compile))
            .unwrap_or_else(|_| Err(wasmtime::Error::msg("the compiler panicked on it")));
        // Nobody waits if it took too long.
        let _ = done.send(compiled);
        if given_up.swap(true, Ordering::SeqCst) {
            SLOT.lock().given_up -= 1;
        } else {
            SLOT.free();
        }
    };
    std::thread::Builder::new()
        .name("hotpick-compile".to_owned())
        // Deeply nested code: what the compiler needs must not end the process.
        .stack_size(64 << 20)
        .spawn(work)
        .map_err(|error| {
            SLOT.free();
            PolicyError::NotNow(format!("there is no thread for it: {error}"))
        })?;
    let heard = wait(&result, limit, stop);
    if heard.is_err() && !is_given_up.swap(true, Ordering::SeqCst) {
        // It goes on, beside those that come.
        SLOT.lock().given_up += 1;
        SLOT.free();
    }
    match heard {
        Ok(compiled) => compiled.map_err(|error| PolicyError::Invalid(one_line(&error))),
        Err(Unheard::Stopped) => Err(stopped()),
        Err(Unheard::Late) => Err(took_longer(limit)),
        Err(Unheard::Gone) => Err(PolicyError::Compile("the compiler ended without a word".to_owned())),
    }
}

fn took_longer(limit: Duration) -> PolicyError {
    PolicyError::Compile(format!("it takes longer than {limit:?}"))
}

/// What is larger takes seconds to compile.
const LARGE: usize = 1 << 20;

/// Compiling for seconds must not take the processor from RPCs.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    // On Linux this is the thread's own.
    let _ = rustix::process::setpriority_process(None, 10);
}

fn in_child(
    engine: &Engine,
    command: &[std::ffi::OsString],
    component: &[u8],
    limit: Duration,
    stop: &AtomicBool,
) -> Result<Component, PolicyError> {
    CHILDREN.take(limit, stop).map_err(busy)?;
    let _taken = Taken(&CHILDREN);
    let failed = |error: std::io::Error| {
        let text = format!("the compiler does not run: {error}");
        // The machine's, and not the file's: no process, no descriptor, no memory; or no program, which may be about to
        // be replaced by another.
        match error.kind() {
            ErrorKind::InvalidInput => PolicyError::Compile(text),
            _ => PolicyError::NotNow(text),
        }
    };
    let (program, arguments) = command.split_first().ok_or_else(|| failed(ErrorKind::InvalidInput.into()))?;
    let mut compiler = Command::new(program);
    #[cfg(unix)]
    // A group of its own, so that it can be ended with all that it starts.
    std::os::unix::process::CommandExt::process_group(&mut compiler, 0);
    let child = compiler
        .args(arguments)
        .env(SECONDS, limit.as_secs().saturating_add(1).to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let output = match converse(child, component, limit, stop).map_err(failed)? {
        Ok(output) => output,
        Err(Unheard::Stopped) => return Err(stopped()),
        Err(Unheard::Gone | Unheard::Late) => return Err(took_longer(limit)),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = clip(said.trim(), 500);
        return Err(match said.strip_prefix("is not valid: ") {
            Some(said) => PolicyError::Invalid(said.to_owned()),
            None if said.starts_with(NOT_NOW) => PolicyError::NotNow(said[NOT_NOW.len()..].to_owned()),
            None if ended_by(output.status) == Some(rustix::process::Signal::XCPU.as_raw()) => {
                took_longer(limit)
            }
            None if was_killed(output.status) => {
                PolicyError::NotNow(format!("the compiler ended with {}", output.status))
            }
            None => PolicyError::Compile(format!("the compiler ended with {}: {said}", output.status)),
        });
    }
    deserialize(engine, &output.stdout).map_err(|error| {
        PolicyError::Compile(format!("what came of it cannot be used: {}", one_line(&error)))
    })
}

/// As [`PolicyError::NotNow`] begins.
const NOT_NOW: &str = "cannot be compiled at this moment, and is tried again: ";

/// By someone else, who needed the memory, as a rule: that says nothing of the file. (A compiler that aborts does so for
/// the file, or for want of the memory that it may have: that does.)
fn was_killed(status: std::process::ExitStatus) -> bool {
    use rustix::process::Signal;
    let others = [Signal::KILL, Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT];
    ended_by(status).is_some_and(|signal| others.iter().any(|other| other.as_raw() == signal))
}

#[cfg(unix)]
fn ended_by(status: std::process::ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn ended_by(_status: std::process::ExitStatus) -> Option<i32> {
    None
}

/// Feeds a child and reads what it has to say. One that takes too long, or is not wanted any more, is ended.
fn converse(
    mut child: Child,
    input: &[u8],
    limit: Duration,
    stop: &AtomicBool,
) -> std::io::Result<Result<std::process::Output, Unheard>> {
    let deadline = Instant::now() + limit;
    let (mut stdin, mut stdout, mut stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        // A child that ends early does not read on; that it failed is seen from its status.
        let write = move || {
            let _ = stdin.take().map(|mut stdin| stdin.write_all(input));
        };
        let read = move || {
            let mut bytes = Vec::new();
            let _ = stdout.as_mut().map(|stdout| stdout.read_to_end(&mut bytes));
            bytes
        };
        let hear = move || {
            let mut bytes = Vec::new();
            let _ = stderr.as_mut().map(|stderr| stderr.take(64 << 10).read_to_end(&mut bytes));
            bytes
        };
        let thread = || std::thread::Builder::new().name("hotpick-compiler-io".to_owned());
        let threads = (|| {
            let _written = thread().spawn_scoped(scope, write)?;
            Ok((thread().spawn_scoped(scope, read)?, thread().spawn_scoped(scope, hear)?))
        })();
        let (read, said) = match threads {
            Ok(threads) => threads,
            Err(error) => {
                // Those that there are end with it.
                end(&mut child);
                child.wait()?;
                return Err(error);
            }
        };
        let mut pause = Duration::from_millis(1);
        let status = loop {
            let status = child.try_wait();
            if let Ok(Some(status)) = status {
                break status;
            }
            let is_stopped = stop.load(Ordering::Relaxed);
            if status.is_err() || is_stopped || Instant::now() >= deadline {
                // Whatever happens: those who read wait for the end of what it writes.
                end(&mut child);
                child.wait()?;
                return status.map(|_| Err(if is_stopped { Unheard::Stopped } else { Unheard::Late }));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LOOK);
        };
        // What it has left behind must not hold its output open.
        end(&mut child);
        let (stdout, stderr) = (read.join().unwrap_or_default(), said.join().unwrap_or_default());
        Ok(Ok(std::process::Output { status, stdout, stderr }))
    })
}

/// Ends a child, and all that it has started.
fn end(child: &mut Child) {
    #[cfg(unix)]
    if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.kill();
}

/// For policies that are compiled outside of a directory.
pub(super) fn alone() -> Arc<Compiler> {
    Arc::new(Compiler::default())
}

/// An error with its causes, in one line.
pub(super) fn one_line(error: &wasmtime::Error) -> String {
    format!("{error:#}").replace('\n', " ")
}
