//! TLS by rustls: what a channel trusts, and what it shows.
//!
//! Certificates and keys that come from files are read again when a connection is made, so that a renewed
//! one is used from the next connection on. A file that is bad at that moment changes nothing but the log.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, CertificateError, ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{files, workers};

/// TLS of a channel's connections: TLS 1.2 and 1.3, and HTTP/2 chosen by ALPN.
///
/// By default the server's certificate must lead to one of the system's roots and be made out to the host
/// of the channel's authority, or else of the endpoint's address.
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
}

/// TLS of a server: what proxies in front of channels need.
#[derive(Clone, Debug)]
pub struct ServerTls(Arc<Reloading<ServerConfig>>);

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

    /// The name that is asked for (SNI) and that the certificate must be made out to, whatever the
    /// authority.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    fn sources(&self) -> impl Iterator<Item = &Pem> {
        let identity = self.identity.iter().flat_map(|(certificates, key)| [certificates, key]);
        self.ca.iter().chain(identity)
    }

    fn config(&self) -> Result<ClientConfig, TlsError> {
        let roots = match &self.ca {
            Some(ca) => ca.roots()?,
            None => system_roots()?,
        };
        // The builder's own way would not say what is wrong with the roots.
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider());
        let verifier = verifier.build().map_err(|error| TlsError::Root {
            origin: self.ca.as_ref().map_or_else(|| "the system".to_owned(), Pem::origin),
            reason: error.to_string(),
        })?;
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Identity {
                origin: "the provider".to_owned(),
                reason: error.to_string(),
            })?
            .with_webpki_verifier(verifier);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificates, key)) => builder
                .with_client_auth_cert(certificates.certificates()?, key.key()?)
                .map_err(|error| certificates.unfit(&error))?,
        };
        config.alpn_protocols = vec![H2.to_vec()];
        Ok(config)
    }
}

impl ServerTls {
    /// TLS with the certificate chain of a PEM file and the key of another. With `client_ca`, clients must
    /// show a certificate that leads to one of that file's.
    ///
    /// # Errors
    ///
    /// A file cannot be read or used.
    pub fn from_files(
        certificates: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
        client_ca: Option<&Path>,
    ) -> Result<Self, TlsError> {
        let (certificates, key) = (Pem::File(certificates.into()), Pem::File(key.into()));
        let ca = client_ca.map(|path| Pem::File(path.to_owned()));
        let sources: Vec<_> = [&certificates, &key].into_iter().chain(&ca).cloned().collect();
        let load = move || {
            let builder = ServerConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()
                .map_err(|error| certificates.unfit(&error))?;
            let builder =
                match &ca {
                    None => builder.with_no_client_auth(),
                    Some(ca) => {
                        let verifier = WebPkiClientVerifier::builder_with_provider(ca.roots()?, provider());
                        builder.with_client_cert_verifier(verifier.build().map_err(|error| {
                            TlsError::Root { origin: ca.origin(), reason: error.to_string() }
                        })?)
                    }
                };
            let mut config = builder
                .with_single_cert(certificates.certificates()?, key.key()?)
                .map_err(|error| certificates.unfit(&error))?;
            config.alpn_protocols = vec![H2.to_vec()];
            Ok(config)
        };
        Ok(Self(Arc::new(Reloading::new(sources, load)?)))
    }

    /// Does the server's part of the handshake on a connection.
    ///
    /// # Errors
    ///
    /// The handshake failed, or the client does not speak HTTP/2.
    pub async fn accept<T: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: T,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + use<T>> {
        let config = Reloading::current(&self.0).await.map_err(io::Error::other)?;
        let stream = TlsAcceptor::from(config).accept(io).await?;
        if stream.get_ref().1.alpn_protocol() != Some(H2) {
            return Err(io::Error::other("the client did not offer HTTP/2 by ALPN"));
        }
        Ok(stream)
    }
}

const H2: &[u8] = b"h2";
/// Of a file of certificates, in bytes.
const LARGEST: usize = 16 << 20;

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(ring::default_provider()));
    Arc::clone(&PROVIDER)
}

/// Read once for the process: it takes a while.
fn system_roots() -> Result<Arc<RootCertStore>, TlsError> {
    static ROOTS: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
        let mut roots = RootCertStore::empty();
        // Some of a system's roots may be malformed; the others serve.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    });
    if ROOTS.is_empty() { Err(TlsError::NoSystemRoots) } else { Ok(Arc::clone(&ROOTS)) }
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

    pub(crate) async fn connect<T: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: T,
        host: &str,
    ) -> Result<tokio_rustls::client::TlsStream<T>, String> {
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
            Some(H2) => Ok(stream),
            _ => Err(format!("TLS peer {shown:?} did not choose HTTP/2 by ALPN")),
        }
    }
}

/// The certificate that the server of a connection has shown, and that has been found good for the connection's own name.
#[derive(Debug)]
pub(crate) struct PeerCertificate {
    certificate: CertificateDer<'static>,
    /// Whether it is made out to other names, too, of those that were asked for.
    others: Mutex<BTreeMap<String, bool>>,
}

