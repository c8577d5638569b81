//! TLS: trusted roots, client certificates, and messages of failed handshakes.

use std::path::Path;

use hotpick::Channel;
use hotpick::connectivity::ConnectivityState::TransientFailure;
use hotpick::tls::{ClientTls, ServerTls};
use hotpick::transport::SubConnOptions;
use hotpick_echo::{Backend, EchoRequest};
use hotpick_tests::fronts::{self, Certificates, Front};
use hotpick_tests::{Caller, soon};
use tokio::net::TcpListener;
use tonic::Code;

/// A backend behind TLS.
struct Secure {
    certificates: Certificates,
    backend: Backend,
    port: u16,
    _front: Front,
}

/// Starts a backend whose certificate is for `localhost`. With `mutual`, clients must present a certificate too.
async fn secure(mutual: bool) -> Secure {
    let certificates = Certificates::new();
    let (cert, key) = certificates.issue("server", "localhost");
    let ca = certificates.ca();
    let tls = ServerTls::from_files(cert, key, mutual.then_some(ca.as_path())).expect("TLS");
    let backend = Backend::start("a", "127.0.0.1:0".parse().expect("an address")).await.expect("a free port");
    let (front, address) = fronts::tls(backend.address(), tls).await;
    Secure { certificates, backend, port: address.port(), _front: front }
}

impl Secure {
    fn channel(&self, host: &str, tls: ClientTls) -> Channel {
        let builder = Channel::builder(format!("static:///{host}:{}", self.port));
        builder.tls(tls).connect_lazy().expect("a channel")
    }

    fn trusting(&self) -> ClientTls {
        ClientTls::new().ca_file(self.certificates.ca())
    }
}

/// Waits until a channel has failed. Returns the message with which its RPCs fail.
async fn failure(channel: &Channel) -> String {
    soon("the failure", channel.wait_for(|status| status.state == TransientFailure)).await;
    Caller::of(channel).call().await.expect_err("the channel has failed").message().to_owned()
}

#[tokio::test]
async fn a_server_whose_certificate_leads_to_a_given_root_is_trusted() {
    let server = secure(false).await;
    let channel = server.channel("localhost", server.trusting());
    assert_eq!(Caller::ready(&channel, None).await.call().await.expect("served"), "a");
    // The root may also be given as PEM text.
    let pem = std::fs::read(server.certificates.ca()).expect("read");
    let channel = server.channel("localhost", ClientTls::new().ca_pem(pem));
    assert_eq!(Caller::ready(&channel, None).await.call().await.expect("served"), "a");
}

#[tokio::test]
async fn a_server_that_no_root_vouches_for_is_refused_with_a_reason() {
    let server = secure(false).await;
    let others = Certificates::new();
    let channel = server.channel("localhost", ClientTls::new().ca_file(others.ca()));
    let message = failure(&channel).await;
    assert!(
        message.contains("TLS handshake with \"localhost\" failed: invalid peer certificate"),
        "{message}"
    );
    // The system's roots, if there are any, do not include the issuer either.
    if let Ok(channel) =
        Channel::builder(format!("static:///localhost:{}", server.port)).tls(ClientTls::new()).connect_lazy()
    {
        assert!(failure(&channel).await.contains("UnknownIssuer"));
    }
}

#[tokio::test]
async fn the_certificate_must_be_made_out_to_the_name() {
    let server = secure(false).await;
    let message = failure(&server.channel("127.0.0.1", server.trusting())).await;
    assert!(message.contains("not valid for name"), "{message}");
    // The name may be set, or taken from the authority.
    let channel = server.channel("127.0.0.1", server.trusting().server_name("localhost"));
    assert_eq!(Caller::ready(&channel, None).await.call().await.expect("served"), "a");
    let channel = Channel::builder(format!("ipv4:127.0.0.1:{}", server.port))
        .authority("localhost:1")
        .tls(server.trusting())
        .connect_lazy()
        .expect("a channel");
    assert_eq!(Caller::ready(&channel, None).await.call().await.expect("served"), "a");
}

