//! The certificate of a server.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::CertificateDer;

use super::provider::server_name;

/// The certificate that a server has presented, and that is valid for the connection's own name.
#[derive(Debug)]
pub(crate) struct PeerCertificate {
    certificate: CertificateDer<'static>,
    /// Whether the certificate is valid for other names that were asked for.
    others: Mutex<BTreeMap<String, bool>>,
}

/// Number of other names whose result is remembered.
const OTHER_NAMES: usize = 64;

impl PeerCertificate {
    /// Returns the certificate of the peer, or `None` if it presented none.
    pub(crate) fn of<T>(stream: &tokio_rustls::client::TlsStream<T>) -> Option<Self> {
        let certificate = stream.get_ref().1.peer_certificates()?.first()?.clone().into_owned();
        Some(Self { certificate, others: Mutex::default() })
    }

    /// Returns whether the certificate is valid for this host as well.
    pub(crate) fn is_valid_for(&self, host: &str) -> bool {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = others.get(host) {
            return *known;
        }
        let parsed = rustls::server::ParsedCertificate::try_from(&self.certificate);
        let is_for =
            |name| parsed.is_ok_and(|parsed| rustls::client::verify_server_name(&parsed, &name).is_ok());
        let is_for = server_name(host).is_ok_and(is_for);
        if others.len() < OTHER_NAMES {
            others.insert(host.to_owned(), is_for);
        }
        is_for
    }
}
