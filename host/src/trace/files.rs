//! Traces as files of a directory, written by a thread of their own.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;

use super::format::Bytes;
use super::options::RecordOptions;
use super::recorder::{Extent, Recorder, TraceSink};
use crate::supervision::guarded;

/// Settings of a policy whose instances are recorded to files: `[record]`.
///
/// ```toml
/// [record]
/// directory = "/var/lib/hotpick/traces"
/// share = 0.1
/// plain = ["x-tenant-tier"]
/// ```
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
#[non_exhaustive]
pub struct RecordSettings {
    /// Where the traces are written; created if there is none.
    pub directory: PathBuf,
    /// Number of traces of the policy that are kept, the newest ones. Default: 8.
    pub keep: usize,
    /// Part of the time that is recorded, above 0 and at most 1. Default: 1. A trace is whole or not there: it is the
    /// time between traces that grows.
    pub share: f64,
    /// Length of a trace (s), at most 3,600. Default: 600.
    pub seconds: u64,
    /// Size of a trace (MiB), at most 128. Default: 64.
    pub mib: u64,
    /// Metadata keys of which the values are recorded although the policy does not declare them.
    pub metadata: Vec<String>,
    /// Metadata keys of which the values are recorded as they are. Others are hashed.
    pub plain: Vec<String>,
}

impl Default for RecordSettings {
    fn default() -> Self {
        let (metadata, plain) = (Vec::new(), Vec::new());
        Self { directory: PathBuf::new(), keep: 8, share: 1.0, seconds: 600, mib: 64, metadata, plain }
    }
}

/// Number of blocks that wait to be written. More are lost, and with them the rest of their traces.
const WAITING: usize = 64;

/// A trace that is being written.
struct TraceFile {
    path: PathBuf,
    /// Beginning of the names of the policy's traces.
    prefix: String,
    keep: usize,
    is_broken: Arc<AtomicBool>,
}

enum Job {
    Write(Arc<TraceFile>, Bytes),
    Close(Arc<TraceFile>),
}

struct FileSink {
    file: Arc<TraceFile>,
    jobs: SyncSender<Job>,
}

impl RecordSettings {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// If they cannot be used: a sentence that names the field.
    pub fn check(&self) -> Result<(), String> {
        let within = |key: &str, number: u64, most: u64| {
            let is_within = (1..=most).contains(&number);
            if is_within {
                Ok(())
            } else {
                Err(format!("record.{key} is {number}: use a number from 1 to {most}"))
            }
        };
        if self.directory.as_os_str().is_empty() {
            return Err("record.directory is missing: name a directory for the traces".to_owned());
        }
        if !(self.share > 0.0 && self.share <= 1.0) {
            return Err(format!("record.share is {}: use a number above 0 and at most 1", self.share));
        }
        within("keep", self.keep as u64, 10_000)?;
        within("seconds", self.seconds, RecordOptions::LONGEST.as_secs())?;
        within("mib", self.mib, RecordOptions::LARGEST >> 20)
    }

    /// Returns a recorder of the next instance of this policy. `None`: there is no thread to write its trace.
    pub(crate) fn recorder(&self, policy: &str) -> Option<Recorder> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let jobs = WRITER.clone()?;
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let prefix = format!("{policy}-");
        let path = self.directory.join(format!("{prefix}{since_1970:014}-{process}-{number}.trace"));
        let file = Arc::new(TraceFile { path, prefix, keep: self.keep, is_broken: Arc::default() });
        let extent = Extent {
            bytes: self.mib << 20,
            time: Duration::from_secs(self.seconds),
            metadata: self.metadata.clone(),
            plain: self.plain.clone(),
        };
        Some(Recorder::new(extent, Box::new(FileSink { file, jobs }), false))
    }
}

/// Starts the thread with the first trace.
static WRITER: LazyLock<Option<SyncSender<Job>>> = LazyLock::new(|| {
    let (sender, jobs) = sync_channel(WAITING);
    let thread = std::thread::Builder::new().name("hotpick-recorder".to_owned());
    let spawned = thread.spawn(move || {
        // A trace whose bytes panic is incomplete, and the next one is written.
        while guarded("the thread that writes traces", || write_all(&jobs)).is_none() {}
    });
    spawned.inspect_err(|error| tracing::warn!(%error, "no policy can be recorded")).ok().map(|_| sender)
});

