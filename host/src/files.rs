//! Reading files that other processes write: detecting that a file is no longer changing, and reading it complete.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use tokio::time::Instant;

/// Error of reading a file. Its text completes the sentence "FILE cannot be read: ...".
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is not a regular file")]
    NotRegular,
    #[error("its size of {size} bytes exceeds the limit of {limit} bytes")]
    TooLarge { size: usize, limit: usize },
    #[error("it is open for writing")]
    BeingWritten,
    /// The system cannot say whether a process has the file open for writing.
    #[error("it was modified less than 2 s ago")]
    Young,
}

/// Metadata that shows whether a file has changed, regardless of file system events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    identity: (u64, u64),
    size: u64,
    modified: Option<SystemTime>,
    changed: (i64, i64),
}

impl Fingerprint {
    #[cfg(unix)]
    fn of(metadata: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        Self {
            identity: (metadata.dev(), metadata.ino()),
            size: metadata.len(),
            modified: metadata.modified().ok(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    #[cfg(not(unix))]
    fn of(metadata: &Metadata) -> Self {
        Self { identity: (0, 0), size: metadata.len(), modified: metadata.modified().ok(), changed: (0, 0) }
    }

    /// Returns the fingerprint of the file at this path, or `None` if there is no such file (a dangling symlink).
    pub(crate) fn at(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|metadata| Self::of(&metadata))
    }

    /// Returns the fingerprint of the entry at this path without following a symlink. `None` if there is no entry.
    pub(crate) fn of_link(path: &Path) -> Option<Self> {
        fs::symlink_metadata(path).ok().map(|metadata| Self::of(&metadata))
    }

    /// Returns whether the file was last modified longer ago than `quiet`.
    fn is_old(&self, quiet: Duration) -> bool {
        self.modified.and_then(|at| at.elapsed().ok()).is_some_and(|age| age > quiet)
    }

    /// Like [`is_old`](Self::is_old), but true for a time in the future: that is the clock of another machine.
    fn is_at_rest(&self, quiet: Duration) -> bool {
        self.modified.is_none_or(|at| at.elapsed().map_or(true, |age| age > quiet))
    }
}

/// How long ago a file must have been modified, if the system cannot say whether a process has it open for writing.
const QUIET_WITHOUT_LEASES: Duration = Duration::from_secs(2);

/// Reads a complete file that no process has open for writing. Returns `None` if its fingerprint is not `expected` at
/// the end.
pub(crate) fn read(path: &Path, expected: Fingerprint, limit: usize) -> Result<Option<Vec<u8>>, ReadError> {
    read_if(path, expected, limit, |file| match writers(file) {
        Writers::None => Ok(()),
        Writers::Some => Err(ReadError::BeingWritten),
        Writers::Unknown if expected.is_at_rest(QUIET_WITHOUT_LEASES) => Ok(()),
        Writers::Unknown => Err(ReadError::Young),
    })
}

/// Like [`read`], but the file may be open for writing.
pub(crate) fn read_open(
    path: &Path,
    expected: Fingerprint,
    limit: usize,
) -> Result<Option<Vec<u8>>, ReadError> {
    read_if(path, expected, limit, |_| Ok(()))
}

fn read_if(
    path: &Path,
    expected: Fingerprint,
    limit: usize,
    may_be_read: impl FnOnce(&File) -> Result<(), ReadError>,
) -> Result<Option<Vec<u8>>, ReadError> {
    let mut file = open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(ReadError::NotRegular);
    }
    let size = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    if size > limit {
        return Err(ReadError::TooLarge { size, limit });
    }
    may_be_read(&file)?;
    let mut bytes = Vec::with_capacity(size);
    // One byte more than expected, to notice a file that grows.
    file.by_ref().take(metadata.len() + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() == size && Fingerprint::at(path) == Some(expected)).then_some(bytes))
}

/// Returns whether it is certain that no process has a file open for writing.
pub(crate) fn is_closed(path: &Path) -> bool {
    open(path).is_ok_and(|file| writers(&file) == Writers::None)
}

/// Reads a file as it is now.
pub(crate) fn read_now(path: &Path, limit: usize) -> Result<Vec<u8>, ReadError> {
    let file = open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(ReadError::NotRegular);
    }
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(ReadError::TooLarge { size: bytes.len(), limit });
    }
    Ok(bytes)
}

