//! A directory of compiled policies: machine code in files that only our own user may write, sealed by their digest.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use wasmtime::component::Component;

use super::digest::digest;
use super::error::one_line;
use crate::files;

/// A cache directory, and its files in use.
#[derive(Debug)]
pub(crate) struct Cache {
    directory: PathBuf,
    /// Maximum size (bytes).
    most: u64,
    in_use: Mutex<InUse>,
    /// Whether it has been logged that the directory cannot be used.
    has_warned: AtomicBool,
}

/// Files of the cache in use, each with the token that its users hold.
type InUse = BTreeMap<PathBuf, Weak<Keep>>;

/// A token that keeps a compiled component's file in the cache while it is held.
#[derive(Debug)]
pub(crate) struct Keep;

/// Default maximum size (bytes): see [`CompileOptions::cache_bytes`].
const CACHED: u64 = 512 << 20;
/// Maximum size of a compiled policy (bytes).
const LARGEST: usize = 1 << 30;
/// Age at which an incomplete file is considered abandoned.
const ABANDONED: Duration = Duration::from_secs(3600);

impl Cache {
    /// Returns a cache in this directory. Whatever prevents the use of the directory may be removed later.
    pub(crate) fn new(directory: &Path, most: Option<u64>) -> Self {
        let cache = Self {
            directory: directory.to_owned(),
            most: most.unwrap_or(CACHED),
            in_use: Mutex::default(),
            has_warned: AtomicBool::new(false),
        };
        cache.is_ready();
        cache
    }

    /// Prepares the directory, and returns whether it can be used. Called at each access: the directory may be
    /// removed, and another user's directory may take its place.
    fn is_ready(&self) -> bool {
        let prepared = prepare(&self.directory);
        if let Err(error) = &prepared
            && !self.has_warned.swap(true, Ordering::Relaxed)
        {
            let directory = self.directory.display();
            tracing::warn!(%directory, %error, "cannot use the cache of compiled policies");
        }
        prepared.is_ok()
    }

    /// Returns the path in the cache of the component that is compiled from the file with this digest.
    #[cfg(feature = "compile")]
    pub(crate) fn file(&self, digest: &str, engine: &wasmtime::Engine) -> PathBuf {
        self.directory.join(file_name(digest, engine))
    }

    /// Returns the path in the cache of the component that is compiled from the file with this digest. Without a
    /// compiler its options are unknown: any component of that digest that fits the engine is used.
    #[cfg(not(feature = "compile"))]
    pub(crate) fn file(&self, digest: &str, engine: &wasmtime::Engine) -> PathBuf {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let is_of = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.starts_with(digest) && name.ends_with(".cwasm")
        };
        let mut files = entries.map(|entry| entry.path()).filter(is_of);
        let fitting = files.find(|path| self.find(engine, path).is_some());
        fitting.unwrap_or_else(|| self.directory.join(format!("{digest}-child.cwasm")))
    }

    /// Returns a compiled component from the cache. A file that is incomplete, or made for another engine, is treated
    /// as absent.
    pub(crate) fn find(&self, engine: &wasmtime::Engine, file: &Path) -> Option<Component> {
        if !self.is_ready() {
            return None;
        }
        // The path may name anything, even a FIFO.
        let bytes = files::read_now(file, LARGEST).ok()?;
        let (seal, code) = bytes.split_at_checked(64)?;
        if digest(code).as_bytes() != seal {
            let _ = fs::remove_file(file);
            return None;
        }
        let component = deserialize(engine, code).ok()?;
        // Marks the file as recently used, so that it is pruned last.
        let _ = fs::File::options().append(true).open(file).and_then(|file| file.set_modified(now()));
        Some(component)
    }

    /// Marks a file of the cache as in use while the returned token is held.
    pub(crate) fn keep(&self, file: &Path) -> Arc<Keep> {
        let mut in_use = self.in_use();
        if let Some(keep) = in_use.get(file).and_then(Weak::upgrade) {
            return keep;
        }
        let keep = Arc::new(Keep);
        in_use.retain(|_, keep| keep.strong_count() > 0);
        in_use.insert(file.to_owned(), Arc::downgrade(&keep));
        keep
    }

    /// Stores a compiled component, completely or not at all.
    pub(crate) fn store(&self, component: &Component, file: &Path) -> Result<(), String> {
        if !self.is_ready() {
            // Logged by `is_ready`.
            return Ok(());
        }
        let code = component.serialize().map_err(|error| one_line(&error))?;
        let part = file.with_extension(format!("{}.part", std::process::id()));
        let write = || {
            let mut out = fs::File::create(&part)?;
            out.write_all(digest(&code).as_bytes())?;
            out.write_all(&code)?;
            fs::rename(&part, file)
        };
        let written = write().or_else(|error| {
            // Someone has removed the directory, to empty the cache.
            if error.kind() != ErrorKind::NotFound {
                return Err(error);
            }
            prepare(&self.directory)?;
            write()
        });
        if written.is_err() {
            let _ = fs::remove_file(&part);
        }
        self.prune();
        written.map_err(|error| error.to_string())
    }

    /// Removes abandoned files, and the least recently used files until the rest fits.
    fn prune(&self) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        let mut files = Vec::new();
        for entry in entries.flatten() {
            let (path, Ok(metadata)) = (entry.path(), entry.metadata()) else { continue };
            let Ok(modified) = metadata.modified() else { continue };
            let kind = path.extension().and_then(|extension| extension.to_str());
            match kind {
                Some("cwasm") => files.push((modified, metadata.len(), path)),
                Some("part") if modified.elapsed().is_ok_and(|age| age > ABANDONED) => {
                    let _ = fs::remove_file(path);
                }
                _ => {}
            }
        }
        files.sort();
        let most = self.most;
        let mut size: u64 = files.iter().map(|(_, size, _)| size).sum();
        let in_use = self.in_use();
        for (_, bytes, file) in files {
            if size <= most {
                break;
            }
            if in_use.get(&file).is_none_or(|keep| keep.strong_count() == 0) && fs::remove_file(&file).is_ok()
            {
                size -= bytes;
            }
        }
    }

    fn in_use(&self) -> MutexGuard<'_, InUse> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Deserializes machine code. The caller has ensured that the bytes come from our own child process or directory.
