//! Interoperability with another gRPC implementation (grpcio, on gRPC's C core), and the `hotpick proxy` process.

use std::time::Duration;

use hotpick::Channel;
use hotpick::proxy::ProxyOptions;
use hotpick::tls::{ClientTls, ServerTls};
use hotpick_echo::{Backend, EchoClient, EchoRequest};
use hotpick_tests::fronts::{self, Certificates, unix};
use hotpick_tests::peers::{self, Process};
use hotpick_tests::raw::RawPeer;
use hotpick_tests::scripted::Proxied;
use hotpick_tests::{Caller, Cluster, soon};
use tokio_stream::StreamExt as _;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};

/// Starts a grpcio server. Returns its process and address.
fn python_server(name: &str) -> (Process, String) {
    let mut server = peers::python("server.py", &[name]);
    let port = server.line();
    (server, format!("127.0.0.1:{port}"))
}

/// Starts the sidecar. Returns its process and the address on which it listens.
fn proxy(arguments: &[&str]) -> (Process, String) {
    let mut process = Process::start(peers::built("hotpick").arg("proxy").args(arguments));
    let line = process.line();
    let address = line.split(' ').nth(4).unwrap_or_else(|| panic!("{line}")).to_owned();
    (process, address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_on_grpcio_behind_the_channel() {
    if !peers::available() {
        return;
    }
    let [(_a, a), (_b, b)] = ["a", "b"].map(python_server);
    let config = r#"{"healthCheckConfig": {"serviceName": "echo"}}"#.parse().expect("a config");
    let channel = Channel::builder(format!("ipv4:{a},{b}")).service_config(config).connect_lazy();
    let channel = channel.expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    assert_eq!(caller.tally(10).await.into_values().collect::<Vec<_>>(), [5, 5]);

    let limit = 64 << 20;
    let mut client = EchoClient::new(channel)
        .max_decoding_message_size(limit)
        .max_encoding_message_size(limit)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    let many = EchoRequest { text: "x".to_owned(), count: 100 };
    let answers = client.server_stream(many).await.expect("an answer").into_inner();
    assert_eq!(answers.filter(|answer| answer.is_ok()).collect::<Vec<_>>().await.len(), 100);
    let requests = tokio_stream::iter(["a", "b"].map(EchoRequest::new));
    assert_eq!(client.client_stream(requests).await.expect("an answer").into_inner().text, "ab");
    let requests = tokio_stream::iter(["a", "b"].map(EchoRequest::new));
    let answers = client.bidi(requests).await.expect("an answer").into_inner();
    let texts: Vec<_> = answers.map(|answer| answer.expect("a message").text).collect().await;
    assert_eq!(texts, ["a", "b"]);

    let large: String =
        (0..16 << 20).map(|n| char::from(b'a' + u8::try_from(n % 23).expect("small"))).collect();
    let answer = client.unary(EchoRequest::new(large.clone())).await.expect("an answer").into_inner();
    assert!(answer.text == large, "16 MiB were not echoed unchanged");
    let answer = client.unary(EchoRequest::new("compress")).await.expect("an answer");
    assert_eq!(answer.metadata().get("grpc-encoding").and_then(|value| value.to_str().ok()), Some("gzip"));
    assert_eq!(answer.into_inner().text.len(), 100_000);

    let status = client.unary(EchoRequest::new("fail")).await.expect_err("the request asks for a failure");
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "as was asked: ä%"));
    let many = EchoRequest { text: "fail".to_owned(), count: 3 };
    let mut answers = client.server_stream(many).await.expect("an answer").into_inner();
    for _ in 0..3 {
        answers.message().await.expect("a message").expect("not the last");
    }
    assert_eq!(answers.message().await.expect_err("the end").code(), Code::DataLoss);

    let token: Vec<u8> = (0..=255).collect();
    let mut request = Request::new(EchoRequest::new("hello"));
    request.metadata_mut().insert_bin("token-bin", MetadataValue::from_bytes(&token));
    let answer = client.unary(request).await.expect("an answer");
    let back = answer.metadata().get_bin("token-bin").expect("there").to_bytes().expect("binary");
    assert_eq!(back, token);

    let mut request = Request::new(EchoRequest::new("sleep"));
    request.set_timeout(Duration::from_millis(300));
    assert_eq!(client.unary(request).await.expect_err("too late").code(), Code::DeadlineExceeded);
}

