//! Why TLS cannot be set up.

use std::path::PathBuf;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("TLS file {path:?} cannot be read: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file, or a text given in code, holds no certificate or key in PEM form.
    #[error("{origin} holds no {what} in PEM form{detail}")]
    Pem {
        /// The file, or where else the text is from.
        origin: String,
        /// What it should hold.
        what: &'static str,
        /// What is wrong with it, if it is there.
        detail: &'static str,
    },
    /// Certificate and key are no pair, or are of a kind that is not supported.
    #[error("certificate of {origin} cannot be used with its key: {reason}")]
    Identity {
        /// Where the certificate is from.
        origin: String,
        /// Why: what the TLS library says.
        reason: String,
    },
    /// A root certificate is malformed.
    #[error("{origin} has a certificate that cannot be a root: {reason}")]
    Root {
        /// Where it is from.
        origin: String,
        /// Why: what the TLS library says.
        reason: String,
    },
    /// The system has no root certificates.
    #[error("the system has no root certificates: install them (ca-certificates), or give a CA file")]
    NoSystemRoots,
    /// The name cannot be a server's.
    #[error("TLS server name {0:?} is neither a DNS name nor an IP address")]
    ServerName(String),
}
