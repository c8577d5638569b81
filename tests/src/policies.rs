//! Directories of policies.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hotpick::PolicyDir;
use hotpick::directory::{PolicyDirOptions, PolicyStatus};
use http::{HeaderMap, HeaderValue};

/// A directory of its own, followed.
#[derive(Debug)]
pub struct Policies {
    directory: tempfile::TempDir,
    /// The directory as the channel is given it.
    pub followed: PolicyDir,
}

impl Policies {
    /// Follows a new directory with these files in it.
    ///
    /// # Panics
    ///
    /// It cannot be written to.
    #[must_use]
    pub fn with(files: &[(&str, &[u8])]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, bytes) in files {
            std::fs::write(directory.path().join(name), bytes).expect("written");
        }
        let followed = PolicyDir::open_with(directory.path(), quick()).expect("a directory");
        Self { directory, followed }
    }

    /// Follows a new directory, and compiles what comes there at most once in all runs.
    ///
    /// # Panics
    ///
    /// It cannot be written to.
    #[must_use]
    pub fn cached() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut options = quick();
        options.compile = crate::languages::cached().compile;
        let followed = PolicyDir::open_with(directory.path(), options).expect("a directory");
        Self { directory, followed }
    }

    /// Follows this directory by looking at it often: for changes that cause no events.
    ///
    /// # Panics
    ///
    /// It is something else.
    #[must_use]
    pub fn scan(path: &Path) -> PolicyDir {
        let mut options = quick();
        options.scan = Duration::from_millis(200);
        PolicyDir::open_with(path, options).expect("a directory")
    }

    /// Follows this directory, which may not be there yet, with options as they are by default but for the
    /// quiet time: 20 ms.
    ///
    /// # Panics
    ///
    /// It is something else.
    #[must_use]
    pub fn follow(path: &Path) -> PolicyDir {
        PolicyDir::open_with(path, quick()).expect("a directory")
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Copies a file in, over one that is there, as `cp` does.
    ///
    /// # Panics
    ///
    /// It cannot be written.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path().join(name), bytes).expect("written");
    }

    /// Waits until the directory's view of a policy is so, and gives it.
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
        crate::soon(&format!("the directory to see {name}"), found).await
    }
}

/// Options that find a change in a few milliseconds.
fn quick() -> PolicyDirOptions {
    let mut options = PolicyDirOptions::default();
    options.quiet = Duration::from_millis(20);
    // Events must do.
    options.scan = Duration::from_secs(3600);
    options
}

/// The policy of `tests/probe`, which uses every part of the contract.
///
/// # Panics
///
/// It is not there.
#[must_use]
pub fn probe() -> Vec<u8> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("probe/dist/probe.wasm");
    std::fs::read(&file).unwrap_or_else(|error| panic!("{file:?}: {error}"))
}

/// A standard policy as it is shipped, or from the directory that `HOTPICK_POLICIES` names.
///
/// # Panics
///
/// There is no such policy.
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

/// Metadata that the standard policies look at: a key, a session and a colour.
#[must_use]
pub fn metadata(key: u32) -> HeaderMap {
    let mut metadata = HeaderMap::new();
    let value = HeaderValue::from_str(&format!("key-{key}")).expect("a value");
    metadata.insert("hash-key", value.clone());
    metadata.insert("session-id", value);
    metadata.insert("color", HeaderValue::from_static(if key.is_multiple_of(2) { "red" } else { "blue" }));
    metadata
}