/// Parses TOML. The error is one line, with the line number or the key.
///
/// Values that JSON does not have (dates, `nan`, `inf`) are refused with their key. None of our formats uses them, and
/// in a policy's configuration they would arrive as a different value.
pub fn from_toml<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let located = |error: toml::de::Error| {
        let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        format!("line {line}: {}", plain(error.message()))
    };
    let read = toml::from_str(text).map_err(located)?;
    let table: toml::Table = toml::from_str(text).map_err(located)?;
    for (key, value) in &table {
        fits_json(key, value)?;
    }
    Ok(read)
}

/// Says what a number may be, instead of the name of Rust's type.
fn plain(message: &str) -> String {
    let Some((rest, expected)) = message.rsplit_once("expected ") else { return message.to_owned() };
    let words = match expected {
        "usize" | "u64" | "u32" | "u16" | "u8" => "a whole number, not negative and not too large",
        "f32" | "f64" => "a number",
        _ if expected.starts_with("struct ") => "a table",
        _ => return message.to_owned(),
    };
    format!("{rest}expected {words}")
}

fn fits_json(name: &str, value: &toml::Value) -> Result<(), String> {
    match value {
        toml::Value::Datetime(date) => Err(format!("{name} is the date {date}: write it as text, in quotes")),
        toml::Value::Float(number) if !number.is_finite() => {
            Err(format!("{name} is {number}: write a number, or text in quotes"))
        }
        toml::Value::Array(values) => {
            values.iter().enumerate().try_for_each(|(at, value)| fits_json(&format!("{name}[{at}]"), value))
        }
        toml::Value::Table(table) => {
            table.iter().try_for_each(|(key, value)| fits_json(&format!("{name}.{key}"), value))
        }
        _ => Ok(()),
    }
}

/// Whether a process has a file open for writing. A copy may pause for longer than any quiet time, and what is written
/// so far may be valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writers {
    None,
    Some,
    /// The file belongs to another user, or its file system has no leases.
    Unknown,
}

#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "no safe interface has leases")]
fn writers(file: &File) -> Writers {
    use std::os::fd::AsRawFd as _;
    /// `linux/fcntl.h`.
    const F_SETSIG: libc::c_int = 10;
    let file = file.as_raw_fd();
    // SAFETY: these calls take numbers, and the descriptor is open. If a process opens the file for writing while we
    // hold the lease, the kernel sends us a signal: SIGURG, which is ignored by default.
    unsafe {
        libc::fcntl(file, F_SETSIG, libc::SIGURG);
        if libc::fcntl(file, libc::F_SETLEASE, libc::F_RDLCK) == 0 {
            libc::fcntl(file, libc::F_SETLEASE, libc::F_UNLCK);
            return Writers::None;
        }
    }
    match io::Error::last_os_error().kind() {
        io::ErrorKind::WouldBlock => Writers::Some,
        _ => Writers::Unknown,
    }
}

#[cfg(not(target_os = "linux"))]
fn writers(_file: &File) -> Writers {
    Writers::Unknown
}

#[cfg(unix)]
fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    // Opening a FIFO would block until a process opens it for writing.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits();
    File::options().read(true).custom_flags(nonblocking.cast_signed()).open(path)
}

#[cfg(not(unix))]
fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// Follows files, and returns each file once it has not changed for a quiet time.
#[derive(Debug, Default)]
pub(crate) struct Settling {
    files: BTreeMap<String, Follow>,
}

#[derive(Debug, Default)]
struct Follow {
    /// The fingerprint last returned. `None`: the file did not exist.
    settled: Option<Fingerprint>,
    /// A change that is more recent than the quiet time, and when it was first observed.
    pending: Option<(Option<Fingerprint>, Instant)>,
    /// When to return the file once more even if it does not change.
    again: Option<Instant>,
    /// The fingerprint last returned by [`Settling::foresee`].
    foreseen: Option<Fingerprint>,
}

impl Settling {
    /// Records the files that exist now. Returns those that have changed since they were last returned and have then
    /// been quiet, with their fingerprints; `None` for a file that was removed.
    pub(crate) fn observe(
        &mut self,
        present: &BTreeMap<String, Fingerprint>,
        quiet: Duration,
    ) -> Vec<(String, Option<Fingerprint>)> {
        let now = Instant::now();
        for name in present.keys() {
            if !self.files.contains_key(name) {
                self.files.insert(name.clone(), Follow::default());
            }
        }
        let mut at_rest = Vec::new();
        for (name, follow) in &mut self.files {
            let seen = present.get(name).copied();
            if seen == follow.settled {
                follow.pending = None;
                if follow.again.is_some_and(|at| at <= now) {
                    follow.again = None;
                    at_rest.push((name.clone(), seen));
                }
                continue;
            }
            let since = match follow.pending {
                Some((pending, since)) if pending == seen => since,
                _ => now,
            };
            // A file that was old when first observed needs no wait.
            let old = follow.settled.is_none()
                && follow.pending.is_none()
                && seen.is_some_and(|seen| seen.is_old(quiet));
            if old || now.duration_since(since) >= quiet {
                *follow = Follow { settled: seen, ..Follow::default() };
                at_rest.push((name.clone(), seen));
            } else {
                follow.pending = Some((seen, since));
            }
        }
        self.files.retain(|_, follow| follow.settled.is_some() || follow.pending.is_some());
        at_rest
    }

