//! A directory as a channel's source of policies.

use tokio_stream::StreamExt as _;

use super::dir::PolicyDir;
use crate::lifecycle::{Candidate, Candidates, PolicySource};

impl PolicySource for PolicyDir {
    fn candidates(&self, name: &str) -> Candidates {
        Box::pin(self.watch(name).map(Candidate::from))
    }
}
