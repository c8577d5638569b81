//! TLS by rustls: what a channel trusts, and which certificate it presents.
//!
//! Certificates and keys from files are read again for each connection, so that a renewed
//! certificate is used from the next connection on. A file that is bad at that moment changes nothing but the log.

mod certificate;
mod client;
mod error;
mod pem;
mod provider;
mod reloading;
mod server;

pub(crate) use self::certificate::PeerCertificate;
pub use self::client::ClientTls;
pub(crate) use self::client::Connector;
pub use self::error::TlsError;
pub use self::server::ServerTls;
