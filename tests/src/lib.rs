//! What the integration tests share: clusters of backends, directories of policies, policies in WAT, peers
//! that were not written here, and peers that misbehave.

pub mod bench;
mod cluster;
pub mod corpus;
pub mod fronts;
pub mod hostile;
pub mod languages;
pub mod museum;
mod native;
pub mod peers;
mod policies;
pub mod raw;
pub mod scripted;
pub mod stress;
pub mod table;
pub mod wat;

pub use self::cluster::{Caller, Cluster, Load, Tally};
pub use self::native::{Ledger, Native};
pub use self::policies::{Policies, STANDARD, metadata, probe, standard};

use std::time::Duration;

/// Waits for something that has to come soon, and says what did not.
///
/// # Panics
///
/// It did not come.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(Duration::from_secs(30), future).await {
        Ok(output) => output,
        Err(_) => panic!("waited 30 s for this: {what}"),
    }
}

/// What a process, `self` for this one, has in memory, in KiB.
///
/// # Panics
///
/// This is not Linux.
#[must_use]
pub fn resident(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

/// The programs of the documentation compile.
#[cfg(doctest)]
mod pages {
    macro_rules! pages {
        ($($name:ident: $file:literal),* $(,)?) => {
            $(#[doc = include_str!(concat!("../../", $file))] mod $name {})*
        };
    }
    pages! {
        readme: "README.md",
        docs_getting_started: "docs/getting-started.md",
        docs_writing_a_policy: "docs/writing-a-policy.md",
        docs_channel: "docs/channel.md",
        docs_operating: "docs/operating.md",
        docs_proxy: "docs/proxy.md",
        docs_comparison: "docs/comparison.md",
        docs_languages: "docs/languages.md",
        docs_limits: "docs/limits.md",
        docs_performance: "docs/performance.md",
        docs_policies: "docs/policies.md",
        security: "SECURITY.md",
        contributing: "CONTRIBUTING.md",
        architecture: "ARCHITECTURE.md",
        host_readme: "host/README.md",
        guest_sdk_readme: "guest-sdk/README.md",
    }
}
