//! What the integration tests share: clusters of backends, directories of policies, policies in WAT, peers
//! that were not written here, and peers that misbehave.

mod cluster;
pub mod fronts;
mod native;
pub mod peers;
mod policies;
pub mod raw;
pub mod wat;

pub use self::cluster::{Caller, Cluster, Load, Tally};
pub use self::native::{Ledger, Native};
pub use self::policies::{Policies, standard};

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

/// The README's programs compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
