//! Sources of a channel's policies.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use futures_core::Stream;

use super::policy::Policy;

/// A change of one name in a source.
#[derive(Clone, Debug)]
pub(crate) enum Candidate {
    /// Use this policy from now on.
    Use(Arc<dyn Policy>),
    /// The source has nothing that can be used now. The active policy stays.
    Unavailable,
    /// The source has no policy of this name.
    Unknown,
    /// The policy must not be used any more.
    Disabled,
}

/// A stream of changes of one policy. Only the last of several changes in quick succession may be reported.
pub(crate) type Candidates = Pin<Box<dyn Stream<Item = Candidate> + Send>>;

/// A source of policies by name, such as a directory.
pub(crate) trait PolicySource: fmt::Debug + Send + Sync {
    /// Follows one policy as long as the stream lives.
    fn candidates(&self, name: &str) -> Candidates;
}
