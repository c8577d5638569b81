//! The service that hotpick's demo, examples and tests balance: it says who answers.
//!
//! Server and client are what `tonic-build` generates.

// Of the generated code; the lint looks only here.
#![allow(clippy::allow_attributes_without_reason, reason = "generated code")]

mod generated {
    #![allow(
        missing_docs,
        unreachable_pub,
        unused_qualifications,
        clippy::all,
        clippy::use_self,
        reason = "generated"
    )]
    tonic::include_proto!("hotpick.echo.Echo");
}
mod server;

pub use self::generated::echo_client::EchoClient;
pub use self::generated::echo_server::{Echo, EchoServer};
pub use self::server::{Backend, BackendOptions};

/// What is sent.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct EchoRequest {
    /// Comes back in the response.
    #[prost(string, tag = "1")]
    pub text: String,
    /// Of a server stream: how many responses.
    #[prost(uint32, tag = "2")]
    pub count: u32,
}

/// What comes back.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct EchoResponse {
    /// The request's text; of a client stream, all texts in a row.
    #[prost(string, tag = "1")]
    pub text: String,
    /// The name of the backend that answered.
    #[prost(string, tag = "2")]
    pub backend: String,
}

impl EchoRequest {
    /// A request with this text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), count: 0 }
    }
}
