//! TLS on the server's side.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::server::WebPkiClientVerifier;

use super::error::TlsError;
use super::pem::Pem;
use super::provider::{H2, provider};
use super::reloading::Reloading;

/// TLS configuration of a server, for proxies in front of channels.
#[derive(Clone, Debug)]
pub struct ServerTls(Arc<Reloading<ServerConfig>>);

impl ServerTls {
    /// Reads the certificate chain from one PEM file and its key from another. With `client_ca`, clients must present a
    /// certificate whose chain leads to a certificate of that file.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be read or used.
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
                .map_err(|error| certificates.unfit(error))?;
            let builder = match &ca {
                None => builder.with_no_client_auth(),
                Some(ca) => {
                    let verifier = WebPkiClientVerifier::builder_with_provider(ca.roots()?, provider());
                    builder.with_client_cert_verifier(
                        verifier
                            .build()
                            .map_err(|error| TlsError::Root { origin: ca.origin(), source: error.into() })?,
                    )
                }
            };
            let mut config = builder
                .with_single_cert(certificates.certificates()?, key.key()?)
                .map_err(|error| certificates.unfit(error))?;
            config.alpn_protocols = vec![H2.to_vec()];
            Ok(config)
        };
        Ok(Self(Arc::new(Reloading::new(sources, load)?)))
    }

    /// Performs the server's side of the TLS handshake on a connection.
    ///
    /// # Errors
    ///
    /// Returns an error if the handshake failed, or the client did not offer HTTP/2.
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
