//! What both sides of an HTTP/2 connection share: towards servers ([`subconn`](crate::subconn)) and towards the clients of
//! a proxy ([`proxy`](crate::proxy)).
//!
//! h2 does HTTP/2. Here stand the limits that it is given ([`limits`]), what is between it and the bytes of the
//! connection ([`wire`], [`frames`], [`header_block`], [`huffman`]), the bodies of one RPC ([`body`]), and what its errors are
//! in gRPC's terms ([`status`]).

mod body;
mod frames;
mod header_block;
mod huffman;
mod limits;
mod status;
mod wire;

pub(crate) use self::body::{Outgoing, Received, Sending};
pub(crate) use self::frames::{Seen, Side};
pub(crate) use self::limits::{client, server};
pub(crate) use self::status::{code_of_http, describe, status_of};
pub(crate) use self::wire::{Cut, LastActivity, Wire};