/// gRPC's C core keeps what it could not parse in the table of its HPACK decoder, and fails every RPC that refers to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_grpcio_cannot_read_fails_its_own_rpc_alone() {
    if !peers::available() {
        return;
    }
    const UNARY: &str = "/hotpick.echo.Echo/Unary";
    let (_server, address) = python_server("a");
    let channel = Channel::builder(format!("static:///{address}")).connect_lazy().expect("a channel");
    let proxied = Proxied::start(&channel, ProxyOptions::default()).await;
    let mut client = RawPeer::connect(proxied.address).await;
    let malformed = [("grpc-timeout", "abc"), ("grpc-encoding", "bogus"), ("x-trace-bin", "!!!")];
    for (stream, field) in (1u32..).step_by(2).zip(malformed) {
        client.rpc(stream, UNARY, &[field]).await;
        let answer = client.answer_on(stream).await;
        assert_ne!(answer.header("grpc-status"), Some("0"), "{field:?}: {answer:?}");
    }
    let through = Channel::builder(format!("static:///{}", proxied.address)).connect_lazy();
    let mut client = EchoClient::new(through.expect("a channel"))
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    for number in 0..20 {
        let mut request = Request::new(EchoRequest::new("hello"));
        request.set_timeout(Duration::from_secs(20 + number));
        request.metadata_mut().insert_bin("x-trace-bin", MetadataValue::from_bytes(b"abc"));
        client.unary(request).await.expect("another client's malformed value is not this one's");
    }
}

#[test]
fn a_client_on_grpcio_through_the_proxy_to_servers_on_grpcio() {
    if !peers::available() {
        return;
    }
    // Only one server, because the client asks it what it has received.
    let (_server, address) = python_server("one");
    let (_proxy, proxy) = proxy(&["--listen", "127.0.0.1:0", "--target", &format!("ipv4:{address}")]);
    let output = peers::python("client.py", &[&proxy]).rest();
    assert_eq!(output.last().map(String::as_str), Some("user agent"), "{output:#?}");
    assert_eq!(output.len(), 27, "{output:#?}");
    // The target is a list, so `:authority` is the endpoint's address.
    assert!(output.contains(&format!("authority {address}")), "{output:#?}");
}

/// The client's `:authority` is the percent-encoded path of the socket.
#[test]
fn a_client_on_grpcio_through_a_unix_socket_of_the_proxy() {
    if !peers::available() {
        return;
    }
    let (_server, address) = python_server("one");
    let folder = tempfile::tempdir().expect("a folder");
    let socket = format!("unix:{}", folder.path().join("users.sock").display());
    let (_proxy, listens) = proxy(&["--listen", &socket, "--target", &format!("ipv4:{address}")]);
    let output = peers::python("client.py", &[&listens]).rest();
    assert_eq!(output.last().map(String::as_str), Some("user agent"), "{output:#?}");
}

#[test]
fn a_client_on_grpcio_through_the_proxy_with_tls() {
    if !peers::available() {
        return;
    }
    let (_server, address) = python_server("one");
    let certificates = Certificates::new();
    let (cert, key) = certificates.issue("proxy", "localhost");
    let (_proxy, proxy) = proxy(&[
        "--listen",
        "127.0.0.1:0",
        "--target",
        &format!("ipv4:{address}"),
        "--tls-cert",
        cert.to_str().expect("text"),
        "--tls-key",
        key.to_str().expect("text"),
    ]);
    let port = proxy.rsplit(':').next().expect("a port");
    let ca = certificates.ca();
    let server = format!("localhost:{port}");
    let output = peers::python("client.py", &[&server, ca.to_str().expect("text")]).rest();
    assert_eq!(output.last().map(String::as_str), Some("user agent"), "{output:#?}");
}

/// Returns a client of the proxy at this address.
async fn through(address: &str) -> (Channel, Caller) {
    let target = if address.starts_with("unix:") { address.to_owned() } else { format!("ipv4:{address}") };
    let channel = Channel::builder(target).connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    (channel, caller)
}

