//! Support code of the integration tests and benchmarks: clusters of backends, policy directories, policies in WAT,
//! third-party peers, and peers that misbehave.

pub mod attempts;
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

/// Awaits `future` for at most 30 s. `what` names the awaited event in the panic message.
///
/// # Panics
///
/// Panics if `future` does not complete in time.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(Duration::from_secs(30), future).await {
        Ok(output) => output,
        Err(_) => panic!("timed out after 30 s: {what}"),
    }
}

/// Resident memory of a process, in KiB. `process` is a PID, or `self` for the current process.
///
/// # Panics
///
/// Panics on systems other than Linux.
#[must_use]
pub fn resident(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("/proc of Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

/// Compiles the code examples of the documentation.
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
