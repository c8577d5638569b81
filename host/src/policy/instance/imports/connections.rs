//! The interface `connections`: control of connections.

use super::state::HostState;
use crate::policy::instance::bindings::hotpick::policy::connections;

impl HostState {
    fn request(&mut self, id: u32, connect: bool) {
        // Ignoring unknown subconns bounds the map.
        if self.acknowledged.find(id).is_some() {
            self.effects.subconns.insert(id, connect);
        }
    }
}

impl connections::Host for HostState {
    fn declare_lazy(&mut self) {
        self.lazy |= self.in_init;
    }

    fn connect(&mut self, id: u32) {
        self.request(id, true);
    }

    fn disconnect(&mut self, id: u32) {
        self.request(id, false);
    }

    fn resolve_now(&mut self) {
        self.effects.resolve_now = true;
    }
}
