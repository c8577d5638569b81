//! `hotpick build --watch`: builds whenever a source is saved.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use notify::{EventKind, RecursiveMode, Watcher as _};

use super::Arguments;
use super::project::SKIPPED;

/// Time without a change before a build: editors save in several steps.
const SETTLED: Duration = Duration::from_millis(100);

/// Longest time for which changes that go on put a build off.
const LONGEST: Duration = Duration::from_secs(2);

/// Builds, and builds again whenever a source changes. An error of a build is printed; the policy that was built before
/// stays where it is. Ends with the process.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let path = &arguments.path;
    ensure!(
        path.extension().is_none_or(|extension| extension != "wasm"),
        "cannot watch {path:?}: --watch is for sources; what another tool has built is sealed by hotpick build FILE.wasm"
    );
    let folder =
        if path.is_dir() { path.clone() } else { path.parent().unwrap_or(Path::new(".")).to_owned() };
    let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
    let folder = std::fs::canonicalize(&folder).with_context(|| format!("cannot open folder {folder:?}"))?;
    let outputs: Vec<_> = [&arguments.out, &arguments.into]
        .into_iter()
        .flatten()
        .filter_map(|out| std::path::absolute(out).ok())
        .collect();
    let (sender, changes) = mpsc::channel();
    let root = folder.clone();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // After an error, such as an overflow, anything may have changed.
        let is_change = event.map_or(true, |event| {
            let is_read = matches!(event.kind, EventKind::Access(_));
            !is_read && event.paths.iter().any(|path| is_source(path, &root, &outputs))
        });
        if is_change {
            let _ = sender.send(());
        }
    })
    .context("cannot watch for changes")?;
    loop {
        // Again each time, because the folder may be another one.
        watcher
            .watch(&folder, RecursiveMode::Recursive)
            .with_context(|| format!("cannot watch {folder:?}"))?;
        let begun = Instant::now();
        match super::build(arguments) {
            Ok(()) => eprintln!(
                "built in {:.1} s; waiting for changes in {}",
                begun.elapsed().as_secs_f64(),
                folder.display()
            ),
            Err(error) => eprintln!("hotpick: {error:#}\nwaiting for changes in {}", folder.display()),
        }
        if !wait(&changes) {
            return Ok(ExitCode::SUCCESS);
        }
        if !folder.is_dir() {
            eprintln!("{} is gone; waiting for it", folder.display());
            while !folder.is_dir() {
                std::thread::sleep(Duration::from_millis(500));
            }
        }
    }
}

/// Waits until something has changed and nothing changes any more. Returns false if nothing will change.
fn wait(changes: &Receiver<()>) -> bool {
    if changes.recv().is_err() {
        return false;
    }
    let latest = Instant::now() + LONGEST;
    loop {
        match changes.recv_timeout(SETTLED) {
            Ok(()) if Instant::now() >= latest => return true,
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}

/// Returns whether a file in the watched folder may be a source. Output of the build is none, and neither are hidden files,
/// in which tools and editors keep things of their own.
fn is_source(path: &Path, root: &Path, outputs: &[PathBuf]) -> bool {
    let below = path.strip_prefix(root).unwrap_or(path);
    let is_output = |output: &PathBuf| path.starts_with(output);
    let is_generated = |part: &std::ffi::OsStr| {
        let name = part.to_string_lossy();
        // The SDK of a project is the author's to change.
        let is_sdk = name == "hotpick" || name == "hotpick-guest";
        name.starts_with('.')
            || name.ends_with('~')
            || (SKIPPED.iter().any(|skipped| name == *skipped) && !is_sdk)
    };
    !outputs.iter().any(is_output)
        && !below.iter().any(is_generated)
        && path.extension().is_none_or(|its| its != "wasm" && its != "part")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sources_cause_a_build() {
        let root = Path::new("/p");
        let outputs = [PathBuf::from("/p/out")];
        let is_source = |path: &str| is_source(Path::new(path), root, &outputs);
        for path in ["/p/src/mine.c", "/p/go.mod", "/p/a/src/lib.rs", "/p/hotpick/hotpick.h"] {
            assert!(is_source(path), "{path}");
        }
        for path in [
            "/p/dist/mine.wasm",
            "/p/out/x.toml",
            "/p/target/x",
            "/p/.git/index",
            "/p/src/.mine.c.swp",
            "/p/src/mine.c~",
            "/p/policies/__pycache__/mine.pyc",
            "/p/mine.wasm",
        ] {
            assert!(!is_source(path), "{path}");
        }
    }

    #[test]
    fn a_burst_of_changes_is_one_build() {
        let (sender, changes) = mpsc::channel();
        for _ in 0..3 {
            sender.send(()).expect("sent");
        }
        assert!(wait(&changes));
        assert!(changes.try_recv().is_err());
        drop(sender);
        assert!(!wait(&changes));
    }
}
