//! The access log: one line of JSON for each RPC.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use hotpick::call::{CallObserver, CallRecord};
use serde::Deserialize;

use super::LOG;

/// `[access_log]` of the configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// A file, or `stdout`. The file is opened again on SIGHUP.
    path: PathBuf,
    /// Part of the RPCs that are logged, from 0 to 1. RPCs that fail are always logged.
    #[serde(default = "all")]
    sample: f64,
}

impl Settings {
    /// Logs all RPCs.
    pub(super) const fn all_to(path: PathBuf) -> Self {
        Self { path, sample: all() }
    }
}

const fn all() -> f64 {
    1.0
}

/// Lines that wait to be written. Further ones are dropped.
const WAITING: usize = 8192;
/// Time after which a line is written even if no other follows.
const DELAY: Duration = Duration::from_millis(200);

/// Writes a line for each RPC, in a thread of its own: an RPC never waits for a disk.
#[derive(Clone, Debug)]
pub(super) struct AccessLog {
    sample: f64,
    lines: SyncSender<String>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Lines that were not written: the disk is full or too slow.
    dropped: AtomicU64,
    reopen: AtomicBool,
}

impl AccessLog {
    /// Opens the log, and starts its thread.
    pub(super) fn open(settings: &Settings) -> anyhow::Result<Self> {
        let Settings { path, sample } = settings;
        anyhow::ensure!(
            (0.0..=1.0).contains(sample),
            "access_log: sample is {sample}: set it to 0 (only RPCs that fail) to 1 (all)"
        );
        let output = Output::open(path).with_context(|| format!("access_log: cannot open {path:?}"))?;
        let (lines, receiver) = sync_channel(WAITING);
        let shared = Arc::<Shared>::default();
        let theirs = Arc::clone(&shared);
        let writer = thread::Builder::new().name("access-log".to_owned());
        writer
            .spawn(move || write(output, &receiver, &theirs))
            .context("access_log: cannot start a thread")?;
        Ok(Self { sample: *sample, lines, shared })
    }

    /// Returns the number of lines that were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Opens the file again, at the next line.
    pub(super) fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Relaxed);
    }
}

impl CallObserver for AccessLog {
    fn call_ended(&self, record: &CallRecord<'_>) {
        let is_failed = record.code != tonic::Code::Ok;
        if self.sample < 1.0 && !is_failed && fastrand::f64() >= self.sample {
            return;
        }
        if self.lines.try_send(hotpick_admin::line(record)).is_err() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Opens a file for appending, or a FIFO. Opening a FIFO for writing only would wait for a reader; like this, lines are
/// dropped and counted while nobody reads.
fn open(path: &Path) -> io::Result<File> {
    let is_fifo = std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo());
    if is_fifo {
        return OpenOptions::new().read(true).write(true).open(path);
    }
    OpenOptions::new().append(true).create(true).open(path)
}

/// Where lines go.
enum Output {
    Stdout,
    File { path: PathBuf, file: BufWriter<File> },
}

impl Output {
    fn open(path: &Path) -> io::Result<Self> {
        if path.as_os_str() == "stdout" {
            return Ok(Self::Stdout);
        }
        Ok(Self::File { path: path.to_owned(), file: BufWriter::new(open(path)?) })
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        match self {
            Self::Stdout => writeln!(io::stdout().lock(), "{line}"),
            Self::File { file, .. } => writeln!(file, "{line}"),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout => io::stdout().flush(),
            Self::File { file, .. } => file.flush(),
        }
    }

    /// Opens the file again: it was renamed, or could not be written.
    fn reopen(&mut self) -> io::Result<()> {
        if let Self::File { path, file } = self {
            let new = BufWriter::new(OpenOptions::new().append(true).create(true).open(&*path)?);
            // What could not be written is given up: a drop would try to write it again, and would then write half a line.
            let _ = std::mem::replace(file, new).into_parts();
        }
        Ok(())
    }
}

/// Writes lines until the last sender is gone.
fn write(mut output: Output, lines: &Receiver<String>, shared: &Shared) {
    let mut is_failing = false;
    // Lines in the buffer, which are lost if they cannot be written.
    let mut unflushed = 0;
    loop {
        let line = match lines.recv_timeout(DELAY) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                let _ = output.flush();
                return;
            }
        };
        if shared.reopen.swap(false, Ordering::Relaxed) {
            let reopened = output.flush().and_then(|()| output.reopen());
            if let Err(error) = reopened {
                tracing::error!(target: LOG, %error, "the access log cannot be opened again");
            }
        }
        let is_idle = line.is_none();
        let written = match line {
            Some(line) => {
                unflushed += 1;
                output.write(&line)
            }
            None if unflushed == 0 => continue,
            None => Ok(()),
        };
        let written = written.and_then(|()| if is_idle || unflushed >= 64 { output.flush() } else { Ok(()) });
        match written {
            Ok(()) if is_idle || unflushed >= 64 => {
                unflushed = 0;
                if std::mem::take(&mut is_failing) {
                    tracing::info!(target: LOG, "the access log is written again");
                }
            }
            Ok(()) => {}
            Err(error) => {
                shared.dropped.fetch_add(unflushed, Ordering::Relaxed);
                unflushed = 0;
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::error!(target: LOG, %error, "the access log cannot be written: lines are dropped, and RPCs go on");
                }
                let _ = output.reopen();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_written_and_the_file_is_opened_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("access.log");
        let log = AccessLog::open(&Settings { path: path.clone(), sample: 1.0 }).expect("opened");
        let read = |path: &Path, wanted: usize| loop {
            let lines = std::fs::read_to_string(path).unwrap_or_default().lines().count();
            if lines == wanted {
                return;
            }
            assert!(lines < wanted);
            thread::yield_now();
        };
        log.lines.send("one".to_owned()).expect("open");
        read(&path, 1);
        std::fs::rename(&path, folder.path().join("access.1")).expect("renamed");
        log.reopen();
        for _ in 0..100 {
            log.lines.send("two".to_owned()).expect("open");
        }
        read(&path, 100);
        read(&folder.path().join("access.1"), 1);
        assert_eq!(log.dropped(), 0);
    }

    #[test]
    fn a_full_disk_costs_lines_and_nothing_else() {
        let settings = Settings { path: PathBuf::from("/dev/full"), sample: 1.0 };
        let log = AccessLog::open(&settings).expect("opened");
        for _ in 0..1000 {
            log.lines.send("x".repeat(100)).expect("open");
        }
        while log.dropped() < 1000 {
            thread::yield_now();
        }
        assert_eq!(log.dropped(), 1000);
    }

    #[test]
    fn what_cannot_be_opened_is_said() {
        let open = |path: &str, sample| {
            let opened = AccessLog::open(&Settings { path: PathBuf::from(path), sample });
            format!("{:#}", opened.expect_err("it fails"))
        };
        assert!(open("/nonexistent/access.log", 1.0).starts_with("access_log: cannot open \"/nonexistent"));
        assert!(open("stdout", 1.5).contains("set it to 0 (only RPCs that fail) to 1 (all)"));
    }
}
