//! Policy directories, and the policies of this repository.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hotpick::PolicyDir;
use hotpick::directory::{PolicyDirOptions, PolicyStatus};
use http::{HeaderMap, HeaderValue};

/// A temporary policy directory that is being followed.
#[derive(Debug)]
pub struct Policies {
    directory: tempfile::TempDir,
    /// The directory, to be passed to a channel.
    pub followed: PolicyDir,
}

impl Policies {
    /// Follows a new directory with these files in it.
    ///
    /// # Panics
    ///
    /// Panics if the directory cannot be written.
    #[must_use]
    pub fn with(files: &[(&str, &[u8])]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, bytes) in files {
            std::fs::write(directory.path().join(name), bytes).expect("written");
        }
        let followed = PolicyDir::open_with(directory.path(), quick()).expect("a directory");
        Self { directory, followed }
    }

    /// Follows a new directory, with a compilation cache that later runs reuse.
    ///
    /// # Panics
    ///
    /// Panics if the directory cannot be written.
    #[must_use]
    pub fn cached() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut options = quick();
        options.compile = crate::languages::cached().compile;
        let followed = PolicyDir::open_with(directory.path(), options).expect("a directory");
        Self { directory, followed }
    }

    /// Follows a directory by scanning it every 200 ms, for changes that cause no events.
    ///
    /// # Panics
    ///
    /// Panics if `path` exists and is not a directory.
    #[must_use]
    pub fn scan(path: &Path) -> PolicyDir {
        let mut options = quick();
        options.scan = Duration::from_millis(200);
        PolicyDir::open_with(path, options).expect("a directory")
    }

    /// Follows a directory, which need not exist yet, with a quiet time of 20 ms and without frequent scans.
    ///
    /// # Panics
    ///
    /// Panics if `path` exists and is not a directory.
    #[must_use]
    pub fn follow(path: &Path) -> PolicyDir {
        PolicyDir::open_with(path, quick()).expect("a directory")
    }

    /// Path of the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a file in place, as `cp` does, replacing its contents.
    ///
    /// # Panics
    ///
    /// Panics if the file cannot be written.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path().join(name), bytes).expect("written");
    }

    /// Waits until the status of a policy meets the condition, and returns the status.
    pub async fn wait_for(&self, name: &str, condition: impl Fn(&PolicyStatus) -> bool) -> PolicyStatus {
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        let found = async {
            loop {
                ticks.tick().await;
                let status = self.followed.status().into_iter().find(|policy| policy.name == name);
                if let Some(status) = status.filter(&condition) {
                    return status;
                }
            }
        };
        crate::soon(&format!("the expected status of the policy {name}"), found).await
    }
}

/// Options with a short quiet time, for tests that wait for changes.
fn quick() -> PolicyDirOptions {
    let mut options = PolicyDirOptions::default();
    options.quiet = Duration::from_millis(20);
    // Tests rely on file system events; a scan must not hide a missing one.
    options.scan = Duration::from_secs(3600);
    options
}

/// Reads the policy of `tests/probe`, which uses every part of the contract.
///
/// # Panics
///
/// Panics if the file cannot be read.
#[must_use]
pub fn probe() -> Vec<u8> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("probe/dist/probe.wasm");
    std::fs::read(&file).unwrap_or_else(|error| panic!("{file:?}: {error}"))
}

/// Reads a standard policy: from the directory `HOTPICK_POLICIES` if it is set, otherwise as shipped.
///
/// # Panics
///
/// Panics if the policy does not exist.
#[must_use]
pub fn standard(name: &str) -> Vec<u8> {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/dist");
    let directory = std::env::var_os("HOTPICK_POLICIES").map_or(shipped, PathBuf::from);
    let file = directory.join(format!("{name}.wasm"));
    std::fs::read(&file).unwrap_or_else(|error| panic!("{file:?}: {error}"))
}

/// The standard policies, in the order of their documentation.
pub const STANDARD: [&str; 16] = [
    "round_robin",
    "random",
    "weighted_round_robin",
    "least_request",
    "p2c_ewma",
    "pick_first",
    "ring_hash",
    "maglev",
    "bounded_hash",
    "sticky",
    "color",
    "canary",
    "zone",
    "priority",
    "outlier",
    "subset",
];

/// Returns the metadata that the standard policies read: a hash key, a session and a colour.
#[must_use]
pub fn metadata(key: u32) -> HeaderMap {
    let mut metadata = HeaderMap::new();
    let value = HeaderValue::from_str(&format!("key-{key}")).expect("a value");
    metadata.insert("hash-key", value.clone());
    metadata.insert("session-id", value);
    metadata.insert("color", HeaderValue::from_static(if key.is_multiple_of(2) { "red" } else { "blue" }));
    metadata
}
