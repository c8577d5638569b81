//! The interface `connections`: control of connections.

use std::collections::BTreeMap;

use super::State;
use crate::policy::bindings::hotpick::policy::connections;

/// What a policy wants done to connections. It is done when the call has returned: so that a policy that
/// asks again and again asks once.
#[derive(Debug, Default)]
pub(in crate::policy) struct Wishes {
    /// True to connect, false to disconnect.
    pub(in crate::policy) subconns: BTreeMap<u32, bool>,
    pub(in crate::policy) resolve_now: bool,
}

impl Wishes {
    pub(in crate::policy) fn is_empty(&self) -> bool {
        self.subconns.is_empty() && !self.resolve_now
    }
}

impl State {
    fn wish(&mut self, id: u32, connect: bool) {
        // Of subconns that there are, there are so many.
        if self.told.find(id).is_some() {
            self.wishes.subconns.insert(id, connect);
        }
    }
}

impl connections::Host for State {
    fn declare_lazy(&mut self) {
        self.lazy |= self.in_init;
    }

    fn connect(&mut self, id: u32) {
        self.wish(id, true);
    }

    fn disconnect(&mut self, id: u32) {
        self.wish(id, false);
    }

    fn resolve_now(&mut self) {
        self.wishes.resolve_now = true;
    }
}
