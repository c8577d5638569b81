//! The channel builder: invalid settings are errors, and valid ones reach the wire.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use hotpick::channel::{ChannelBuilder, ConnectError};
use hotpick::resolver::{Address, ResolveNow, Resolver, ResolverStream, Target};
use hotpick::transport::SubConnOptions;
use hotpick::{Channel, PolicyDir};
use hotpick_echo::{EchoClient, EchoRequest};
use hotpick_tests::{Caller, Cluster, soon};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tonic::Code;

const TARGET: &str = "static:///127.0.0.1:1";

fn error(build: impl FnOnce(ChannelBuilder) -> ChannelBuilder) -> ConnectError {
    match build(Channel::builder(TARGET)).connect_lazy() {
        Ok(channel) => panic!("built {channel:?}"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn mistakes_are_errors_that_say_what_to_do() {
    for (error, sentence) in [
        (error(|builder| builder.policy("color")), "policy \"color\" cannot be provided: give the builder"),
        (error(|builder| builder.policy("Color")), "policy \"Color\" is not a policy name"),
        (error(|builder| builder.policy_config(json!({}))), "a policy configuration is given, but no policy"),
        (error(|builder| builder.authority("a b")), "invalid authority \"a b\""),
        (error(|builder| builder.origin("shop.example")), "invalid origin \"shop.example\": expected http"),
        (error(|builder| builder.origin("ftp://shop.example")), "invalid origin \"ftp://shop.example\""),
        (error(|builder| builder.user_agent("a\nb")), "invalid user agent \"a\\nb\""),
        (error(|builder| builder.user_agent("café")), "invalid user agent \"café\": expected visible ASCII"),
        (error(|builder| builder.user_agent("")), "invalid user agent \"\""),
        (error(|builder| builder.origin("https://me@shop.example")), "invalid origin"),
        (error(|builder| builder.origin("https://shop.example/path")), "invalid origin"),
        (
            error(|builder| builder.subconn_options(SubConnOptions::default().with_stream_window(0))),
            "connection option stream_window is 0: expected 65535 to 2147483647",
        ),
        (
            error(|builder| builder.subconn_options(SubConnOptions::default().with_connection_window(0))),
            "connection option connection_window is 0",
        ),
        (
            error(|builder| builder.subconn_options(SubConnOptions::default().with_max_header_list(0))),
            "connection option max_header_list is 0: expected 8192 to 16777216",
        ),
    ] {
        assert!(error.to_string().starts_with(sentence), "{error}");
    }
    // A policy comes from a directory, is native, or is the built-in round robin.
    let directory = tempfile::tempdir().expect("a directory");
    let policies = PolicyDir::open(directory.path()).expect("a directory");
    Channel::builder(TARGET).policies(&policies).policy("color").connect_lazy().expect("a channel");
    Channel::builder(TARGET)
        .policy("round_robin")
        .policy_config(json!({}))
        .connect_lazy()
        .expect("a channel");
}

#[test]
fn without_a_runtime_there_is_no_channel() {
    let error = Channel::builder(TARGET).connect_lazy().expect_err("no runtime");
    assert!(matches!(error, ConnectError::NoRuntime), "{error}");
}

/// The parts of a request that the server checks.
#[derive(Debug)]
struct Seen {
    scheme: String,
    authority: String,
    user_agent: String,
}

/// Builds a channel that is connected in memory to an HTTP/2 server, which reports its requests.
fn in_memory(
    build: impl FnOnce(ChannelBuilder) -> ChannelBuilder,
) -> (Channel, mpsc::UnboundedReceiver<Seen>) {
    let (sender, seen) = mpsc::unbounded_channel();
    let connector = move |address: Address| {
        let sender = sender.clone();
        async move {
            assert_eq!(address.to_string(), "in-memory:7");
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            tokio::spawn(async move {
                let mut server = h2::server::handshake(theirs).await.expect("HTTP/2");
                while let Some(Ok((request, mut respond))) = server.accept().await {
                    let text = |part: Option<&str>| part.unwrap_or_default().to_owned();
                    let agent = request.headers().get("user-agent").and_then(|agent| agent.to_str().ok());
                    let _ = sender.send(Seen {
                        scheme: text(request.uri().scheme_str()),
                        authority: text(request.uri().authority().map(http::uri::Authority::as_str)),
                        user_agent: text(agent),
                    });
                    let response = http::Response::builder()
                        .header("content-type", "application/grpc")
                        .header("grpc-status", "9")
                        .header("padding", "x".repeat(9 << 10))
                        .body(())
                        .expect("a response");
                    respond.send_response(response, true).expect("sent");
                }
            });
            Ok(ours)
        }
    };
    let builder = Channel::builder("static:///in-memory:7").wait_for_ready(true).connect_with(connector);
    (build(builder).connect_lazy().expect("a channel"), seen)
}

#[tokio::test]
async fn connections_can_be_in_memory_with_an_origin_and_a_user_agent() {
    let (channel, mut seen) =
        in_memory(|builder| builder.origin("https://shop.example").user_agent("shop/2.1"));
    let status =
        EchoClient::new(channel).unary(EchoRequest::new("x")).await.expect_err("the server's answer");
    assert_eq!(status.code(), Code::FailedPrecondition);
    let request = soon("a request", seen.recv()).await.expect("a request");
    assert_eq!((request.scheme.as_str(), request.authority.as_str()), ("https", "shop.example"));
    assert_eq!(request.user_agent, concat!("shop/2.1 hotpick/", env!("CARGO_PKG_VERSION")));

    let (channel, mut seen) = in_memory(|builder| builder.authority("cart.example"));
    let _ = EchoClient::new(channel).unary(EchoRequest::new("x")).await;
    let request = soon("a request", seen.recv()).await.expect("a request");
    assert_eq!((request.scheme.as_str(), request.authority.as_str()), ("http", "cart.example"));
}

#[tokio::test]
async fn a_connector_that_fails_is_the_reason_that_rpcs_see() {
    let refuse = |_: Address| async { Err::<TcpStream, _>(std::io::Error::other("the tunnel is closed")) };
    let channel = Channel::builder(TARGET).connect_with(refuse).connect_lazy().expect("a channel");
    let status = EchoClient::new(channel).unary(EchoRequest::new("x")).await.expect_err("no connection");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().ends_with("connect to 127.0.0.1:1: the tunnel is closed"), "{status}");
}

#[tokio::test]
async fn the_channels_timeout_is_that_of_every_rpc() {
    let cluster = Cluster::start(&["a"]).await;
    cluster.backends[0].set_delay(Duration::from_secs(60));
    let builder = cluster.channel().timeout(Duration::from_millis(100));
    let caller = Caller::ready(&builder.connect_lazy().expect("a channel"), None).await;
    let status = soon("the deadline", caller.call()).await.expect_err("too late");
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

/// A resolver that never reports anything.
#[derive(Debug)]
struct Silent;

impl Resolver for Silent {
    fn watch(&self, _: &Target, _: ResolveNow) -> ResolverStream {
        Box::pin(tokio_stream::pending())
    }
}

#[tokio::test(start_paused = true)]
async fn the_channels_timeout_includes_the_resolution_of_the_target() {
    let channel = Channel::builder(TARGET)
        .resolver(Silent)
        .timeout(Duration::from_millis(100))
        .connect_lazy()
        .expect("a channel");
    let begin = tokio::time::Instant::now();
    let status = EchoClient::new(channel).unary(EchoRequest::new("x")).await.expect_err("no endpoints");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn connections_leave_from_the_local_address() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let target = format!("static:///{}", listener.local_addr().expect("an address"));
    let local = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 7));
    let options = SubConnOptions::default().with_local_address(Some(local));
    let channel = Channel::builder(target).subconn_options(options).connect_lazy().expect("a channel");
    let (_stream, peer) = soon("a connection", listener.accept()).await.expect("a connection");
    assert_eq!(peer.ip(), local);
    drop(channel);
}

#[tokio::test]
async fn small_windows_slow_responses_down_but_lose_nothing() {
    let cluster = Cluster::start(&["a"]).await;
    let options = SubConnOptions::default().with_stream_window(64 << 10).with_connection_window(64 << 10);
    let builder = cluster.channel().subconn_options(options);
    let caller = Caller::ready(&builder.connect_lazy().expect("a channel"), None).await;
    let text = "x".repeat(1 << 20);
    let answer = caller.client.clone().unary(EchoRequest::new(text.clone())).await.expect("an answer");
    assert!(answer.into_inner().text == text);
}

#[tokio::test]
async fn response_headers_beyond_the_limit_fail_their_rpc_alone() {
    let options = SubConnOptions::default().with_max_header_list(8 << 10);
    let (channel, mut seen) = in_memory(|builder| builder.subconn_options(options));
    let status = EchoClient::new(channel).unary(EchoRequest::new("x")).await.expect_err("too large");
    assert_ne!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(soon("a request", seen.recv()).await.is_some());
}
