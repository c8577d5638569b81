//! The client's side of TLS.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, CertificateError, ClientConfig};

use super::certificate::PeerCertificate;
use super::error::TlsError;
use super::pem::Pem;
use super::provider::{H2, provider, server_name, system_roots};
use super::reloading::Reloading;
use crate::net::BoxedIo;

/// TLS of a channel's connections: TLS 1.2 and 1.3, and HTTP/2 chosen by ALPN.
///
/// By default, the server's certificate must be issued by one of the system's roots and be valid for the host of the
/// channel's authority, or else of the endpoint's address.
///
/// ```no_run
/// use hotpick::tls::ClientTls;
///
/// let tls = ClientTls::new()
///     .ca_file("ca.pem") // instead of the system's roots
///     .identity_files("client.pem", "client.key"); // mutual TLS
/// let channel = hotpick::Channel::builder("dns:///echo.example:443").tls(tls);
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct ClientTls {
    ca: Option<Pem>,
    identity: Option<(Pem, Pem)>,
    server_name: Option<String>,
    /// Used instead of a configuration made of the others.
    rustls: Option<Arc<ClientConfig>>,
}

impl ClientTls {
    /// TLS that trusts the system's roots and shows no certificate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the certificates of this PEM file, and no others.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca = Some(Pem::File(path.into()));
        self
    }

    /// Trusts these certificates, and no others.
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca = Some(Pem::Given(pem.into()));
        self
    }

    /// Shows the certificate chain of a PEM file, whose key is in another, to servers that ask for one.
    pub fn identity_files(mut self, certificates: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((Pem::File(certificates.into()), Pem::File(key.into())));
        self
    }

    /// Shows this certificate chain to servers that ask for one.
    pub fn identity_pem(mut self, certificates: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.identity = Some((Pem::Given(certificates.into()), Pem::Given(key.into())));
        self
    }

    /// Uses a configuration of rustls, with its own verifier, certificates and crypto provider. Only
    /// [`server_name`](Self::server_name) is used beside it, and HTTP/2 is added to its ALPN protocols if it has none.
    pub fn rustls_config(mut self, config: impl Into<Arc<ClientConfig>>) -> Self {
        self.rustls = Some(config.into());
        self
    }

    /// Sets the name that is sent as SNI and that the certificate must be valid for, whatever the authority.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    fn sources(&self) -> impl Iterator<Item = &Pem> {
        let identity = self.identity.iter().flat_map(|(certificates, key)| [certificates, key]);
        // A configuration of rustls replaces all of them.
        self.ca.iter().chain(identity).filter(|_| self.rustls.is_none())
    }

    fn config(&self) -> Result<ClientConfig, TlsError> {
        if let Some(config) = &self.rustls {
            let mut config = ClientConfig::clone(config);
            if config.alpn_protocols.is_empty() {
                config.alpn_protocols = vec![H2.to_vec()];
            }
            return Ok(config);
        }
        let roots = match &self.ca {
            Some(ca) => ca.roots()?,
            None => system_roots()?,
        };
        // The builder's own way would not say what is wrong with the roots.
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider());
        let verifier = verifier.build().map_err(|error| TlsError::Root {
            origin: self.ca.as_ref().map_or_else(|| "the system".to_owned(), Pem::origin),
            source: error.into(),
        })?;
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Identity { origin: "the provider".to_owned(), source: error.into() })?
            .with_webpki_verifier(verifier);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificates, key)) => builder
                .with_client_auth_cert(certificates.certificates()?, key.key()?)
                .map_err(|error| certificates.unfit(error))?,
        };
        config.alpn_protocols = vec![H2.to_vec()];
        Ok(config)
    }
}

/// Makes the client's part of TLS on a channel's connections.
#[derive(Debug)]
pub(crate) struct Connector {
    config: Arc<Reloading<ClientConfig>>,
    server_name: Option<ServerName<'static>>,
}

impl Connector {
    /// TLS for connections to servers of this name, unless `tls` has another; without one, of the name of
    /// each endpoint's own host.
    pub(crate) fn new(tls: ClientTls, authority: Option<&str>) -> Result<Self, TlsError> {
        let server_name = tls.server_name.as_deref().or(authority).map(server_name).transpose()?;
        let sources = tls.sources().cloned().collect();
        let config = Arc::new(Reloading::new(sources, move || tls.config())?);
        Ok(Self { config, server_name })
    }

    /// Does the handshake with the server of an address.
    pub(crate) async fn connect(
        &self,
        io: BoxedIo,
        host: &str,
    ) -> Result<(BoxedIo, Option<PeerCertificate>), String> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => server_name(host).map_err(|error| error.to_string())?,
        };
        let shown = name.to_str().into_owned();
        let config = Reloading::current(&self.config).await?;
        let connector = TlsConnector::from(config);
        let stream = connector
            .connect(name, io)
            .await
            .map_err(|error| format!("TLS handshake with {shown:?} failed: {error}{}", hint(&error)))?;
        match stream.get_ref().1.alpn_protocol() {
            Some(H2) => {
                let certificate = PeerCertificate::of(&stream);
                Ok((Box::new(stream), certificate))
            }
            _ => Err(format!("TLS peer {shown:?} did not choose HTTP/2 by ALPN")),
        }
    }
}

/// What to do about an error that does not say it.
fn hint(error: &io::Error) -> String {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext {
        presented, ..
    })) = error
    else {
        return String::new();
    };
    // As rustls writes it: DnsName("*.internal").
    let wildcard = presented.iter().find_map(|name| {
        let name = name.strip_prefix("DnsName(\"*.")?.trim_end_matches("\")");
        (!name.contains('.')).then_some(name)
    });
    wildcard.map_or_else(String::new, |label| {
        format!(
            ". A wildcard for a whole top-level name, as \"*.{label}\" is, is not accepted: have the certificate issued \
             for the full name, or for \"*.NAME.{label}\""
        )
    })
}
