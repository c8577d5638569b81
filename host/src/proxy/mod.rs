//! Serves a channel as a gRPC server, to which programs in any language can connect.
//!
//! [`Proxy`] serves connections that its user has accepted. Listening, TLS and signals are up to the user; the command
//! `hotpick proxy` is one such user. Each RPC of a client goes through the channel like an RPC of this process: the
//! channel's policy picks a subconn for it, with the client's metadata.
//!
//! Clients are not trusted. Their RPCs in flight, the metadata of each RPC and the memory of a connection are limited
//! ([`ProxyOptions`], and `docs/limits.md` for the limits of HTTP/2). Invalid data from a client ends at most the
//! client's own connection.

mod admission;
mod connection;
mod health;
mod options;
mod rpc;
mod server;
mod upload;

pub use self::options::{Client, ConnectionError, ProxyOptions};
pub use self::server::Proxy;
pub use crate::call::Peer;
