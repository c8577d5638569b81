//! gRPC's channelz (gRFC A14): channels and subchannels for tools such as `grpcdebug`.
//!
//! Reported are the top channels and their subchannels. There are no servers, and the sockets of subchannels have no
//! numbers of their own.

mod messages;
mod service;

pub(crate) use self::service::answer;