/// Waits until the two backends behind a proxy get the same share, which means that both are connected.
async fn even(caller: &Caller) {
    while caller.tally(10).await.into_values().collect::<Vec<_>>() != [5, 5] {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_balances_by_a_policy_and_swaps_it() {
    let cluster = Cluster::start(&["red-1", "green-1"]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let policies = folder.path().join("policies.d");
    std::fs::create_dir(&policies).expect("made");
    let endpoints = folder.path().join("endpoints.toml");
    let text: String = cluster
        .backends
        .iter()
        .map(|backend| {
            let color = backend.name().split('-').next().expect("a colour");
            format!("[[endpoints]]\naddress = \"{}\"\ncolor = \"{color}\"\n", backend.address())
        })
        .collect();
    std::fs::write(&endpoints, text).expect("written");
    let socket = format!("unix:{}", folder.path().join("proxy.sock").display());
    let config = folder.path().join("proxy.toml");
    let target = format!("file://{}", endpoints.display());
    let listener = |listen: &str, policy: &str| {
        format!("[[listeners]]\nlisten = \"{listen}\"\ntarget = \"{target}\"\npolicy = \"{policy}\"\n")
    };
    std::fs::write(&config, listener("127.0.0.1:0", "active") + &listener(&socket, "round_robin"))
        .expect("written");
    let mut process = Process::start(
        peers::built("hotpick").arg("proxy").arg("--config").arg(&config).arg("--policies").arg(&policies),
    );
    let first = process.line().split(' ').nth(4).expect("an address").to_owned();
    assert!(process.line().contains(&socket));

    let (_channel, caller) = through(&socket).await;
    soon("both backends in turn", even(&caller)).await;
    let (_channel, caller) = through(&first).await;
    soon("both backends in turn", even(&caller)).await;
    std::fs::write(policies.join("active.wasm"), hotpick_tests::standard("color")).expect("written");
    let red = async || caller.call_color("red").await.is_ok_and(|backend| backend == "red-1");
    let routed = async {
        // Round robin does not pick the same endpoint twice in a row.
        while !(red().await && red().await) {}
        for _ in 0..20 {
            assert_eq!(caller.call_color("green").await.expect("served"), "green-1");
        }
    };
    soon("the policy in the proxy", routed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_drains_on_sigterm() {
    let cluster = Cluster::start(&["a"]).await;
    let target = format!("ipv4:{}", cluster.backends[0].address());
    let (mut process, address) = proxy(&["--listen", "127.0.0.1:0", "--target", &target]);
    let (channel, caller) = through(&address).await;
    let (send, receive) = tokio::sync::mpsc::channel(1);
    let requests = tokio_stream::wrappers::ReceiverStream::new(receive);
    let mut answers = caller.client.clone().bidi(requests).await.expect("open").into_inner();
    process.terminate();
    // New streams and connections are refused.
    soon("the GOAWAY", channel.wait_for(|status| status.subconns[0].last_error().is_some())).await;
    let refused = async { while tokio::net::TcpStream::connect(&address).await.is_ok() {} };
    soon("the listener to close", refused).await;
    // The open stream goes on.
    send.send(EchoRequest::new("still")).await.expect("open");
    assert_eq!(soon("the answer", answers.next()).await.expect("one").expect("good").text, "still");
    drop(send);
    assert!(soon("the end", answers.next()).await.is_none());
    assert_eq!(process.end(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_grace_is_over_the_proxy_ends_what_is_open_with_cancelled() {
    let cluster = Cluster::start(&["a"]).await;
    let target = format!("ipv4:{}", cluster.backends[0].address());
    let (mut process, address) = proxy(&["--listen", "127.0.0.1:0", "--target", &target, "--grace", "1"]);
    let (_channel, caller) = through(&address).await;
    let (_send, receive) = tokio::sync::mpsc::channel(1);
    let requests = tokio_stream::wrappers::ReceiverStream::new(receive);
    let mut answers = caller.client.clone().bidi(requests).await.expect("open").into_inner();
    process.terminate();
    let status = soon("the end of the grace period", answers.next()).await.expect("one").expect_err("ended");
    assert_eq!((status.code(), status.message()), (Code::Cancelled, "the channel is closed"));
    assert_eq!(process.end(), Some(1));
}

/// The client has had an RPC, has none in flight, and acknowledges nothing.
#[tokio::test]
async fn a_client_that_is_frozen_does_not_hold_the_drain() {
    let cluster = Cluster::start(&["a"]).await;
    let target = format!("ipv4:{}", cluster.backends[0].address());
    let (mut process, address) = proxy(&["--listen", "127.0.0.1:0", "--target", &target]);
    let mut client = RawPeer::connect(address.parse().expect("an address")).await;
    client.rpc(1, "/hotpick.echo.Echo/Unary", &[]).await;
    assert_eq!(client.answer_on(1).await.header("grpc-status"), Some("0"));
    process.terminate();
    let begin = std::time::Instant::now();
    assert_eq!(process.end(), Some(0));
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_connection_beyond_the_limit_is_closed_and_the_others_go_on() {
    let cluster = Cluster::start(&["a"]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("proxy.toml");
    let text = format!(
        "[[listeners]]\nlisten = \"127.0.0.1:0\"\ntarget = \"ipv4:{}\"\nmax_connections = 2\n",
        cluster.backends[0].address()
    );
    std::fs::write(&config, text).expect("written");
    let (_process, address) = proxy(&["--config", config.to_str().expect("text")]);
    let address = address.parse().expect("an address");
    let mut first = RawPeer::connect(address).await;
    let mut second = RawPeer::connect(address).await;
    for client in [&mut first, &mut second] {
        client.rpc(1, "/hotpick.echo.Echo/Unary", &[]).await;
        assert_eq!(client.answer_on(1).await.header("grpc-status"), Some("0"));
    }
    let mut third = RawPeer::silent(address).await;
    soon("the connection to be closed", third.closed()).await;
    first.rpc(3, "/hotpick.echo.Echo/Unary", &[]).await;
    assert_eq!(first.answer_on(3).await.header("grpc-status"), Some("0"));
    // A closed connection makes room for another one.
    drop(second);
    let served = async {
        loop {
            let mut next = RawPeer::silent(address).await;
            if next.is_taken().await {
                return;
            }
        }
    };
    soon("room for a connection", served).await;
}

#[tokio::test]
async fn a_connection_without_a_word_does_not_hold_the_drain() {
    let cluster = Cluster::start(&["a"]).await;
    let target = format!("ipv4:{}", cluster.backends[0].address());
    let (mut process, address) = proxy(&["--listen", "127.0.0.1:0", "--target", &target]);
    let _silent = tokio::net::TcpStream::connect(&address).await.expect("connected");
    process.terminate();
    // Exits with 0, long before the grace period of 30 s ends.
    let begin = std::time::Instant::now();
    assert_eq!(process.end(), Some(0));
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_speaks_mutual_tls_to_both_sides() {
    let certificates = Certificates::new();
    let backend = Backend::start("a", "127.0.0.1:0".parse().expect("an address")).await.expect("a free port");
    let (cert, key) = certificates.issue("server", "server.test");
    let tls = ServerTls::from_files(cert, key, Some(&certificates.ca())).expect("TLS");
    let (_front, server) = fronts::tls(backend.address(), tls).await;
    certificates.issue("proxy", "localhost");
    let (cert, key) = certificates.issue("client", "client");
    let file = |name: &str| certificates.path(name).display().to_string();
    let config = certificates.path("proxy.toml");
    let text = format!(
        r#"
        [[listeners]]
        listen = "127.0.0.1:0"
        target = "ipv4:{server}"
        tls = {{ cert = "{proxy}.pem", key = "{proxy}.key", client_ca = "{ca}" }}
        upstream_tls = {{ ca = "{ca}", cert = "{proxy}.pem", key = "{proxy}.key", server_name = "server.test" }}
        "#,
        proxy = file("proxy"),
        ca = file("ca.pem"),
    );
    std::fs::write(&config, text).expect("written");
    let (_process, address) = proxy(&["--config", config.to_str().expect("text")]);
    let port = address.rsplit(':').next().expect("a port");
    let target = format!("static:///localhost:{port}");
    let tls = ClientTls::new().ca_file(certificates.ca());
    // A client without a certificate is refused.
    let stranger = Channel::builder(&target).tls(tls.clone()).connect_lazy().expect("a channel");
    let status = soon("the refusal", Caller::of(&stranger).call()).await.expect_err("refused");
    assert!(status.message().contains("received fatal alert"), "{status}");
    let client =
        Channel::builder(&target).tls(tls.identity_files(cert, key)).connect_lazy().expect("a channel");
    assert_eq!(soon("the answer", Caller::of(&client).call()).await.expect("served"), "a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_costs_the_proxy_no_memory_and_the_others_nothing() {
    let cluster = Cluster::start(&["a"]).await;
    let target = format!("ipv4:{}", cluster.backends[0].address());
    let (process, address) = proxy(&["--listen", "127.0.0.1:0", "--target", &target]);
    let (_channel, caller) = through(&address).await;
    caller.tally(100).await;
    let before = process.resident();
    let mut slow = Vec::new();
    for _ in 0..8 {
        // 1 GB for each stream.
        let request = EchoRequest { text: "s".repeat(10_000), count: 100_000 };
        slow.push(caller.client.clone().server_stream(request).await.expect("an answer"));
    }
    caller.tally(2000).await;
    let growth = process.resident().saturating_sub(before);
    assert!(growth < 100 << 10, "memory grew by {growth} KiB");
    // The messages can still be read.
    let mut first = slow.remove(0).into_inner();
    for _ in 0..1000 {
        first.message().await.expect("a message").expect("not the last");
    }
}

#[test]
fn what_the_proxy_cannot_do_it_says_in_one_sentence() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("an address").to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("proxy.toml");
    std::fs::write(&config, "[[listeners]]\nlisten = 'a:1'\ntarget = 'a:1'\npolice = 'x'\n")
        .expect("written");
    let config = config.to_str().expect("text");
    let certificates = Certificates::new();
    let (cert, _) = certificates.issue("a", "a");
    let (_, key) = certificates.issue("b", "b");
    let (cert, key) = (cert.to_str().expect("text"), key.to_str().expect("text"));
    for (arguments, expected) in [
        (vec![], "no listener is configured: set --listen and --target, or --config with [[listeners]]"),
        (vec!["--listen", &taken, "--target", "a:1"], "Address already in use"),
        (vec!["--listen", "127.0.0.1:0", "--target", "zk:///x"], "has the unknown scheme \"zk\": use dns,"),
        (
            vec!["--listen", "127.0.0.1:0", "--target", "a:1", "--policy", "color"],
            "policy \"color\" needs a policy directory: set --policies",
        ),
        (
            vec![
                "--listen",
                "127.0.0.1:0",
                "--target",
                "a:1",
                "--tls-cert",
                "none.pem",
                "--tls-key",
                "none.key",
            ],
            "TLS file \"none.pem\" cannot be read: No such file or directory",
        ),
        (
            vec!["--listen", "127.0.0.1:0", "--target", "a:1", "--tls-cert", cert, "--tls-key", key],
            "cannot be used with its key",
        ),
        (vec!["--config", "none.toml"], "configuration \"none.toml\": No such file or directory"),
        (vec!["--config", config], "proxy.toml\", line 4: unknown field `police`"),
        (
            vec!["--listen", "unix:", "--target", "a:1"],
            "cannot listen on unix:: address \"unix:\" has no path",
        ),
        // A file that is not a socket is not removed.
        (vec!["--listen", &format!("unix:{config}"), "--target", "a:1"], "Address already in use"),
    ] {
        let output = peers::built("hotpick").arg("proxy").args(&arguments).output().expect("it runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
        // One line besides the log.
        let errors: Vec<_> = stderr.lines().filter(|line| line.starts_with("hotpick: ")).collect();
        assert_eq!(errors.len(), 1, "{stderr}");
        assert!(stderr.trim_end().ends_with(errors[0]), "{stderr}");
        assert!(errors[0].contains(expected), "{arguments:?}: {stderr}");
    }
}

#[tokio::test]
async fn a_unix_socket_is_a_target_like_any_other() {
    let backend = Backend::start("a", "127.0.0.1:0".parse().expect("an address")).await.expect("a free port");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("echo.sock");
    let _front = unix(backend.address(), &path);
    let channel = Channel::builder(format!("unix:{}", path.display())).connect_lazy().expect("a channel");
    assert_eq!(Caller::ready(&channel, None).await.call().await.expect("served"), "a");
}
