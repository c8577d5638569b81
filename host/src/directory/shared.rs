//! State that the handles of a directory share with its thread.

use std::path::PathBuf;
use std::sync::mpsc::SyncSender;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use super::entry::DirectoryState;
use super::queue::Wanted;
use super::rollout::Command;

/// State shared by the handles of a directory, which keep it alive, and its thread, which does not.
pub(super) struct Shared {
    pub(super) path: PathBuf,
    pub(super) snapshot: watch::Sender<DirectoryState>,
    pub(super) dirty: SyncSender<()>,
    pub(super) wanted: Wanted,
    /// Commands for the thread.
    pub(super) commands: Mutex<Vec<Command>>,
}

impl Shared {
    pub(super) fn take_commands(&self) -> Vec<Command> {
        std::mem::take(&mut *self.commands.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Wakes the thread, which finds that no handle is left.
        let _ = self.dirty.try_send(());
    }
}
