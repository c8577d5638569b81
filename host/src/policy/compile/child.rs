//! Compilation in a child process, which is killed when it takes too long.

use std::io::{ErrorKind, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use wasmtime::component::Component;

use super::cache::deserialize;
use super::error::{PolicyError, one_line};
use super::lane::{Ended, LOOK, Lane, LaneGuard, busy, stopped, took_longer};
use crate::text::clip;

/// The lane of all compiler processes.
static LANE: Lane = Lane::new();
/// Environment variable with the compiler's time limit (seconds).
const SECONDS: &str = "HOTPICK_COMPILE_SECONDS";

pub(super) fn compile_in_child(
    engine: &wasmtime::Engine,
    command: &[std::ffi::OsString],
    component: &[u8],
    limit: Duration,
    stop: &AtomicBool,
) -> Result<Component, PolicyError> {
    LANE.take(limit, stop).map_err(busy)?;
    let _taken = LaneGuard(&LANE);
    let failed = |error: std::io::Error| {
        let text = format!("the compiler does not run: {error}");
        // Caused by the machine, not by the file: no process, descriptor or memory is left, or the program is missing,
        // perhaps while it is being replaced.
        match error.kind() {
            ErrorKind::InvalidInput => PolicyError::Compile(text),
            _ => PolicyError::NotNow(text),
        }
    };
    let (program, arguments) = command.split_first().ok_or_else(|| failed(ErrorKind::InvalidInput.into()))?;
    let mut compiler = Command::new(program);
    #[cfg(unix)]
    // A process group of its own, so that it can be killed with all processes that it starts.
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
        Err(Ended::Stopped) => return Err(stopped()),
        Err(Ended::Gone | Ended::Late) => return Err(took_longer(limit)),
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
        PolicyError::Compile(format!("the compiler's output cannot be used: {}", one_line(&error)))
    })
}

/// Prefix of [`PolicyError::NotNow`] as text.
const NOT_NOW: &str = "cannot be compiled at this moment, and is tried again: ";

/// Returns whether someone else killed the compiler, usually to free memory: that says nothing about the file. (A
/// compiler that aborts does so because of the file, or because it reached its own memory limit: that counts against
/// the file.)
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

/// Writes the input to a child and reads its output. Kills a child that takes too long, or is no longer wanted.
fn converse(
    mut child: Child,
    input: &[u8],
    limit: Duration,
    stop: &AtomicBool,
) -> std::io::Result<Result<std::process::Output, Ended>> {
    let deadline = Instant::now() + limit;
    let (mut stdin, mut stdout, mut stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        // A child that exits early does not read all of its input; its status shows that it failed.
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
                // The threads that were started end with the child.
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
                // In any case: the reading threads wait for the end of the child's output.
                end(&mut child);
                child.wait()?;
                return status.map(|_| Err(if is_stopped { Ended::Stopped } else { Ended::Late }));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LOOK);
        };
        // Processes that the child left behind must not hold its output open.
        end(&mut child);
        let (stdout, stderr) = (read.join().unwrap_or_default(), said.join().unwrap_or_default());
        Ok(Ok(std::process::Output { status, stdout, stderr }))
    })
}

/// Kills a child, and all processes that it has started.
fn end(child: &mut Child) {
    #[cfg(unix)]
    if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.kill();
}
