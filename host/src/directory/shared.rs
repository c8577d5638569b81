//! State that the handles of a directory share with its thread.

use std::path::PathBuf;
use std::sync::mpsc::SyncSender;

use tokio::sync::watch;

use super::entry::DirectoryState;
use super::queue::Wanted;

/// State shared by the handles of a directory, which keep it alive, and its thread, which does not.
pub(super) struct Shared {
    pub(super) path: PathBuf,
    pub(super) snapshot: watch::Sender<DirectoryState>,
    pub(super) dirty: SyncSender<()>,
    pub(super) wanted: Wanted,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Wakes the thread, which finds that no handle is left.
        let _ = self.dirty.try_send(());
    }
}
