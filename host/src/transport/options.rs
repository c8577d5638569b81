//! How subconns connect.

use std::time::Duration;

use crate::backoff::Backoff;

/// Connection options: timeouts, number of connections, backoff, keep-alive.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SubConnOptions {
    /// The longest that an attempt to connect may take, up to the peer's SETTINGS.
    pub connect_timeout: Duration,
    /// For an endpoint with several addresses: how long one address is tried before the next is tried as
    /// well (gRFC A61). When one fails the next is tried at once.
    pub attempt_delay: Duration,
    /// Number of connections to keep to each endpoint; at least 1. Each RPC uses the one with the fewest
    /// RPCs in flight.
    pub connections: usize,
    /// Largest number of connections to an endpoint whose connections have as many streams as the
    /// peer allows (SETTINGS_MAX_CONCURRENT_STREAMS). When it is reached, RPCs wait for a stream to
    /// end. By default 1, as in gRPC: a peer may have set the limit to protect itself.
    pub max_connections: usize,
    /// How long to wait between attempts.
    pub backoff: Backoff,
    /// Give up a connection when the peer's TCP has acknowledged nothing for this long: neither data
    /// nor, on a connection without any, the kernel's probes. On Linux; elsewhere the probes alone.
    pub dead_after: Duration,
    /// Send an HTTP/2 PING when nothing was read for this long while RPCs are in flight. Off by default:
    /// unless configured otherwise, gRPC servers end connections that ping more often than every 5 minutes.
    /// For peers behind a proxy, which acknowledges TCP in their stead.
    pub keep_alive_interval: Option<Duration>,
    /// Give up a connection when a PING is not answered within this time.
    pub keep_alive_timeout: Duration,
}

impl Default for SubConnOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(20),
            attempt_delay: Duration::from_millis(250),
            connections: 1,
            max_connections: 1,
            backoff: Backoff::default(),
            dead_after: Duration::from_secs(20),
            keep_alive_interval: None,
            keep_alive_timeout: Duration::from_secs(10),
        }
    }
}
