//! How subconns connect.

use std::net::IpAddr;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::http2::{ClientLimits, HEADER_LISTS, WINDOWS};
use crate::setters::setters;

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
    /// Bytes that the server may send ahead of what the caller reads, for each RPC (HTTP/2's stream window). 1 MiB by
    /// default; from 64 KiB - 1, HTTP/2's own default, to 2 GiB - 1.
    pub stream_window: u32,
    /// Bytes that the server may send ahead on a connection, for all of its RPCs. The largest possible by default, so that an
    /// RPC whose caller does not read does not stop the others. From 64 KiB - 1 to 2 GiB - 1.
    pub connection_window: u32,
    /// The largest headers, or trailers, of a response, in bytes as HTTP/2 counts them (32 more for each entry). An RPC
    /// beyond it fails. 1 MiB by default; from 8 KiB to 16 MiB.
    pub max_header_list: u32,
    /// Local address to connect from. `None`: the system chooses.
    pub local_address: Option<IpAddr>,
}

setters!(SubConnOptions {
    with_connect_timeout: connect_timeout: Duration,
    with_attempt_delay: attempt_delay: Duration,
    with_connections: connections: usize,
    with_max_connections: max_connections: usize,
    with_backoff: backoff: Backoff,
    with_dead_after: dead_after: Duration,
    with_keep_alive_interval: keep_alive_interval: Option<Duration>,
    with_keep_alive_timeout: keep_alive_timeout: Duration,
    with_stream_window: stream_window: u32,
    with_connection_window: connection_window: u32,
    with_max_header_list: max_header_list: u32,
    with_local_address: local_address: Option<IpAddr>,
});

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
            stream_window: ClientLimits::default().stream_window,
            connection_window: ClientLimits::default().connection_window,
            max_header_list: ClientLimits::default().max_header_list,
            local_address: None,
        }
    }
}

impl SubConnOptions {
    /// Returns the name, the value and the range of an option that is out of its range.
    pub(crate) fn check(&self) -> Result<(), (&'static str, u32, u32, u32)> {
        let options = [
            ("stream_window", self.stream_window, WINDOWS),
            ("connection_window", self.connection_window, WINDOWS),
            ("max_header_list", self.max_header_list, HEADER_LISTS),
        ];
        let bad = options.into_iter().find(|(_, value, range)| !range.contains(value));
        bad.map_or(Ok(()), |(name, value, range)| Err((name, value, *range.start(), *range.end())))
    }

    /// Returns the limits of HTTP/2.
    pub(super) fn http2(&self) -> ClientLimits {
        ClientLimits {
            stream_window: self.stream_window,
            connection_window: self.connection_window,
            max_header_list: self.max_header_list,
        }
    }
}
