//! Events of a directory, as hints to scan it.

use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

/// Watches a directory, and its parent in case the directory itself is created, removed or replaced.
pub(super) struct Watcher {
    directory: PathBuf,
    dirty: SyncSender<()>,
    /// `None` while the system has no watches left.
    inner: Option<RecommendedWatcher>,
    /// Identity of the watched directory. `None`: the directory is not watched.
    watched: Option<Identity>,
    /// Whether there are no events, and this has been logged.
    has_warned: bool,
    /// Time before which watching is not tried again.
    again: Instant,
}

/// Delay until watching is tried again, after the system had no watches left.
const AGAIN: Duration = Duration::from_secs(4);

impl Watcher {
    /// Starts to watch a directory. Sends to `dirty` when something may have changed, unless the channel is full.
    pub(super) fn new(directory: &Path, dirty: SyncSender<()>) -> Self {
        let (directory, again) = (directory.to_owned(), Instant::now());
        let mut watcher = Self { directory, dirty, inner: None, watched: None, has_warned: false, again };
        watcher.arm();
        watcher
    }

    /// Watches the directory if it has been created or replaced.
    pub(super) fn arm(&mut self) {
        let identity = identity(&self.directory);
        let is_watched = self.inner.is_some() && identity == self.watched;
        if is_watched || (self.has_warned && Instant::now() < self.again) {
            return;
        }
        match self.watch(identity) {
            Ok(()) if std::mem::take(&mut self.has_warned) => {
                let directory = self.directory.display();
                tracing::info!(%directory, "receiving events for policies again");
            }
            Ok(()) => {}
            Err(error) => {
                self.again = Instant::now() + AGAIN;
                if !std::mem::replace(&mut self.has_warned, true) {
                    let directory = self.directory.display();
                    tracing::warn!(%directory, %error, "no events for policies: the directory is scanned instead");
                }
            }
        }
    }

    fn watch(&mut self, identity: Option<Identity>) -> notify::Result<()> {
        let inner = match &mut self.inner {
            Some(inner) => inner,
            none => {
                let mut inner = notify::recommended_watcher(handler(&self.directory, self.dirty.clone()))?;
                if let Some(parent) = self.directory.parent() {
                    // If this fails, a replaced directory is found by the next scan.
                    let _ = inner.watch(parent, RecursiveMode::NonRecursive);
                }
                none.insert(inner)
            }
        };
        if self.watched.take().is_some() {
            let _ = inner.unwatch(&self.directory);
        }
        if identity.is_some() {
            inner.watch(&self.directory, RecursiveMode::NonRecursive)?;
        }
        self.watched = identity;
        Ok(())
    }
}

/// Returns the handler of events. `notify` calls it on its own thread, so it must not block.
fn handler(
    directory: &Path,
    dirty: SyncSender<()>,
) -> impl Fn(notify::Result<notify::Event>) + Send + 'static {
    let within = directory.to_owned();
    move |event| {
        let relevant = match event {
            Ok(event) => {
                let reading = matches!(
                    event.kind,
                    EventKind::Access(
                        AccessKind::Open(_) | AccessKind::Read | AccessKind::Close(AccessMode::Read)
                    )
                );
                // Other children of the parent are ignored. Within the directory no name is filtered: when Kubernetes
                // swaps `..data`, the events name no policy.
                let ours = event.need_rescan()
                    || event.paths.is_empty()
                    || event.paths.iter().any(|path| path.starts_with(&within));
                ours && !reading
            }
            Err(_) => true,
        };
        if relevant {
            let _ = dirty.try_send(());
        }
    }
}

/// Returns whether the directory is on a network file system: writes of other machines cause no events here.
#[cfg(target_os = "linux")]
pub(super) fn is_on_a_network(directory: &Path) -> bool {
    rustix::fs::statfs(directory).is_ok_and(|status| is_network(status.f_type))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn is_on_a_network(_directory: &Path) -> bool {
    false
}

/// Compares with the magic numbers of `statfs(2)`: NFS, SMB, CIFS, SMB2, 9P, FUSE, AFS, Ceph, OCFS2, Lustre, GPFS.
#[cfg(target_os = "linux")]
const fn is_network(magic: i64) -> bool {
    matches!(
        magic,
        0x6969
            | 0x517b
            | 0xff53_4d42
            | 0xfe53_4d42
            | 0x0102_1997
            | 0x6573_5546
            | 0x5346_414f
            | 0x00c3_6400
            | 0x7461_636f
            | 0x0bd0_0bd0
            | 0x4750_4653
    )
}

/// Identity of a directory: device, inode and creation time. A new directory may reuse the inode of a removed one.
type Identity = (u64, u64, Option<std::time::SystemTime>);

#[cfg(unix)]
fn identity(directory: &Path) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(directory).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.created().ok()))
}

#[cfg(not(unix))]
fn identity(directory: &Path) -> Option<Identity> {
    let metadata = std::fs::metadata(directory).ok()?;
    metadata.is_dir().then(|| (0, 0, metadata.created().ok()))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_known() {
        for network in [0x6969, 0xff53_4d42, 0x6573_5546] {
            assert!(is_network(network));
        }
        // ext4, tmpfs, overlayfs.
        for local in [0xef53, 0x0102_1994, 0x794c_7630] {
            assert!(!is_network(local));
        }
        assert!(!is_on_a_network(Path::new("/proc")));
    }
}