    /// Returns the files that have not changed for a part of the quiet time, each change once. They will probably not
    /// change for the rest of it.
    pub(crate) fn foresee(&mut self, part: Duration) -> Vec<(String, Fingerprint)> {
        let now = Instant::now();
        let mut foreseen = Vec::new();
        for (name, follow) in &mut self.files {
            if let Some((Some(seen), since)) = follow.pending
                && now.duration_since(since) >= part
                && follow.foreseen.replace(seen) != Some(seen)
            {
                foreseen.push((name.clone(), seen));
            }
        }
        foreseen
    }

    /// Returns whether the file is still changing.
    pub(crate) fn is_moving(&self, name: &str) -> bool {
        self.files.get(name).is_some_and(|follow| follow.pending.is_some())
    }

    /// Returns whether any file is still changing or is to be returned again within this time.
    pub(crate) fn is_pending(&self, within: Duration) -> bool {
        let soon = Instant::now() + within;
        let due = |follow: &Follow| follow.again.is_some_and(|at| at <= soon);
        self.files.values().any(|follow| follow.pending.is_some() || due(follow))
    }

    /// Returns when a file that does not change is to be returned again.
    pub(crate) fn again_at(&self) -> Option<Instant> {
        self.files.values().filter_map(|follow| follow.again).min()
    }

