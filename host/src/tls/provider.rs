//! The crypto provider, the system's root certificates, and server names.

use std::sync::{Arc, LazyLock};

use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::ServerName;

use super::error::TlsError;

/// The ALPN name of HTTP/2.
pub(super) const H2: &[u8] = b"h2";

/// Returns the crypto provider.
pub(super) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(ring::default_provider()));
    Arc::clone(&PROVIDER)
}

/// Returns the system's root certificates. They are read once per process, because that is slow.
pub(super) fn system_roots() -> Result<Arc<RootCertStore>, TlsError> {
    static ROOTS: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
        let mut roots = RootCertStore::empty();
        // Some of a system's roots may be malformed; the others are used.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    });
    if ROOTS.is_empty() { Err(TlsError::NoSystemRoots) } else { Ok(Arc::clone(&ROOTS)) }
}

/// Parses the name of a server: a DNS name or an IP address, perhaps in brackets.
pub(super) fn server_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    let host = name.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned()).map_err(|_| TlsError::ServerName(name.to_owned()))
}
