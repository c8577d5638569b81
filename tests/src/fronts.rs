//! Other ways to a backend: TLS, Unix sockets. Each accepts, and passes the bytes on.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use hotpick::tls::ServerTls;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::JoinSet;

/// Listens for a backend, until it is dropped.
#[derive(Debug)]
pub struct Front {
    _tasks: JoinSet<()>,
}

/// In front of `backend`, TLS. Gives its address.
///
/// # Panics
///
/// There is no port to listen on.
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
                    pass(stream, backend).await;
                }
            });
        }
    });
    (Front { _tasks: tasks }, address)
}

/// In front of `backend`, a Unix socket.
///
/// # Panics
///
/// It cannot be made.
#[must_use]
pub fn unix(backend: SocketAddr, path: &Path) -> Front {
    let listener = UnixListener::bind(path).expect("a socket");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(pass(stream, backend));
        }
    });
    Front { _tasks: tasks }
}

async fn pass(mut stream: impl AsyncRead + AsyncWrite + Unpin, backend: SocketAddr) {
    if let Ok(mut backend) = TcpStream::connect(backend).await {
        let _ = copy_bidirectional(&mut stream, &mut backend).await;
    }
}

/// An authority of its own, and the certificates it has made.
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
    /// An authority, whose certificate is in [`ca`](Self::ca).
    ///
    /// # Panics
    ///
    /// It cannot be written.
    #[must_use]
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut params = rcgen::CertificateParams::default();
        // Each its own: verifiers look for the issuer by its name.
        let name = format!("hotpick's tests, {}", directory.path().display());
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        std::fs::write(directory.path().join("ca.pem"), certificate.pem()).expect("written");
        Self { directory, issuer: rcgen::Issuer::new(params, key) }
    }

    /// A file of this name.
    #[must_use]
    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    /// The authority's own certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// Makes `stem.pem` and `stem.key`, for a server or client of this name; over what is there.
    ///
    /// # Panics
    ///
    /// They cannot be written.
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
