//! Control of connections. By default the host connects every subconn, and keeps it connected.

use crate::SubConn;
#[cfg(target_arch = "wasm32")]
use crate::bindings::hotpick::policy::connections as host;
#[cfg(not(target_arch = "wasm32"))]
use crate::fake as host;

/// Makes the host connect a subconn only on request, by [`connect`] or by picking it. The policy is then called for
/// RPCs even while no subconn is ready. Only in [`Policy::init`](crate::Policy::init).
pub fn declare_lazy() {
    host::declare_lazy();
}

/// Requests that an idle subconn connect. Carried out after the current call has returned.
pub fn connect(id: SubConn) {
    host::connect(id);
}

/// Requests that a subconn disconnect. RPCs in flight finish first.
pub fn disconnect(id: SubConn) {
    host::disconnect(id);
}

/// Requests a new resolution of the channel's target.
pub fn resolve_now() {
    host::resolve_now();
}
