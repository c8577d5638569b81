//! Front ends of a backend, which forward TLS connections or Unix sockets to it; and certificates.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use hotpick::tls::ServerTls;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::JoinSet;

/// A front end. Dropping it closes its listener and its connections.
#[derive(Debug)]
pub struct Front {
    _tasks: JoinSet<()>,
}

/// Forwards TLS connections to `backend`. Returns the front end and its address.
///
/// # Panics
///
/// Panics if there is no free port.
pub async fn tls(backend: SocketAddr, tls: ServerTls) -> (Front, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let tls = tls.clone();
            connections.spawn(async move {
                if let Ok(stream) = tls.accept(stream).await {
                    forward(stream, backend).await;
                }
            });
        }
    });
    (Front { _tasks: tasks }, address)
}

/// Forwards connections from the Unix socket `path` to `backend`.
///
/// # Panics
///
/// Panics if the socket cannot be created.
#[must_use]
pub fn unix(backend: SocketAddr, path: &Path) -> Front {
    let listener = UnixListener::bind(path).expect("a socket");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(forward(stream, backend));
        }
    });
    Front { _tasks: tasks }
}

async fn forward(mut stream: impl AsyncRead + AsyncWrite + Unpin, backend: SocketAddr) {
    if let Ok(mut backend) = TcpStream::connect(backend).await {
        let _ = copy_bidirectional(&mut stream, &mut backend).await;
    }
}

/// A certificate authority, and the certificates that it has issued.
#[derive(Debug)]
pub struct Certificates {
    directory: tempfile::TempDir,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Default for Certificates {
    fn default() -> Self {
        Self::new()
    }
}

impl Certificates {
    /// Creates a certificate authority. Its certificate is in the file [`ca`](Self::ca).
    ///
    /// # Panics
    ///
    /// Panics if the certificate cannot be written.
    #[must_use]
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut params = rcgen::CertificateParams::default();
        // The name must be unique, because verifiers look up issuers by name.
        let name = format!("hotpick's tests, {}", directory.path().display());
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        std::fs::write(directory.path().join("ca.pem"), certificate.pem()).expect("written");
        Self { directory, issuer: rcgen::Issuer::new(params, key) }
    }

    /// Path of a file in the directory of the certificates.
    #[must_use]
    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    /// Path of the authority's own certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// Writes `stem.pem` and `stem.key` for a server or client of this name, replacing existing files.
    ///
    /// # Panics
    ///
    /// Panics if the files cannot be written.
    pub fn issue(&self, stem: &str, name: &str) -> (PathBuf, PathBuf) {
        let mut params = rcgen::CertificateParams::new([name.to_owned()]).expect("a name");
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let (pem, private) = (self.path(&format!("{stem}.pem")), self.path(&format!("{stem}.key")));
        std::fs::write(&pem, certificate.pem()).expect("written");
        std::fs::write(&private, key.serialize_pem()).expect("written");
        (pem, private)
    }
}
