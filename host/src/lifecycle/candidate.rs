//! Where a channel's policies come from.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use futures_core::Stream;

use super::policy::Policy;

/// A change of what a source has under one name.
#[derive(Clone, Debug)]
pub(crate) enum Candidate {
    /// Use this policy from now on.
    Use(Arc<dyn Policy>),
    /// The source has nothing that can be used now. A policy that it gave before stays.
    Unavailable,
    /// The source has no policy of this name.
    Unknown,
    /// The policy must not be used any more.
    Disabled,
}

/// Changes of one policy; of several in a row only the last may be seen.
pub(crate) type Candidates = Pin<Box<dyn Stream<Item = Candidate> + Send>>;

/// A source of policies by name, such as a directory.
pub(crate) trait PolicySource: fmt::Debug + Send + Sync {
    /// Follows one policy for as long as the stream lives.
    fn candidates(&self, name: &str) -> Candidates;
}
