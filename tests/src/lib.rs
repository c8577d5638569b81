//! What the integration tests share: clusters of backends, directories of policies, policies in WAT.

mod cluster;
mod policies;
pub mod wat;

pub use self::cluster::{Caller, Cluster, Load, Tally};
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
