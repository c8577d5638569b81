//! Files that others write: whether they have come to rest, and reading them whole.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use tokio::time::Instant;

/// Why a file cannot be read: a fragment of a sentence.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is not a regular file")]
    NotRegular,
    #[error("it has {size} bytes, and the limit is {limit}")]
    TooLarge { size: usize, limit: usize },
    #[error("someone is writing to it")]
    BeingWritten,
    /// And who has it open cannot be asked.
    #[error("it was written a moment ago")]
    Young,
}

/// What shows that a file is another than before, whatever the events say.
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

    /// Of the file at this path; none if it cannot be looked at (a dangling symlink).
    pub(crate) fn at(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|metadata| Self::of(&metadata))
    }

    /// Of the symlink at this path, if it is one.
    pub(crate) fn of_link(path: &Path) -> Option<Self> {
        fs::symlink_metadata(path).ok().map(|metadata| Self::of(&metadata))
    }

    /// Whether the file was last written longer ago than `quiet`.
    fn is_old(&self, quiet: Duration) -> bool {
        self.modified.and_then(|at| at.elapsed().ok()).is_some_and(|age| age > quiet)
    }

    /// The same of a file whose time may be in the future: another machine's clock says nothing.
    fn is_at_rest(&self, quiet: Duration) -> bool {
        self.modified.is_none_or(|at| at.elapsed().map_or(true, |age| age > quiet))
    }
}

/// Where it cannot be asked who has a file open, it must not have been written for so long.
const UNASKED: Duration = Duration::from_secs(2);

/// Reads a file whole, if it stayed as `expected` all the while, and no one has it open to write to it.
/// `None`: it did not.
pub(crate) fn read(path: &Path, expected: Fingerprint, limit: usize) -> Result<Option<Vec<u8>>, ReadError> {
    read_if(path, expected, limit, |file| match writers(file) {
        Writers::None => Ok(()),
        Writers::Some => Err(ReadError::BeingWritten),
        Writers::Unknown if expected.is_at_rest(UNASKED) => Ok(()),
        Writers::Unknown => Err(ReadError::Young),
    })
}

/// The same, though someone may have it open to write.
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
    // One more than there should be: a file that grows is not at rest.
    file.by_ref().take(metadata.len() + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() == size && Fingerprint::at(path) == Some(expected)).then_some(bytes))
}

/// Whether it is sure that no one has a file open to write to it.
pub(crate) fn is_closed(path: &Path) -> bool {
    open(path).is_ok_and(|file| writers(&file) == Writers::None)
}

/// Reads a file as it is at this moment.
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

/// Reads TOML. The error is one line, which says where.
///
/// What TOML has and JSON has not (dates, `nan`, `inf`) is refused by its name: nothing of ours takes it, and in a
/// policy's configuration it would arrive as something else.
pub(crate) fn from_toml<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let located = |error: toml::de::Error| {
        let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        format!("line {line}: {}", error.message())
    };
    let read = toml::from_str(text).map_err(located)?;
    let table: toml::Table = toml::from_str(text).map_err(located)?;
    for (key, value) in &table {
        fits_json(key, value)?;
    }
    Ok(read)
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

/// Who has a file open to write to it: a copy may pause for longer than any quiet time, and be valid so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writers {
    None,
    Some,
    /// It is another user's, or on a file system without leases.
    Unknown,
}

#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "leases are in no safe interface")]
fn writers(file: &File) -> Writers {
    use std::os::fd::AsRawFd as _;
    /// `linux/fcntl.h`.
    const F_SETSIG: libc::c_int = 10;
    let file = file.as_raw_fd();
    // SAFETY: these calls take numbers, and the descriptor is open. Whoever opens the file to write while
    // we have the lease sends us a signal: for the moment until it is given back, one that is ignored.
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
    // A FIFO would hold the opener until someone writes.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits();
    File::options().read(true).custom_flags(nonblocking.cast_signed()).open(path)
}

#[cfg(not(unix))]
fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// Follows files until each has stayed the same for a quiet time.
#[derive(Debug, Default)]
pub(crate) struct Settling {
    files: BTreeMap<String, Follow>,
}

#[derive(Debug, Default)]
struct Follow {
    /// What was last acted on. `None`: the file was not there.
    settled: Option<Fingerprint>,
    /// A change that is not yet old enough.
    pending: Option<(Option<Fingerprint>, Instant)>,
    /// When to return the file once more, even if it stays as it is.
    again: Option<Instant>,
    /// What was last returned as about to come to rest.
    foreseen: Option<Fingerprint>,
}

