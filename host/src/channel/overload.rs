//! Limits that protect servers and this process from too many RPCs.

use std::time::Duration;

use crate::setters::setters;
use crate::waiting::WaitLimits;

/// Limits of a channel's RPCs. An RPC beyond a limit fails with UNAVAILABLE at once, and is not retried, whatever its
/// retry policy says (as in gRFC A32). `None`, the default of each: no limit.
///
/// ```no_run
/// use std::time::Duration;
/// use hotpick::Channel;
/// use hotpick::channel::OverloadOptions;
///
/// # fn example() -> Result<(), hotpick::channel::ConnectError> {
/// let channel = Channel::builder("dns:///shop.example:443")
///     .overload(
///         OverloadOptions::default()
///             .with_max_requests_per_endpoint(Some(100))
///             .with_max_waiting(Some(1_000))
///             .with_max_wait(Some(Duration::from_secs(2))),
///     )
///     .connect_lazy()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OverloadOptions {
    /// RPCs of the channel in flight, streams included (gRFC A32, `max_requests`).
    pub max_requests: Option<usize>,
    /// RPCs in flight to one endpoint. The policy is not asked again: one that knows the load of the endpoints picks another
    /// one in the first place.
    pub max_requests_per_endpoint: Option<u32>,
    /// RPCs of the channel that wait before they are sent: for the target to be resolved, for a connection, for a policy that
    /// queues them, or for a stream.
    pub max_waiting: Option<usize>,
    /// Time for which one RPC may wait before it is sent, wait-for-ready RPCs included.
    pub max_wait: Option<Duration>,
}

setters!(OverloadOptions {
    with_max_requests: max_requests: Option<usize>,
    with_max_requests_per_endpoint: max_requests_per_endpoint: Option<u32>,
    with_max_waiting: max_waiting: Option<usize>,
    with_max_wait: max_wait: Option<Duration>,
});

impl OverloadOptions {
    pub(super) fn wait_limits(&self) -> Option<WaitLimits> {
        let is_limited = self.max_waiting.is_some() || self.max_wait.is_some();
        is_limited.then(|| WaitLimits::new(self.max_waiting.unwrap_or(usize::MAX), self.max_wait))
    }
}
