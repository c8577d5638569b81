//! Requests of a policy that are carried out after the call.

use std::collections::BTreeMap;

/// What a policy has asked for. It is done when the call has returned, so that a policy that
/// asks many times in one call asks once.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// True to connect, false to disconnect.
    pub(crate) subconns: BTreeMap<u32, bool>,
    pub(crate) resolve_now: bool,
}

impl Effects {
    pub(crate) fn is_empty(&self) -> bool {
        self.subconns.is_empty() && !self.resolve_now
    }
}