fn write_all(jobs: &Receiver<Job>) {
    let mut open: Vec<(Arc<TraceFile>, File)> = Vec::new();
    while let Ok(job) = jobs.recv() {
        match job {
            Job::Write(file, bytes) if !file.is_broken.load(Ordering::Relaxed) => {
                let written = opened(&mut open, &file).and_then(|open| open.write_all(bytes.as_slice()));
                if let Err(error) = written {
                    file.is_broken.store(true, Ordering::Relaxed);
                    tracing::warn!(trace = %file.path.display(), %error, "trace cannot be written");
                }
            }
            Job::Write(..) => {}
            Job::Close(file) => {
                open.retain(|(other, _)| !Arc::ptr_eq(other, &file));
                let directory = file.path.parent().unwrap_or(Path::new("."));
                let in_use: Vec<_> = open.iter().filter_map(|(file, _)| file.path.file_name()).collect();
                if let Err(error) = remove_old(directory, &file.prefix, file.keep, &in_use) {
                    tracing::warn!(directory = %directory.display(), %error, "old traces cannot be removed");
                }
            }
        }
    }
}

fn opened<'a>(open: &'a mut Vec<(Arc<TraceFile>, File)>, file: &Arc<TraceFile>) -> io::Result<&'a mut File> {
    let at = match open.iter().position(|(other, _)| Arc::ptr_eq(other, file)) {
        Some(at) => at,
        None => {
            if let Some(directory) = file.path.parent() {
                fs::create_dir_all(directory)?;
            }
            let created = File::options().write(true).create_new(true).open(&file.path)?;
            open.push((Arc::clone(file), created));
            open.len() - 1
        }
    };
    Ok(&mut open[at].1)
}

/// Removes all but the newest traces of a policy. Those that are being written are left alone, and do not count.
fn remove_old(directory: &Path, prefix: &str, keep: usize, in_use: &[&OsStr]) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let is_its = name.to_str().and_then(|name| name.strip_prefix(prefix)).is_some_and(is_number_of_trace);
        if is_its && !in_use.contains(&&*name) {
            names.push(name);
        }
    }
    // Names contain the time, with as many digits for the next centuries.
    names.sort();
    for name in names.iter().rev().skip(keep) {
        fs::remove_file(directory.join(name))?;
    }
    Ok(())
}

/// Returns whether this is the rest of a trace's name. Another policy's name may begin as this one's.
fn is_number_of_trace(rest: &str) -> bool {
    let Some(numbers) = rest.strip_suffix(".trace") else { return false };
    let parts: Vec<_> = numbers.split('-').collect();
    parts.len() == 3 && parts.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
}

impl TraceSink for FileSink {
    fn write(&self, bytes: Bytes) -> bool {
        self.is_wanted() && self.jobs.try_send(Job::Write(Arc::clone(&self.file), bytes)).is_ok()
    }

    fn close(&self) {
        // If this is lost as well, the file stays open until the process ends, and is counted with the next.
        let _ = self.jobs.try_send(Job::Close(Arc::clone(&self.file)));
    }

    /// The thread is never behind by much.
    fn is_idle(&self) -> bool {
        true
    }

    fn is_wanted(&self) -> bool {
        !self.file.is_broken.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_traces_of_a_policy_are_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let names =
            ["p-00000000000001-7-0.trace", "p-00000000000002-7-1.trace", "p-00000000000003-7-2.trace"];
        let others = ["p-x-00000000000001-7-0.trace", "q-00000000000001-7-0.trace", "p-notes.trace"];
        for name in names.iter().chain(&others) {
            fs::write(directory.path().join(name), "").expect("written");
        }
        let in_use = OsStr::new(names[0]);
        remove_old(directory.path(), "p-", 2, &[in_use]).expect("removed");
        assert!(directory.path().join(names[0]).exists());
        remove_old(directory.path(), "p-", 2, &[]).expect("removed");
        let is_there = |name: &&str| directory.path().join(name).exists();
        assert_eq!(names.iter().map(is_there).collect::<Vec<_>>(), [false, true, true]);
        assert!(others.iter().all(is_there));
    }
}
