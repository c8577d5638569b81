//! Certificates and keys in PEM form, from files or from code.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, RootCertStore};

use super::error::TlsError;
use crate::files;

/// The largest file that is read, in bytes.
const LARGEST: usize = 16 << 20;

/// Source of a certificate or a key.
#[derive(Clone)]
pub(super) enum Pem {
    File(PathBuf),
    Given(Vec<u8>),
}

impl Pem {
    pub(super) fn read(&self) -> Result<Vec<u8>, TlsError> {
        match self {
            Self::Given(bytes) => Ok(bytes.clone()),
            Self::File(path) => files::read_now(path, LARGEST)
                .map_err(|error| TlsError::File { path: path.clone(), source: error.into() }),
        }
    }

    /// Describes the source, for errors.
    pub(super) fn origin(&self) -> String {
        match self {
            Self::File(path) => format!("TLS file {path:?}"),
            Self::Given(_) => "the given PEM text".to_owned(),
        }
    }

    fn malformed(&self, what: &'static str, error: Option<&pem::Error>) -> TlsError {
        // Not the library's text: it may quote a line, and that line may be part of a key.
        let detail = match error {
            None | Some(pem::Error::NoItemsFound) => "",
            Some(pem::Error::MissingSectionEnd { .. }) => ": an END line is missing",
            Some(pem::Error::IllegalSectionStart { .. }) => ": a BEGIN line is malformed",
            Some(pem::Error::Base64Decode(_)) => ": its base64 is malformed",
            Some(_) => ": it is malformed",
        };
        TlsError::Pem { origin: self.origin(), what, detail }
    }

    pub(super) fn unfit(&self, error: rustls::Error) -> TlsError {
        TlsError::Identity { origin: self.origin(), source: error.into() }
    }

    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let bytes = self.read()?;
        let certificates = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
        match certificates {
            Ok(certificates) if certificates.is_empty() => Err(self.malformed("certificate", None)),
            Ok(certificates) => Ok(certificates),
            Err(error) => Err(self.malformed("certificate", Some(&error))),
        }
    }

    pub(super) fn key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&self.read()?)
            .map_err(|error| self.malformed("private key", Some(&error)))
    }

    pub(super) fn roots(&self) -> Result<Arc<RootCertStore>, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            roots
                .add(certificate)
                .map_err(|error| TlsError::Root { origin: self.origin(), source: error.into() })?;
        }
        Ok(Arc::new(roots))
    }
}

/// Prints the source but never the bytes, which may be a key.
impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin())
    }
}
