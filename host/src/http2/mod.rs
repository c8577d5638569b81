//! HTTP/2 for both kinds of connection: to servers ([`transport`](crate::transport)) and from the clients of a proxy
//! ([`proxy`](crate::proxy)).
//!
//! The h2 crate implements HTTP/2. This module adds:
//!
//! - the limits that h2 is configured with ([`limits`]);
//! - a layer between h2 and the bytes of the connection ([`wire`], [`frames`], [`header_block`], [`huffman`]);
//! - the bodies of one RPC ([`body`], [`gathered`]);
//! - what one peer must not put into the HPACK table of another ([`readable`]);
//! - the mapping of h2's errors to gRPC statuses ([`status`]).

mod body;
mod frames;
mod gathered;
mod header_block;
mod huffman;
mod limits;
mod readable;
mod status;
mod traffic;
mod wire;

pub(crate) use self::body::{Outgoing, Received, Sending};
pub(crate) use self::frames::{Seen, Side};
pub(crate) use self::gathered::Gathered;
pub(crate) use self::limits::client::ClientLimits;
pub(crate) use self::limits::{HEADER_LISTS, WINDOWS, client, server};
pub(crate) use self::readable::never_index_malformed;
pub(crate) use self::status::{code_of_http, describe, grpc_code, status_of};
pub(crate) use self::traffic::Traffic;
pub(crate) use self::wire::{Cut, Wire};
