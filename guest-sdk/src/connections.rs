//! Control of connections. By default the host connects every subconn, and keeps it connected.

use crate::SubConn;
#[cfg(target_arch = "wasm32")]
use crate::bindings::hotpick::policy::connections as host;
#[cfg(not(target_arch = "wasm32"))]
use crate::fake as host;

/// In [`Policy::init`](crate::Policy::init): nothing is to be connected until it is asked for, by
/// [`connect`] or by picking it. The policy is then asked for RPCs even while nothing is ready.
pub fn declare_lazy() {
    host::declare_lazy();
}

/// Connects a subconn that is idle, when the call that asks for it has returned.
pub fn connect(id: SubConn) {
    host::connect(id);
}

/// Gives up the connection of a subconn. RPCs under way finish first.
pub fn disconnect(id: SubConn) {
    host::disconnect(id);
}

/// Asks the resolver for a new answer.
pub fn resolve_now() {
    host::resolve_now();
}