#[allow(unsafe_code, reason = "machine code from ourselves")]
pub(crate) fn deserialize(engine: &wasmtime::Engine, bytes: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the bytes were made by `precompile` or `serialize` of this program, in a process or a file of the same
    // user; wasmtime checks that they are for this engine.
    unsafe { Component::deserialize(engine, bytes) }
}

/// Returns a file name made of the policy's digest, and a hash of the compiler, its options and the machine.
#[cfg(feature = "compile")]
fn file_name(digest: &str, engine: &wasmtime::Engine) -> String {
    use std::hash::{Hash as _, Hasher as _};
    let mut hasher = twox_hash::XxHash64::with_seed(0);
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{digest}-{:016x}.cwasm", hasher.finish())
}

fn now() -> std::time::SystemTime {
    std::time::SystemTime::now()
}

/// Creates the cache directory, for its owner alone, and rejects one that others may write to.
#[cfg(unix)]
fn prepare(directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let metadata = fs::symlink_metadata(directory)?;
    let ours = metadata.uid() == rustix::process::geteuid().as_raw();
    if metadata.is_dir() && ours && metadata.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(std::io::Error::other(
        "it must be a directory that belongs to this user and that no other user may write to",
    ))
}

#[cfg(not(unix))]
fn prepare(directory: &Path) -> std::io::Result<()> {
    fs::create_dir_all(directory)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    #[cfg(feature = "compile")]
    use super::super::engine::engine;
    use super::*;

    fn cache(most: u64) -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::new(&folder.path().join("cache"), Some(most));
        (folder, cache)
    }

    /// Creates a file of 100 bytes, last used this number of minutes ago.
    fn put(cache: &Cache, name: &str, minutes: u64) -> PathBuf {
        let file = cache.directory.join(name);
        fs::write(&file, [0; 100]).expect("written");
        let at = SystemTime::now() - Duration::from_secs(60 * minutes);
        fs::File::options().append(true).open(&file).and_then(|file| file.set_modified(at)).expect("set");
        file
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first_and_what_is_in_use_stays() {
        let (_folder, cache) = cache(250);
        let files = [9, 8, 7, 6].map(|minutes| put(&cache, &format!("{minutes}.cwasm"), minutes));
        let in_use = cache.keep(&files[0]);
        cache.prune();
        assert_eq!(files.each_ref().map(|file| file.exists()), [true, false, false, true]);
        drop(in_use);
        put(&cache, "new.cwasm", 0);
        cache.prune();
        assert_eq!((files[0].exists(), files[3].exists()), (false, true));
    }

    #[test]
    fn what_was_never_finished_is_removed_and_what_is_being_written_is_not() {
        let (_folder, cache) = cache(1000);
        let (old, new, other) =
            (put(&cache, "a.1.part", 120), put(&cache, "b.1.part", 1), put(&cache, "c", 120));
        cache.prune();
        assert_eq!([old.exists(), new.exists(), other.exists()], [false, true, true]);
    }

    #[cfg(all(unix, feature = "compile"))]
    #[test]
    fn a_directory_that_was_removed_is_made_again_and_a_fifo_in_it_holds_nobody_up() {
        let (_folder, cache) = cache(1 << 20);
        let engine = engine().expect("an engine");
        let component =
            Component::new(engine, wat::parse_str("(component)").expect("WAT")).expect("a component");
        fs::remove_dir_all(&cache.directory).expect("removed");
        let file = cache.file("0123", engine);
        cache.store(&component, &file).expect("kept");
        assert!(cache.find(engine, &file).is_some());
        fs::remove_file(&file).expect("removed");
        let status = std::process::Command::new("mkfifo").arg(&file).status().expect("mkfifo runs");
        assert!(status.success() && cache.find(engine, &file).is_none());
    }

    #[cfg(feature = "compile")]
    #[test]
    fn what_is_in_the_way_at_first_may_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("cache");
        fs::write(&path, "in the way").expect("written");
        let cache = Cache::new(&path, None);
        let engine = engine().expect("an engine");
        let component =
            Component::new(engine, wat::parse_str("(component)").expect("WAT")).expect("a component");
        let file = cache.file("0123", engine);
        assert!(cache.find(engine, &file).is_none());
        fs::remove_file(&path).expect("removed");
        cache.store(&component, &file).expect("kept");
        assert!(cache.find(engine, &file).is_some());
    }
}
