//! Requests of a policy that are carried out after the call.

use std::collections::BTreeMap;

/// Requests of a policy, carried out when the call has returned. Repeated requests in one call are carried out once.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// `true` to connect the subconn with this number, `false` to disconnect it.
    pub(crate) subconns: BTreeMap<u32, bool>,
    pub(crate) resolve_now: bool,
}

impl Effects {
    pub(crate) fn is_empty(&self) -> bool {
        self.subconns.is_empty() && !self.resolve_now
    }
}