    /// Schedules a file that has just been returned to be returned once more after this time.
    pub(crate) fn retry(&mut self, name: &str, after: Duration) {
        if let Some(follow) = self.files.get_mut(name) {
            follow.again = Some(Instant::now() + after);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Duration = Duration::from_millis(150);

    fn fingerprint(size: u64) -> Fingerprint {
        Fingerprint { identity: (0, 0), size, modified: None, changed: (0, 0) }
    }

    fn files(sizes: &[(&str, u64)]) -> BTreeMap<String, Fingerprint> {
        sizes.iter().map(|(name, size)| ((*name).to_owned(), fingerprint(*size))).collect()
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_that_is_open_for_writing_is_not_read() {
        use std::io::Write as _;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.wasm");
        let mut writer = File::create(&path).expect("made");
        writer.write_all(b"half").expect("written");
        let seen = || Fingerprint::at(&path).expect("there");
        let error = read(&path, seen(), 100).expect_err("it is not whole");
        assert_eq!(error.to_string(), "it is open for writing");
        writer.write_all(b" and half").expect("written");
        drop(writer);
        let whole = read(&path, seen(), 100).expect("read");
        assert_eq!(whole.as_deref(), Some(&b"half and half"[..]));
    }

    #[cfg(unix)]
    #[test]
    fn a_file_whose_writers_are_unknown_must_be_old() {
        // Pipes have no leases.
        let (pipe, _other) = io::pipe().expect("a pipe");
        assert_eq!(writers(&std::os::fd::OwnedFd::from(pipe).into()), Writers::Unknown);
        let written = |ago: i64| {
            let second = Duration::from_secs(ago.unsigned_abs());
            let now = SystemTime::now();
            let modified = Some(if ago < 0 { now + second } else { now - second });
            Fingerprint { modified, ..fingerprint(1) }
        };
        assert!(!written(1).is_at_rest(QUIET_WITHOUT_LEASES));
        assert!(written(3).is_at_rest(QUIET_WITHOUT_LEASES));
        assert!(written(-100).is_at_rest(QUIET_WITHOUT_LEASES));
    }

    #[test]
    fn toml_values_that_json_does_not_have_are_refused_by_name() {
        let of = |text: &str| from_toml::<toml::Table>(text).map(|_| ());
        assert_eq!(of("[config]\na = 1.5\nb = ['2024-01-01']"), Ok(()));
        for (text, sentence) in [
            ("[config]\nweights = { a = nan }", "config.weights.a is NaN: write a number"),
            ("x = [1.0, -inf]", "x[1] is -inf: write a number"),
            ("[config]\nsince = 2024-01-01", "config.since is the date 2024-01-01: write it as text"),
        ] {
            let error = of(text).expect_err(text);
            assert!(error.starts_with(sentence), "{error}");
        }
    }

    #[test]
    fn what_a_value_should_be_is_said_without_types_of_rust() {
        #[derive(Debug, serde::Deserialize)]
        #[expect(dead_code, reason = "only read")]
        struct Inner {
            number: f64,
            count: u32,
        }
        #[derive(Debug, serde::Deserialize)]
        #[expect(dead_code, reason = "only read")]
        struct Outer {
            inner: Inner,
        }
        for (text, sentence) in [
            ("inner = 1", "invalid type: integer `1`, expected a table"),
            ("inner = { number = \"x\", count = 1 }", "invalid type: string \"x\", expected a number"),
            ("inner = { number = 1, count = -1 }", "invalid value: integer `-1`, expected a whole number"),
        ] {
            let error = from_toml::<Outer>(text).expect_err(text);
            assert!(error.contains(sentence), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_grows_is_returned_once_when_it_has_stopped() {
        let mut settling = Settling::default();
        for size in 0..10 {
            assert_eq!(settling.observe(&files(&[("a.wasm", size)]), QUIET), []);
            tokio::time::advance(QUIET / 2).await;
        }
        assert!(settling.is_pending(Duration::ZERO));
        tokio::time::advance(QUIET / 2).await;
        let rest = [("a.wasm".to_owned(), Some(fingerprint(9)))];
        assert_eq!(settling.observe(&files(&[("a.wasm", 9)]), QUIET), rest);
        assert!(!settling.is_pending(Duration::ZERO));
        assert_eq!(settling.observe(&files(&[("a.wasm", 9)]), QUIET), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_foreseen_once() {
        let mut settling = Settling::default();
        let foreseen = [("a.wasm".to_owned(), fingerprint(1))];
        settling.observe(&files(&[("a.wasm", 1)]), QUIET);
        assert_eq!(settling.foresee(QUIET / 3), []);
        tokio::time::advance(QUIET / 3).await;
        settling.observe(&files(&[("a.wasm", 1)]), QUIET);
        assert_eq!(settling.foresee(QUIET / 3), foreseen);
        assert_eq!(settling.foresee(QUIET / 3), []);
        // The file changes after it was foreseen.
        settling.observe(&files(&[("a.wasm", 2)]), QUIET);
        assert_eq!(settling.foresee(QUIET / 3), []);
        tokio::time::advance(QUIET / 3).await;
        settling.observe(&files(&[("a.wasm", 2)]), QUIET);
        assert_eq!(settling.foresee(QUIET / 3), [("a.wasm".to_owned(), fingerprint(2))]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_missing_for_a_moment_is_not_removed() {
        let mut settling = Settling::default();
        settling.observe(&files(&[("a.wasm", 1)]), QUIET);
        tokio::time::advance(QUIET).await;
        settling.observe(&files(&[("a.wasm", 1)]), QUIET);
        assert_eq!(settling.observe(&files(&[]), QUIET), []);
        tokio::time::advance(QUIET / 2).await;
        assert_eq!(settling.observe(&files(&[("a.wasm", 1)]), QUIET), []);
        tokio::time::advance(QUIET).await;
        assert_eq!(settling.observe(&files(&[]), QUIET), []);
        tokio::time::advance(QUIET).await;
        assert_eq!(settling.observe(&files(&[]), QUIET), [("a.wasm".to_owned(), None)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_retried_file_is_returned_again_and_its_removal_too() {
        let mut settling = Settling::default();
        let present = files(&[("a.wasm", 1)]);
        let rest = [("a.wasm".to_owned(), Some(fingerprint(1)))];
        settling.observe(&present, QUIET);
        tokio::time::advance(QUIET).await;
        assert_eq!(settling.observe(&present, QUIET), rest);
        settling.retry("a.wasm", QUIET * 9);
        assert!(!settling.is_pending(Duration::ZERO));
        assert_eq!(settling.again_at(), Some(Instant::now() + QUIET * 9));
        assert_eq!(settling.observe(&present, QUIET), []);
        tokio::time::advance(QUIET * 9).await;
        assert!(settling.is_pending(Duration::ZERO));
        assert_eq!((settling.observe(&present, QUIET), settling.again_at()), (rest.to_vec(), None));
        settling.retry("a.wasm", QUIET * 9);
        settling.observe(&files(&[]), QUIET);
        tokio::time::advance(QUIET).await;
        assert_eq!(settling.observe(&files(&[]), QUIET), [("a.wasm".to_owned(), None)]);
    }
}