impl Settling {
    /// Takes in what is there now. Returns the files that have come to rest since they were last
    /// returned, with what they are; `None` for one that is gone.
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
            // A file that was there long before we looked need not be waited for.
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

    /// The files that have stayed the same for a part of the quiet time, each once: they may well be what they
    /// will be when it is over.
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

    /// This file is still changing.
    pub(crate) fn is_moving(&self, name: &str) -> bool {
        self.files.get(name).is_some_and(|follow| follow.pending.is_some())
    }

    /// Something is still changing, or is to be looked at again within this time.
    pub(crate) fn is_pending(&self, within: Duration) -> bool {
        let soon = Instant::now() + within;
        let due = |follow: &Follow| follow.again.is_some_and(|at| at <= soon);
        self.files.values().any(|follow| follow.pending.is_some() || due(follow))
    }

    /// The file, which has just been returned, is to be returned once more after this time.
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
    fn a_file_that_someone_writes_to_is_not_read() {
        use std::io::Write as _;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.wasm");
        let mut writer = File::create(&path).expect("made");
        writer.write_all(b"half").expect("written");
        let seen = || Fingerprint::at(&path).expect("there");
        let error = read(&path, seen(), 100).expect_err("it is not whole");
        assert_eq!(error.to_string(), "someone is writing to it");
        writer.write_all(b" and half").expect("written");
        drop(writer);
        let whole = read(&path, seen(), 100).expect("read");
        assert_eq!(whole.as_deref(), Some(&b"half and half"[..]));
    }

    #[cfg(unix)]
    #[test]
    fn where_writers_are_not_known_a_file_must_have_been_at_rest() {
        // There are no leases of pipes.
        let (pipe, _other) = io::pipe().expect("a pipe");
        assert_eq!(writers(&std::os::fd::OwnedFd::from(pipe).into()), Writers::Unknown);
        let written = |ago: i64| {
            let second = Duration::from_secs(ago.unsigned_abs());
            let now = SystemTime::now();
            let modified = Some(if ago < 0 { now + second } else { now - second });
            Fingerprint { modified, ..fingerprint(1) }
        };
        assert!(!written(1).is_at_rest(UNASKED));
        assert!(written(3).is_at_rest(UNASKED));
        assert!(written(-100).is_at_rest(UNASKED));
    }

    #[test]
    fn what_toml_has_and_json_has_not_is_refused_by_name() {
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
    async fn what_a_file_will_be_is_foreseen_once() {
        let mut settling = Settling::default();
        let foreseen = [("a.wasm".to_owned(), fingerprint(1))];
        settling.observe(&files(&[("a.wasm", 1)]), QUIET);
        assert_eq!(settling.foresee(QUIET / 3), []);
        tokio::time::advance(QUIET / 3).await;
        settling.observe(&files(&[("a.wasm", 1)]), QUIET);
        assert_eq!(settling.foresee(QUIET / 3), foreseen);
        assert_eq!(settling.foresee(QUIET / 3), []);
        // It changes: what was foreseen is not what it will be.
        settling.observe(&files(&[("a.wasm", 2)]), QUIET);
        assert_eq!(settling.foresee(QUIET / 3), []);
        tokio::time::advance(QUIET / 3).await;
        settling.observe(&files(&[("a.wasm", 2)]), QUIET);
        assert_eq!(settling.foresee(QUIET / 3), [("a.wasm".to_owned(), fingerprint(2))]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_gone_for_a_moment_is_not_gone() {
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
    async fn a_file_that_could_not_be_read_is_returned_again_and_its_end_is_seen() {
        let mut settling = Settling::default();
        let present = files(&[("a.wasm", 1)]);
        let rest = [("a.wasm".to_owned(), Some(fingerprint(1)))];
        settling.observe(&present, QUIET);
        tokio::time::advance(QUIET).await;
        assert_eq!(settling.observe(&present, QUIET), rest);
        settling.retry("a.wasm", QUIET * 9);
        assert!(!settling.is_pending(Duration::ZERO));
        assert_eq!(settling.observe(&present, QUIET), []);
        tokio::time::advance(QUIET * 9).await;
        assert!(settling.is_pending(Duration::ZERO));
        assert_eq!(settling.observe(&present, QUIET), rest);
        settling.retry("a.wasm", QUIET * 9);
        settling.observe(&files(&[]), QUIET);
        tokio::time::advance(QUIET).await;
        assert_eq!(settling.observe(&files(&[]), QUIET), [("a.wasm".to_owned(), None)]);
    }
}
