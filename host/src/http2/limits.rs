//! Every limit of HTTP/2 that we set, on both sides, and what it is for. `docs/limits.md` has the table.

use std::time::Duration;

/// So many frames are read from a peer that does not read, from when our writes begin to wait until one gets through. Then the
/// connection ends.
///
/// For each frame that h2 objects to it queues an answer of some 500 bytes; those that the peer does not read would pile up.
/// A client that writes all of its uploads before it reads has 16,000 frames in all of its windows. (To read no further
/// would be wrong: two peers that do that wait for each other.)
pub(super) const FRAMES_WHILE_WRITES_WAIT: u64 = 100_000;

/// Streams that we have reset, and how long they are remembered: frames that were under way are then ignored.
///
/// An RPC that is cancelled or late is a reset stream, and its answer may be on its way. h2 remembers 50 for 1 s by default; what
/// comes after that is an error to it, on the server's side of the connection. A stream takes some 500 bytes.
const RESET_STREAMS: usize = 10_000;
const RESET_STREAM_TIME: Duration = Duration::from_secs(10);

/// Streams that a client opened and reset before we took them in.
///
/// A host that gets no CPU for a while reads both at once. h2's default of 20 ends the connection of a client whose 60
/// RPCs miss their deadlines meanwhile. Each takes some 500 bytes and its headers until it is taken in, which is
/// in the same turn of the connection's task.
const RESET_BEFORE_ACCEPTED: usize = 10_000;

/// DATA frames of fewer than 256 bytes that wait to be read, by the bytes that they lack: h2 keeps some 200 bytes for each.
///
/// A connection beyond it ends, with all its RPCs: so it is as large as what a thousand uploads of small messages
/// come to that no one takes, and no larger than what a connection may hold anyway.
const SMALL_FRAMES: usize = 256 << 20;

/// As much as there can be: an RPC whose caller does not read must not stop the others of its connection.
const LARGEST_WINDOW: u32 = (1 << 31) - 1;

/// The client's side: towards servers.
pub(crate) mod client {
    use super::{LARGEST_WINDOW, RESET_STREAM_TIME, RESET_STREAMS, SMALL_FRAMES};

    /// What a server may send ahead of what the caller takes, for each RPC.
    const WINDOW: u32 = 1 << 20;
    /// Of requests that the peer does not take yet, for each RPC.
    const SEND_BUFFER: usize = 1 << 20;
    /// Of a response's headers, and of its trailers: gRPC's peers send status details there, which may be long. Above
    /// it the RPC fails; above four times as much, or in one piece of 1.25 times as much, the connection ends.
    const MAX_HEADERS: u32 = 1 << 20;

    /// With all limits set.
    pub(crate) fn builder() -> h2::client::Builder {
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(WINDOW)
            .initial_connection_window_size(LARGEST_WINDOW)
            .max_header_list_size(MAX_HEADERS)
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

/// The server's side: towards the clients of the sidecar.
pub(crate) mod server {
    use super::{RESET_BEFORE_ACCEPTED, RESET_STREAM_TIME, RESET_STREAMS, SMALL_FRAMES};

    /// How many RPCs a connection may have at once.
    pub(crate) const MAX_STREAMS: u32 = 1000;
    /// What a client may send ahead of what the server takes, for each RPC.
    const WINDOW: u32 = 256 << 10;
    /// All of them: an RPC that is not taken must not stop the others of its connection.
    const CONNECTION_WINDOW: u32 = MAX_STREAMS * WINDOW;
    /// Of responses that the client does not take yet, for each RPC.
    const SEND_BUFFER: usize = 256 << 10;
    /// Of a request's headers, as far as h2 is asked: what is above a listener's own limit and below this is answered with a
    /// status. What is above this is answered with HTTP's 431, and above four times as much, or in one piece of 1.25
    /// times as much, the connection ends.
    const MAX_HEADERS: u32 = 1 << 20;

    /// With all limits set.
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
            // A client can have a reset for each frame it sends. What that costs is bounded elsewhere: our answers by
            // FRAMES_WHILE_WRITES_WAIT, what is under way behind them by the tasks of a connection.
            .max_local_error_reset_streams(None)
            .data_frame_budget(SMALL_FRAMES);
        builder
    }
}
