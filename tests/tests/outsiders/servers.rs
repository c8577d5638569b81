//! Bad answers of a server must not affect other RPCs of its connection.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hotpick::picker::{Pick, PickResult};
use hotpick_tests::raw::{self, DATA, END_HEADERS, END_STREAM, HEADERS, RawPeer, RawServer, literal};
use hotpick_tests::scripted::{self, Scripted};
use hotpick_tests::{Native, soon};
use tokio::task::JoinSet;
use tonic::{Code, Request};

use super::*;

/// Starts two RPCs on one connection. `odd` answers the second one, whose result is returned. Asserts that the first
/// one can still be answered afterwards.
async fn beside(odd: impl AsyncFnOnce(&mut RawPeer, u32)) -> Result<String, tonic::Status> {
    let server = RawServer::bind().await;
    let channel = to(server.address()).connect_lazy().expect("a channel");
    let caller = Caller::of(&channel);
    let neighbour = begin(&caller, hello());
    let mut peer = server.accept(&[]).await;
    let first = peer.request().await;
    let call = begin(&caller, hello());
    let second = peer.request().await;
    odd(&mut peer, second).await;
    let ended = soon("the malformed answer", call).await.expect("no panic");
    peer.answer(first, "neighbour").await;
    let served = soon("the neighbour", neighbour).await.expect("no panic");
    assert_eq!(served.expect("the neighbour is served"), "neighbour");
    ended
}

/// Returns a header block of a trailers-only response: a valid head and these fields.
fn odd_head(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    // `:status: 200` from the static table.
    let mut block = vec![0x88];
    block.extend(literal("content-type", "application/grpc"));
    block.extend(fields.iter().flat_map(|(name, value)| literal(name, value)));
    block
}

#[tokio::test]
async fn an_answer_with_characters_that_no_header_has_is_read_and_its_neighbours_live() {
    for (name, value, message) in [
        (&b"grpc-message"[..], &b"a\nb"[..], "a b"),
        (b"grpc-message", b"a\x7fb", "a b"),
        (b"x-a", b"\x01", ""),
        (b"X-Up", b"1", ""),
        (b"x y", b"1", ""),
        (b":foo", b"1", ""),
    ] {
        let block = odd_head(&[(b"grpc-status", b"3"), (name, value)]);
        let ended = beside(async |peer, stream| peer.headers(stream, &block, END_STREAM).await).await;
        let status = ended.expect_err("not OK");
        let name = String::from_utf8_lossy(name);
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, message), "{name}");
    }
}

#[tokio::test]
async fn a_malformed_answer_fails_its_own_rpc_alone() {
    let status = |value: &str| [literal(":status", value), literal("grpc-status", "0")].concat();
    let long = "m".repeat(1_200 << 10);
    let cases = [
        ("status 0", status("0")),
        ("status abc", status("abc")),
        ("no status", literal("grpc-status", "0")),
        ("connection", odd_head(&[(b"connection", b"close"), (b"grpc-status", b"0")])),
        ("content-length", odd_head(&[(b"content-length", b"7"), (b"grpc-status", b"0")])),
        ("1.2 MiB of trailers", odd_head(&[(b"grpc-status", b"3"), (b"grpc-message", long.as_bytes())])),
    ];
    for (what, block) in cases {
        let ended = beside(async |peer, stream| peer.headers(stream, &block, END_STREAM).await).await;
        assert_eq!(ended.expect_err("malformed").code(), Code::Internal, "{what}");
    }
}

/// The error is not confined to one stream: all RPCs of the connection fail as when a connection is lost, and the
/// subconn's status names the cause.
#[tokio::test]
async fn what_h2_ends_a_connection_for_is_unavailable_to_all_and_the_endpoint_says_why() {
    let server = RawServer::bind().await;
    let channel = to(server.address()).connect_lazy().expect("a channel");
    let caller = Caller::of(&channel);
    let neighbour = begin(&caller, hello());
    let mut peer = server.accept(&[]).await;
    let first = peer.request().await;
    // DATA on a stream that was never opened.
    peer.send(DATA, 0, first + 100, b"abc").await;
    let status =
        soon("the failure", neighbour).await.expect("no panic").expect_err("the connection is closed");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let failed = channel.wait_for(|status| status.subconns.iter().any(|one| one.last_error().is_some()));
    let status = soon("an error", failed).await;
    let error = status.subconns[0].last_error().expect("an error");
    assert!(error.contains("protocol error"), "{error}");
    // The channel reconnects.
    let call = begin(&caller, hello());
    let mut next = server.accept(&[]).await;
    let stream = next.request().await;
    next.answer(stream, "again").await;
    assert_eq!(soon("the answer", call).await.expect("no panic").expect("served"), "again");
}

