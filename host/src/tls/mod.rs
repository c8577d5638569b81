//! TLS, implemented by rustls: the roots that a channel trusts, and the certificate that it presents.
//!
//! Certificates and keys in files are read again for each connection, so that a renewed certificate is used from the
//! next connection on. If a file is invalid at that moment, the previous certificates stay in use and the error is
//! logged.

#[cfg(not(feature = "tls"))]
mod absent;
#[cfg(feature = "tls")]
mod certificate;
#[cfg(feature = "tls")]
mod client;
#[cfg(feature = "tls")]
mod error;
#[cfg(feature = "tls")]
mod pem;
#[cfg(feature = "tls")]
mod provider;
#[cfg(feature = "tls")]
mod reloading;
#[cfg(feature = "tls")]
mod server;

#[cfg(not(feature = "tls"))]
pub(crate) use self::absent::{Connector, PeerCertificate};
#[cfg(feature = "tls")]
pub(crate) use self::certificate::PeerCertificate;
#[cfg(feature = "tls")]
pub use self::client::ClientTls;
#[cfg(feature = "tls")]
pub(crate) use self::client::Connector;
#[cfg(feature = "tls")]
pub use self::error::TlsError;
#[cfg(feature = "tls")]
pub use self::server::ServerTls;
#[cfg(feature = "tls")]
pub use tokio_rustls::rustls;