/// Otherwise a server would receive RPCs that are not meant for it (gRFC A81).
#[tokio::test]
async fn an_rpc_with_an_authority_of_its_own_goes_only_where_the_certificate_is_made_out_to_it() {
    let server = secure(false).await;
    let channel = server.channel("localhost", server.trusting());
    Caller::ready(&channel, None).await;
    let call = async |origin: &str| {
        let origin = origin.parse().expect("a URI");
        let mut client = hotpick_echo::EchoClient::with_origin(channel.clone(), origin);
        client.unary(EchoRequest::new("hello")).await.map(|_| ())
    };
    call("https://localhost").await.expect("the certificate is valid for it");
    call("https://localhost:1234").await.expect("certificates have no port");
    for _ in 0..2 {
        let status = call("https://other.example").await.expect_err("the certificate is not valid for it");
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("the RPC has the authority other.example"), "{status}");
    }
}

#[tokio::test]
async fn with_mutual_tls_the_client_must_show_its_certificate() {
    let server = secure(true).await;
    let message = failure(&server.channel("localhost", server.trusting())).await;
    assert!(message.contains("CertificateRequired") || message.contains("certificate required"), "{message}");
    let (cert, key) = server.certificates.issue("client", "client");
    let channel = server.channel("localhost", server.trusting().identity_files(cert, key));
    assert_eq!(Caller::ready(&channel, None).await.call().await.expect("served"), "a");
}

#[tokio::test]
async fn a_renewed_certificate_is_used_from_the_next_connection_on() {
    let server = secure(true).await;
    let others = Certificates::new();
    // The client's first certificate is from an authority that the server does not know.
    let (cert, key) = others.issue("client", "client");
    let tls = server.trusting().identity_files(&cert, &key);
    let mut options = SubConnOptions::default();
    options.backoff.base = std::time::Duration::from_millis(20);
    let channel = Channel::builder(format!("static:///localhost:{}", server.port))
        .subconn_options(options)
        .tls(tls)
        .connect_lazy()
        .expect("a channel");
    let message = failure(&channel).await;
    assert!(message.contains("received fatal alert"), "{message}");
    // An incomplete file changes nothing.
    std::fs::write(&cert, "-----BEGIN CERTIFICATE-----\n").expect("written");
    let dials = || channel.status().subconns[0].stats().dials;
    let before = dials();
    let redialled = async {
        while dials() < before + 3 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    soon("further attempts", redialled).await;
    let message = Caller::of(&channel).call().await.expect_err("not trusted");
    assert!(message.message().contains("received fatal alert"), "{message}");
    let (new_cert, new_key) = server.certificates.issue("client", "client");
    std::fs::rename(new_key, &key).expect("renamed");
    std::fs::rename(new_cert, &cert).expect("renamed");
    assert_eq!(Caller::ready(&channel, None).await.call().await.expect("served"), "a");
    // The server's certificate is renewed too, by one of an authority that the client does not know.
    let (cert, key) = others.issue("server", "localhost");
    std::fs::rename(cert, server.certificates.path("server.pem")).expect("renamed");
    std::fs::rename(key, server.certificates.path("server.key")).expect("renamed");
    server.backend.drain();
    let message = failure(&channel).await;
    assert!(message.contains("UnknownIssuer"), "{message}");
}

#[tokio::test]
async fn a_peer_without_tls_is_refused_with_a_reason() {
    let backend = Backend::start("a", "127.0.0.1:0".parse().expect("an address")).await.expect("a free port");
    let certificates = Certificates::new();
    let channel = Channel::builder(format!("ipv4:{}", backend.address()))
        .tls(ClientTls::new().ca_file(certificates.ca()))
        .connect_lazy()
        .expect("a channel");
    let message = failure(&channel).await;
    assert!(message.contains("TLS handshake with \"127.0.0.1\" failed"), "{message}");
}

#[tokio::test]
async fn a_configuration_of_rustls_is_used_as_it_is() {
    use hotpick::tls::rustls::{ClientConfig, RootCertStore, crypto::ring};
    use tokio_rustls::rustls::pki_types::CertificateDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;

    let server = secure(false).await;
    let config = |roots: RootCertStore| {
        ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth()
    };
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(server.certificates.ca()).expect("a certificate"))
        .expect("a root");
    let channel = server.channel("localhost", ClientTls::new().rustls_config(config(roots)));
    assert_eq!(Caller::ready(&channel, None).await.call().await.expect("served"), "a");
    // Only the roots of the given configuration are used.
    let none =
        ClientTls::new().ca_file(server.certificates.ca()).rustls_config(config(RootCertStore::empty()));
    assert!(failure(&server.channel("localhost", none)).await.contains("TLS handshake"));
}