/// Jetty sends an empty DATA frame with each response.
#[tokio::test]
async fn empty_data_frames_have_no_number_that_is_too_many() {
    let ended = beside(async |peer, stream| {
        peer.begin_answer(stream).await;
        for _ in 0..500 {
            peer.send(DATA, 0, stream, b"").await;
        }
        peer.send(HEADERS, END_HEADERS | END_STREAM, stream, &literal("grpc-status", "5")).await;
    });
    assert_eq!(ended.await.expect_err("not found").code(), Code::NotFound);
}

/// 1,100 malformed answers: h2 allows 1,024 per connection by default.
#[tokio::test]
async fn answers_that_are_malformed_have_no_number_that_ends_the_connection() {
    let server = RawServer::bind().await;
    let channel = to(server.address()).connect_lazy().expect("a channel");
    let caller = Caller::of(&channel);
    let neighbour = begin(&caller, hello());
    let mut peer = server.accept(&[]).await;
    let first = peer.request().await;
    let block = odd_head(&[(b"connection", b"close"), (b"grpc-status", b"0")]);
    for _ in 0..1_100 {
        let call = begin(&caller, hello());
        let stream = peer.request().await;
        peer.headers(stream, &block, END_STREAM).await;
        let status = soon("the malformed answer", call).await.expect("no panic").expect_err("malformed");
        assert_eq!(status.code(), Code::Internal);
    }
    peer.answer(first, "neighbour").await;
    assert_eq!(soon("the neighbour", neighbour).await.expect("no panic").expect("served"), "neighbour");
}

#[tokio::test]
async fn a_reset_with_no_error_before_the_trailers_is_an_error() {
    for with_message in [false, true] {
        let ended = beside(async |peer, stream| {
            if with_message {
                peer.begin_answer(stream).await;
                peer.send(DATA, 0, stream, b"\0\0\0\0\0").await;
            }
            peer.reset(stream, 0).await;
        });
        assert_eq!(ended.await.expect_err("no trailers").code(), Code::Internal);
    }
    // After the trailers, NO_ERROR only means that the rest of the request is not needed.
    let ended = beside(async |peer, stream| {
        peer.answer(stream, "odd").await;
        peer.reset(stream, 0).await;
    });
    assert_eq!(ended.await.expect("served"), "odd");
}

/// The server answers 2,000 RPCs after their deadlines, then the neighbour.
#[tokio::test]
async fn answers_that_come_too_late_have_no_number_that_ends_the_connection() {
    let server = RawServer::bind().await;
    let channel = to(server.address()).connect_lazy().expect("a channel");
    let caller = Caller::of(&channel);
    let neighbour = begin(&caller, hello());
    let mut peer = server.accept(&[]).await;
    let first = peer.request().await;
    for _ in 0..20 {
        let calls: Vec<_> = (0..100).map(|_| begin(&caller, within(hello(), 50))).collect();
        let mut streams = Vec::new();
        for _ in 0..calls.len() {
            streams.push(peer.request().await);
        }
        for call in calls {
            let status = soon("its deadline", call).await.expect("no panic").expect_err("late");
            assert_eq!(status.code(), Code::DeadlineExceeded);
        }
        for stream in streams {
            peer.answer(stream, "late").await;
        }
    }
    peer.answer(first, "neighbour").await;
    assert_eq!(soon("the neighbour", neighbour).await.expect("no panic").expect("served"), "neighbour");
}

/// A server may answer a large request with such a GOAWAY, which also ends other RPCs in flight.
#[tokio::test]
async fn after_a_goaway_with_an_error_an_rpc_is_sent_again_once() {
    let connections = Arc::new(AtomicUsize::new(0));
    let mut servers = JoinSet::new();
    let mut addresses = Vec::new();
    for _ in 0..5 {
        let server = RawServer::bind().await;
        addresses.push(server.address().to_string());
        let connections = Arc::clone(&connections);
        servers.spawn(async move {
            loop {
                let mut peer = server.accept(&[]).await;
                let connections = Arc::clone(&connections);
                tokio::spawn(async move {
                    while let Some(frame) = peer.frame().await {
                        if frame.kind == HEADERS {
                            connections.fetch_add(1, Ordering::SeqCst);
                            peer.goaway(0, 11).await;
                            return;
                        }
                    }
                });
            }
        });
    }
    let channel = channel_to_all(&addresses);
    let caller = Caller::ready(&channel, None).await;
    let mut request: Request<_> = hello();
    request.metadata_mut().insert("x-big", "v".repeat(20 << 10).parse().expect("metadata"));
    let status = soon("the failure", caller.request(request)).await.expect_err("no server accepts it");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(connections.load(Ordering::SeqCst), 2, "{status}");
}

fn channel_to_all(addresses: &[String]) -> Channel {
    let target = format!("static:///{}", addresses.join(","));
    Channel::builder(target).connect_lazy().expect("a channel")
}