/// So many of these are remembered.
const OTHER_NAMES: usize = 64;

impl PeerCertificate {
    pub(crate) fn of<T>(stream: &tokio_rustls::client::TlsStream<T>) -> Option<Self> {
        let certificate = stream.get_ref().1.peer_certificates()?.first()?.clone().into_owned();
        Some(Self { certificate, others: Mutex::default() })
    }

    /// Whether it is made out to this host as well.
    pub(crate) fn is_made_out_to(&self, host: &str) -> bool {
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

fn server_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    let host = name.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned()).map_err(|_| TlsError::ServerName(name.to_owned()))
}

/// Where a certificate or a key is.
#[derive(Clone)]
enum Pem {
    File(PathBuf),
    Given(Vec<u8>),
}

impl Pem {
    fn read(&self) -> Result<Vec<u8>, TlsError> {
        match self {
            Self::Given(bytes) => Ok(bytes.clone()),
            Self::File(path) => files::read_now(path, LARGEST)
                .map_err(|error| TlsError::File { path: path.clone(), reason: error.to_string() }),
        }
    }

    fn origin(&self) -> String {
        match self {
            Self::File(path) => format!("TLS file {path:?}"),
            Self::Given(_) => "the given PEM text".to_owned(),
        }
    }

    fn malformed(&self, what: &'static str, error: Option<&pem::Error>) -> TlsError {
        // In words of our own: the library's may quote a line, and that line may be a key.
        let detail = match error {
            None | Some(pem::Error::NoItemsFound) => "",
            Some(pem::Error::MissingSectionEnd { .. }) => ": an END line is missing",
            Some(pem::Error::IllegalSectionStart { .. }) => ": a BEGIN line is malformed",
            Some(pem::Error::Base64Decode(_)) => ": its base64 is malformed",
            Some(_) => ": it is malformed",
        };
        TlsError::Pem { origin: self.origin(), what, detail }
    }

    fn unfit(&self, error: &rustls::Error) -> TlsError {
        TlsError::Identity { origin: self.origin(), reason: error.to_string() }
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let bytes = self.read()?;
        let certificates = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
        match certificates {
            Ok(certificates) if certificates.is_empty() => Err(self.malformed("certificate", None)),
            Ok(certificates) => Ok(certificates),
            Err(error) => Err(self.malformed("certificate", Some(&error))),
        }
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&self.read()?)
            .map_err(|error| self.malformed("private key", Some(&error)))
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            roots
                .add(certificate)
                .map_err(|error| TlsError::Root { origin: self.origin(), reason: error.to_string() })?;
        }
        Ok(Arc::new(roots))
    }
}

/// Never the bytes: they may be a key.
impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin())
    }
}

/// A configuration that is made again when the files that it is made of have changed.
struct Reloading<T> {
    sources: Vec<Pem>,
    load: Box<dyn Fn() -> Result<T, TlsError> + Send + Sync>,
    current: Mutex<Loaded<T>>,
}

struct Loaded<T> {
    /// What the sources held when they were looked at last.
    bytes: Vec<Vec<u8>>,
    config: Arc<T>,
    /// What has been complained of, until it is mended.
    complaint: Option<String>,
}

impl<T: Send + Sync + 'static> Reloading<T> {
    fn new(
        sources: Vec<Pem>,
        load: impl Fn() -> Result<T, TlsError> + Send + Sync + 'static,
    ) -> Result<Self, TlsError> {
        let bytes = sources.iter().map(Pem::read).collect::<Result<_, _>>()?;
        let config = Arc::new(load()?);
        let current = Mutex::new(Loaded { bytes, config, complaint: None });
        Ok(Self { sources, load: Box::new(load), current })
    }

    /// The configuration of the files as they are. They are small, and read once for each connection; but
    /// they may lie anywhere, and so are read where it may block.
    async fn current(this: &Arc<Self>) -> Result<Arc<T>, String> {
        let this = Arc::clone(this);
        workers::run(move || this.load()).await.map_err(|lost| lost.to_string())
    }

    fn load(&self) -> Arc<T> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let read = self.sources.iter().map(Pem::read).collect::<Result<Vec<_>, _>>();
        let loaded = read.and_then(|bytes| {
            if bytes != current.bytes {
                current.config = Arc::new((self.load)()?);
                current.bytes = bytes;
                tracing::info!(from = ?self.sources, "TLS certificates changed");
            }
            Ok(())
        });
        let complaint = loaded.err().map(|error| error.to_string());
        if complaint != current.complaint {
            if let Some(error) = &complaint {
                tracing::warn!(error, "TLS certificates cannot be read anew: those before stay in use");
            }
            current.complaint = complaint;
        }
        Arc::clone(&current.config)
    }
}

impl<T> fmt::Debug for Reloading<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reloading").field(&self.sources).finish()
    }
}
