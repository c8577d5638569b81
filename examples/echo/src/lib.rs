//! The service that hotpick's demo, examples and tests balance. Its responses name the backend that answered.
//!
//! `tonic-build` generates server and client.

// For the generated code: this lint can only be allowed here.
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

/// A request.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct EchoRequest {
    /// Text that the response repeats.
    #[prost(string, tag = "1")]
    pub text: String,
    /// Number of responses of a server stream. Other methods ignore it.
    #[prost(uint32, tag = "2")]
    pub count: u32,
}

/// A response.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct EchoResponse {
    /// The request's text; for a client stream, the texts of all requests joined.
    #[prost(string, tag = "1")]
    pub text: String,
    /// Name of the backend that answered.
    #[prost(string, tag = "2")]
    pub backend: String,
}

impl EchoRequest {
    /// Creates a request with this text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), count: 0 }
    }
}
