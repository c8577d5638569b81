//! Errors of setting up TLS.

use std::error::Error;
use std::path::PathBuf;

/// An error of setting up TLS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("TLS file {path:?} cannot be read: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A file, or a text given in code, does not contain a valid certificate or key in PEM form.
    #[error("{origin} holds no {what} in PEM form{detail}")]
    Pem {
        /// The file, or where else the text is from.
        origin: String,
        /// What the text should contain: a certificate or a private key.
        what: &'static str,
        /// The defect, with a leading colon. Empty if there is no such item.
        detail: &'static str,
    },
    /// The certificate does not belong to the key, or one of them is of an unsupported kind.
    #[error("certificate of {origin} cannot be used with its key: {source}")]
    Identity {
        /// Where the certificate is from.
        origin: String,
        /// The cause.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A root certificate is malformed.
    #[error("{origin} has a certificate that cannot be a root: {source}")]
    Root {
        /// Where the certificate is from.
        origin: String,
        /// The cause.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The system has no root certificates.
    #[error("the system has no root certificates: install them (ca-certificates), or give a CA file")]
    NoSystemRoots,
    /// The name is not valid for a server.
    #[error("TLS server name {0:?} is neither a DNS name nor an IP address")]
    ServerName(String),
}