/// The policy gets the same code as the caller.
#[tokio::test]
async fn a_status_of_http_is_the_code_that_policies_and_metrics_see() {
    let server = Scripted::start(async |(request, mut respond): scripted::Exchange| {
        let ends_at_once = request.uri().path().ends_with("Unary");
        let response = http::Response::builder().status(503).header("content-type", "text/html");
        let response = response.body(()).expect("a response");
        let mut stream = respond.send_response(response, ends_at_once).expect("sent");
        if !ends_at_once {
            let _ = stream.send_data("<html/>".into(), true);
        }
    })
    .await;
    let native = Native::new(|ready, _| match ready.ready().first() {
        Some(first) => PickResult::Pick(Pick::to(first.clone())),
        None => PickResult::Queue,
    });
    let ledger = native.ledger();
    let channel = channel(server.address()).native_policy(native).connect_lazy().expect("a channel");
    let caller = Caller::of(&channel);
    let status = soon("the failure", caller.call()).await.expect_err("503");
    assert_eq!(status.code(), Code::Unavailable);
    let (_send, receive) = mpsc::channel(1);
    let status = caller.client.clone().bidi(ReceiverStream::new(receive)).await.expect_err("503");
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.message(), "the response is not a gRPC response: HTTP status 503 Service Unavailable");
    let ends = soon("both outcomes", async {
        loop {
            let ends = ledger.ends();
            if ends.len() == 2 {
                return ends;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert_eq!(ends.await, [(Some(Code::Unavailable), false); 2]);
}

/// The proxy forwards the server's head without `content-length`, since the response may end early.
#[tokio::test]
async fn a_response_that_fails_midway_promises_no_length() {
    let server = Scripted::start(async |(_, mut respond): scripted::Exchange| {
        let mut head = scripted::head();
        head.headers_mut().insert("content-length", 600.into());
        let mut stream = respond.send_response(head, false).expect("sent");
        let _ = stream.send_data(vec![0; 100].into(), false);
        stream.send_reset(h2::Reason::INTERNAL_ERROR);
    })
    .await;
    let channel = channel(server.address()).connect_lazy().expect("a channel");
    let (proxied, _caller) = proxied(&channel).await;
    let mut client = RawPeer::connect(proxied.address).await;
    client.rpc(1, "/hotpick.echo.Echo/Unary", &[]).await;
    let answer = client.answer_on(1).await;
    assert_eq!(answer.header("content-length"), None);
    assert_eq!(answer.header("grpc-status"), Some("13"));
}

#[tokio::test]
async fn a_deadline_that_has_passed_sends_nothing() {
    let paths = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&paths);
    let server = Scripted::start(move |(request, mut respond): scripted::Exchange| {
        seen.lock().expect("no panic").push(request.uri().path().to_owned());
        async move { scripted::answer(&mut respond, "a") }
    })
    .await;
    let channel = channel(server.address()).connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    let status = caller.request(within(hello(), 0)).await.expect_err("the deadline has passed");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    caller.call().await.expect("served");
    assert_eq!(paths.lock().expect("no panic").len(), 1);
}

/// The server stops reading while its client has more to send than the buffers hold. Then it closes the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_and_dies_is_found_out_and_its_successor_is_used() {
    let server = RawServer::bind().await;
    let channel = channel(server.address()).connect_lazy().expect("a channel");
    let caller = Caller::of(&channel);
    let text = "x".repeat(60_000);
    let upload = || Request::new(hotpick_echo::EchoRequest::new(&text));
    let calls: Vec<_> = (0..200).map(|_| begin(&caller, upload())).collect();
    let mut peer = server.accept(&[(4, 1 << 20)]).await;
    // Grant flow control for all requests, which do not fit in the buffers. Send answers of some MiB, then neither read
    // nor write.
    while peer.frame().await.expect("a request").stream != 7 {}
    peer.send(8, 0, 0, &(1_u32 << 30).to_be_bytes()).await;
    for stream in [1, 3, 5, 7] {
        peer.begin_answer(stream).await;
        for _ in 0..60 {
            peer.send(DATA, 0, stream, &[0; 16 << 10]).await;
        }
    }
    drop(peer);
    // The successor also gets the requests that had not been sent.
    let successor = tokio::spawn(async move {
        let mut next = server.accept(&[(4, 1 << 20)]).await;
        next.send(8, 0, 0, &(1_u32 << 30).to_be_bytes()).await;
        loop {
            let stream = next.request().await;
            next.answer(stream, "next").await;
        }
    });
    let mut failed = 0;
    for call in calls {
        match soon("the result", call).await.expect("no panic") {
            Ok(backend) => assert_eq!(backend, "next"),
            Err(status) => failed += usize::from(status.code() == Code::Unavailable),
        }
    }
    assert!(failed > 4, "requests already sent must fail, but only {failed} did");
    assert_eq!(soon("the answer", caller.request(hello())).await.expect("served"), "next");
    successor.abort();
}

/// grpc-core's clients fail every later RPC that refers to such an entry of the table, whichever server answers it.
#[tokio::test]
async fn a_malformed_status_of_one_server_is_not_in_the_table_of_a_client() {
    /// The first bits of a literal that is never indexed (RFC 7541, 6.2.3), and of one that is.
    const REPRESENTATIONS: [u8; 2] = [0x10, 0x40];
    let server = RawServer::bind().await;
    let channel = channel(server.address()).connect_lazy().expect("a channel");
    let proxied = Proxied::start(&channel, ProxyOptions::default()).await;
    let mut client = RawPeer::connect(proxied.address).await;
    client.rpc(1, "/a.B/C", &[]).await;
    let mut peer = server.accept(&[]).await;
    for (stream, status, representation) in
        [(1, "abc", REPRESENTATIONS[0]), (3, "-1", REPRESENTATIONS[0]), (5, "7", REPRESENTATIONS[1])]
    {
        if stream > 1 {
            client.rpc(stream, "/a.B/C", &[]).await;
        }
        let at = peer.request().await;
        peer.begin_answer(at).await;
        peer.send(DATA, 0, at, b"\0\0\0\0\0").await;
        let trailers = literal("grpc-status", status);
        peer.send(HEADERS, END_HEADERS | END_STREAM, at, &trailers).await;
        let trailers = loop {
            let frame = client.frame().await.expect("the connection goes on");
            if frame.kind == HEADERS && frame.flags & END_STREAM != 0 {
                break frame.payload;
            }
        };
        assert_eq!(trailers[0], representation, "{status}: {trailers:?}");
    }
}

/// What the proxy reads of an upload so that it does not pile up is not sent, and does not count as sent.
#[tokio::test]
async fn an_upload_that_a_server_has_not_taken_can_be_sent_again() {
    const LENGTH: usize = 200 << 10;
    let server = RawServer::bind().await;
    let channel = channel(server.address()).connect_lazy().expect("a channel");
    let proxied = Proxied::start(&channel, ProxyOptions::default()).await;
    let mut client = RawPeer::connect(proxied.address).await;
    client.synchronize().await;
    client.begin_rpc(1, "/a.B/C", &[]).await;
    // No window: SETTINGS_INITIAL_WINDOW_SIZE.
    let mut peer = server.accept(&[(4, 0)]).await;
    let stream = soon("a request", peer.begun_request()).await;
    for part in vec![b'x'; LENGTH].chunks(1 << 10) {
        client.send(DATA, 0, 1, part).await;
    }
    for _ in 0..3 {
        client.synchronize().await;
    }
    peer.reset(stream, raw::REFUSED_STREAM).await;
    let again = tokio::select! {
        again = peer.begun_request() => again,
        answer = client.answer_on(1) => panic!("not sent again: {answer:?}"),
    };
    assert_ne!(again, stream);
    peer.settings(&[(4, 1 << 20)]).await;
    // WINDOW_UPDATE of the connection.
    peer.send(8, 0, 0, &(1u32 << 20).to_be_bytes()).await;
    client.send(DATA, END_STREAM, 1, b"").await;
    let mut received = 0;
    loop {
        let frame = soon("its data", peer.frame()).await.expect("the connection goes on");
        if frame.kind == DATA && frame.stream == again {
            received += frame.payload.len();
            if frame.flags & END_STREAM != 0 {
                break;
            }
        }
    }
    assert_eq!(received, LENGTH);
    peer.answer(again, "a").await;
    assert_eq!(client.answer_on(1).await.header("grpc-status"), Some("0"));
}

/// The client takes nothing of an endless response: what is left of it is dropped at the deadline.
#[tokio::test]
async fn a_response_that_nobody_takes_ends_at_its_deadline() {
    let server = RawServer::bind().await;
    let channel = channel(server.address()).connect_lazy().expect("a channel");
    let proxied = Proxied::start(&channel, ProxyOptions::default()).await;
    let mut client = RawPeer::connect(proxied.address).await;
    client.settings(&[(4, 0)]).await;
    client.rpc(1, "/a.B/C", &[("grpc-timeout", "300m")]).await;
    let mut peer = server.accept(&[]).await;
    let stream = peer.request().await;
    peer.begin_answer(stream).await;
    for _ in 0..100 {
        peer.send(DATA, 0, stream, &[0; 1000]).await;
    }
    let answer = client.answer_on(1).await;
    assert_eq!(answer.reset, Some(8), "{answer:?}");
    soon("the end of the RPC", async {
        while proxied.proxy.rpcs() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}