#[tokio::test]
async fn a_peer_that_does_not_choose_http2_by_alpn_is_refused_with_a_reason() {
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio_rustls::rustls::{ServerConfig, crypto::ring};

    let certificates = Certificates::new();
    let (cert, key) = certificates.issue("server", "localhost");
    let cert = CertificateDer::from_pem_file(cert).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(key).expect("a key");
    let config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .expect("a pair");
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            open.push(acceptor.accept(stream).await);
        }
    });
    let channel = Channel::builder(format!("static:///localhost:{port}"))
        .tls(ClientTls::new().ca_file(certificates.ca()))
        .connect_lazy()
        .expect("a channel");
    let message = failure(&channel).await;
    assert!(message.contains("TLS peer \"localhost\" did not choose HTTP/2 by ALPN"), "{message}");
}

/// A PEM key with escaped line breaks, as often found in environment variables.
const KEY_ON_ONE_LINE: &str =
    r"-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49\n-----END PRIVATE KEY-----\n";

#[tokio::test]
async fn certificates_that_cannot_be_used_are_refused_with_one_sentence() {
    let certificates = Certificates::new();
    let (cert, key) = certificates.issue("a", "a");
    let (_, other_key) = certificates.issue("b", "b");
    let empty = certificates.path("empty.pem");
    std::fs::write(&empty, "").expect("written");
    let shown = |path: &Path| format!("{path:?}");
    let nowhere = certificates.path("nowhere.pem");
    for (tls, expected) in [
        (
            ClientTls::new().ca_file(&nowhere),
            format!("TLS file {} cannot be read: No such file or directory (os error 2)", shown(&nowhere)),
        ),
        (
            ClientTls::new().ca_file(&empty),
            format!("TLS file {} holds no certificate in PEM form", shown(&empty)),
        ),
        (
            ClientTls::new().ca_file(certificates.ca()).identity_files(&cert, &empty),
            format!("TLS file {} holds no private key in PEM form", shown(&empty)),
        ),
        (
            ClientTls::new().ca_file(certificates.ca()).identity_files(&cert, &other_key),
            format!(
                "certificate of TLS file {} cannot be used with its key: keys may not be consistent: KeyMismatch",
                shown(&cert)
            ),
        ),
        (
            ClientTls::new().ca_file(&key),
            format!("TLS file {} holds no certificate in PEM form", shown(&key)),
        ),
        (
            ClientTls::new()
                .ca_file(certificates.ca())
                .identity_pem(std::fs::read(&cert).expect("read"), KEY_ON_ONE_LINE),
            "the given PEM text holds no private key in PEM form: a BEGIN line is malformed".to_owned(),
        ),
        (
            ClientTls::new().ca_file(certificates.ca()).server_name("not a name"),
            "TLS server name \"not a name\" is neither a DNS name nor an IP address".to_owned(),
        ),
    ] {
        let error = Channel::builder("static:///localhost:1").tls(tls).connect_lazy().expect_err("refused");
        assert_eq!(error.to_string(), expected);
    }
}

/// grpcio accepts such a certificate; webpki does not.
#[tokio::test]
async fn a_wildcard_for_a_top_level_name_is_refused_with_what_to_do() {
    let certificates = Certificates::new();
    let (cert, key) = certificates.issue("server", "*.internal");
    let tls = ServerTls::from_files(cert, key, None).expect("TLS");
    let backend = Backend::start("a", "127.0.0.1:0".parse().expect("an address")).await.expect("a free port");
    let (_front, address) = fronts::tls(backend.address(), tls).await;
    let channel = Channel::builder(format!("static:///{address}"))
        .tls(ClientTls::new().ca_file(certificates.ca()).server_name("echo.internal"))
        .connect_lazy()
        .expect("a channel");
    let message = failure(&channel).await;
    let advice = "A wildcard for a whole top-level name, as \"*.internal\" is, is not accepted: have the certificate \
                  issued for the full name, or for \"*.NAME.internal\"";
    assert!(message.contains(advice), "{message}");
}
