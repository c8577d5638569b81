//! The RPC that an instance picks for.

use http::{HeaderName, HeaderValue};
use tokio::time::Instant;

/// The parts that an instance keeps of the RPC being picked. Empty between picks.
#[derive(Default)]
pub(crate) struct CurrentCall {
    pub(crate) active: bool,
    /// Index of the key and value, for each value of a declared key. The values are shared with the request.
    pub(super) metadata: Vec<(usize, HeaderValue)>,
    pub(super) tried: Vec<u32>,
    pub(super) deadline: Option<Instant>,
    pub(super) explanation: Option<String>,
    pub(super) added: Vec<(HeaderName, HeaderValue)>,
}

/// Explanation and metadata that a pick has set beside its result.
pub(crate) struct PickExtras {
    pub(crate) explanation: Option<String>,
    /// Metadata to add to the request.
    pub(crate) metadata: Vec<(HeaderName, HeaderValue)>,
}

impl CurrentCall {
    /// Returns the values of the declared keys, each with the index of its key.
    pub(crate) fn metadata(&self) -> impl Iterator<Item = (usize, &[u8])> {
        self.metadata.iter().map(|(key, value)| (*key, value.as_bytes()))
    }

    pub(super) fn values(&self, key: usize) -> impl Iterator<Item = &HeaderValue> {
        self.metadata.iter().filter(move |(index, _)| *index == key).map(|(_, value)| value)
    }

    pub(super) fn first(&self, key: usize) -> Option<&HeaderValue> {
        self.values(key).next()
    }
}
