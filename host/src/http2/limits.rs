//! All HTTP/2 limits that we set, on both sides of a connection, and why. `docs/limits.md` has them in a table.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Number of frames that are read while our writes wait for a peer that does not read. At one more, the connection
/// ends. The count restarts when a write succeeds.
///
/// For each frame that h2 objects to, h2 queues an answer of about 500 bytes. Answers that the peer does not read would
/// accumulate. A client that writes all of its uploads before it reads has 16,000 frames in all of its windows. (To
/// stop reading would be wrong: two peers that stop reading wait for each other.)
pub(super) const FRAMES_WHILE_WRITES_WAIT: u64 = 100_000;

/// Number of frames that are read in one turn of a connection's task. Then the tasks of its RPCs have their turn, which
/// take what h2 keeps for them.
///
/// A turn of Tokio reads up to 2 MiB, which is 200,000 frames of one byte: 40 MiB in h2, which keeps that memory.
pub(super) const FRAMES_IN_A_TURN: u64 = 10_000;

/// Number of streams reset by us that are remembered, and for how long. Frames in flight for these streams are ignored.
///
/// Each RPC that is cancelled or misses its deadline is a reset stream, whose answer may be in flight. By default h2
/// remembers 50 streams for 1 s. Frames for a stream that is not remembered are an error to h2 on the server's side of
/// a connection. A stream takes about 500 bytes.
const RESET_STREAMS: usize = 10_000;
const RESET_STREAM_TIME: Duration = Duration::from_secs(10);

/// Number of streams that a client has opened and reset before we accepted them.
///
/// A host without CPU for a while reads both frames at once. h2's default of 20 ends the connection of a client whose
/// 60 RPCs miss their deadlines meanwhile. Each stream takes about 500 bytes and its headers until it is accepted, in
/// the same turn of the connection's task.
const RESET_BEFORE_ACCEPTED: usize = 10_000;

/// Budget for DATA frames of fewer than 256 bytes that wait to be read, counted as the bytes by which each is shorter.
/// h2 keeps about 200 bytes for each frame.
///
/// A connection that exceeds the budget ends, with all its RPCs. A million frames of 15 bytes reach it: 16 streams of a
/// channel whose callers do not read. The bodies that a proxy passes on are read in any case ([`gathered`](super::gathered)),
/// so that only what arrives in one turn counts.
const SMALL_FRAMES: usize = 256 << 20;

/// Bytes of an RPC that wait to be written to the connection. What the peer's window does not allow waits in the body.
///
/// h2 keeps 250 bytes more for each frame.
const SEND_BUFFER: usize = 64 << 10;

/// Windows that a user may set: from HTTP/2's default to the largest that HTTP/2 allows.
pub(crate) const WINDOWS: RangeInclusive<u32> = (1 << 16) - 1..=LARGEST_WINDOW;

/// Sizes of header lists that a user may set: from gRPC's usual limit on metadata.
pub(crate) const HEADER_LISTS: RangeInclusive<u32> = 8 << 10..=16 << 20;

/// The largest window that HTTP/2 allows: an RPC whose caller does not read must not stop the others of its connection.
const LARGEST_WINDOW: u32 = (1 << 31) - 1;

/// Limits of connections to servers.
pub(crate) mod client {
    use super::{LARGEST_WINDOW, RESET_STREAM_TIME, RESET_STREAMS, SEND_BUFFER, SMALL_FRAMES};

    /// The limits that a channel's user may set.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct ClientLimits {
        /// Bytes that a server may send ahead of what the caller reads, for each RPC.
        pub(crate) stream_window: u32,
        /// The same for all RPCs of a connection.
        pub(crate) connection_window: u32,
        /// Bytes of a response's headers, and of its trailers: gRPC servers send status details there, which may be
        /// long. An RPC beyond it fails; beyond four times as much, or 1.25 times as much in CONTINUATION frames, the
        /// connection ends.
        pub(crate) max_header_list: u32,
    }

    impl Default for ClientLimits {
        fn default() -> Self {
            Self { stream_window: 1 << 20, connection_window: LARGEST_WINDOW, max_header_list: 1 << 20 }
        }
    }

    /// Returns a builder with all limits set.
    pub(crate) fn builder(limits: ClientLimits) -> h2::client::Builder {
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(limits.stream_window)
            .initial_connection_window_size(limits.connection_window)
            .max_header_list_size(limits.max_header_list)
            .max_send_buffer_size(SEND_BUFFER)
            .max_concurrent_reset_streams(RESET_STREAMS)
            .reset_stream_duration(RESET_STREAM_TIME)
            // A server makes us reset only streams that we opened: there are not more of them than RPCs.
            .max_local_error_reset_streams(None)
            .data_frame_budget(SMALL_FRAMES)
            .enable_push(false);
        builder
    }
}

/// Limits of connections from the sidecar's clients.
pub(crate) mod server {
    use super::{RESET_BEFORE_ACCEPTED, RESET_STREAM_TIME, RESET_STREAMS, SEND_BUFFER, SMALL_FRAMES};

    /// Maximum number of concurrent RPCs on a connection.
    pub(crate) const MAX_STREAMS: u32 = 1000;
    /// Bytes that a client may send ahead of what the server takes, for each RPC.
    const WINDOW: u32 = 256 << 10;
    /// Bytes of the windows of all RPCs: an RPC whose data is not taken must not stop the others of its connection.
    const CONNECTION_WINDOW: u32 = MAX_STREAMS * WINDOW;
    /// Bytes of a request's headers that h2 accepts. A request between the listener's own limit and this one gets a
    /// gRPC status. A request beyond this one gets HTTP status 431. Beyond four times as much, or 1.25 times as much in
    /// CONTINUATION frames, the connection ends.
    const MAX_HEADERS: u32 = 1 << 20;

    /// Returns a builder with all limits set.
    pub(crate) fn builder() -> h2::server::Builder {
        let mut builder = h2::server::Builder::new();
        builder
            .initial_window_size(WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADERS)
            .max_concurrent_streams(MAX_STREAMS)
            .max_send_buffer_size(SEND_BUFFER)
            .max_concurrent_reset_streams(RESET_STREAMS)
            .reset_stream_duration(RESET_STREAM_TIME)
            .max_pending_accept_reset_streams(RESET_BEFORE_ACCEPTED)
            // A client can cause a reset with each frame. The cost is bounded elsewhere: our answers by
            // FRAMES_WHILE_WRITES_WAIT, the RPCs behind them by the tasks of a connection.
            .max_local_error_reset_streams(None)
            .data_frame_budget(SMALL_FRAMES);
        builder
    }
}
