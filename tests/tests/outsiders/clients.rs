//! Bad requests of the proxy's clients must not affect other RPCs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hotpick_tests::raw::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, RawPeer, RawServer, literal, request,
};
use hotpick_tests::scripted::{self, Scripted};
use hotpick_tests::{Cluster, soon};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::*;

const UNARY: &str = "/hotpick.echo.Echo/Unary";
const RESOURCE_EXHAUSTED: &str = "8";
const WINDOW_UPDATE: u8 = 8;

/// An event of an upload, as a server sees it.
#[derive(Debug, PartialEq, Eq)]
enum Upload {
    Begun,
    Whole,
    Reset(h2::Reason),
}

/// Starts a server that reports the events of each upload.
async fn upload_server(answers_first: bool) -> (Scripted, mpsc::UnboundedReceiver<Upload>) {
    let (events, received) = mpsc::unbounded_channel();
    let server = Scripted::start(move |(request, mut respond): scripted::Exchange| {
        let events = events.clone();
        let _ = events.send(Upload::Begun);
        async move {
            let mut stream = answers_first.then(|| {
                let mut stream = respond.send_response(scripted::head(), false).expect("sent");
                stream.send_data(Bytes::from_static(b"\0\0\0\0\0"), false).expect("sent");
                stream
            });
            let mut body = request.into_body();
            let end = loop {
                match body.data().await {
                    Some(Ok(data)) => drop(body.flow_control().release_capacity(data.len())),
                    Some(Err(error)) => break Upload::Reset(error.reason().expect("a reset")),
                    None => break Upload::Whole,
                }
            };
            let _ = events.send(end);
            match &mut stream {
                Some(stream) => drop(stream.send_trailers(http::HeaderMap::new())),
                None => scripted::answer(&mut respond, "a"),
            }
        }
    })
    .await;
    (server, received)
}

/// Holds for any reset code, before and after the server's answer.
#[tokio::test]
async fn a_cancelled_upload_never_looks_whole_to_the_server() {
    for answers_first in [false, true] {
        let (server, mut events) = upload_server(answers_first).await;
        let channel = channel(server.address()).connect_lazy().expect("a channel");
        let (proxied, _caller) = proxied(&channel).await;
        let mut next = async || soon("an upload event", events.recv()).await.expect("the server runs");
        let half = async || {
            let mut client = RawPeer::connect(proxied.address).await;
            client.begin_rpc(1, UNARY, &[]).await;
            client.send(DATA, 0, 1, b"\0\0\0\x10\0half").await;
            client
        };
        for code in [0, 2, 8] {
            let mut client = half().await;
            assert_eq!(next().await, Upload::Begun);
            if answers_first {
                while client.frame().await.expect("an answer").kind != DATA {}
            }
            client.reset(1, code).await;
            let end = next().await;
            assert_eq!(
                end,
                Upload::Reset(h2::Reason::CANCEL),
                "reset code {code}, answers first: {answers_first}"
            );
        }
        // A lost client connection resets the upload too.
        let client = half().await;
        assert_eq!(next().await, Upload::Begun);
        drop(client);
        assert_eq!(next().await, Upload::Reset(h2::Reason::CANCEL));
        // A complete upload is forwarded as complete.
        let mut client = RawPeer::connect(proxied.address).await;
        client.rpc(1, UNARY, &[]).await;
        assert_eq!([next().await, next().await], [Upload::Begun, Upload::Whole]);
    }
}

/// gRPC's clients percent-encode the path of a Unix socket. Others do not.
#[tokio::test]
async fn any_authority_will_do() {
    let cluster = Cluster::start(&["a"]).await;
    let channel = cluster.channel().connect_lazy().expect("a channel");
    let (proxied, _caller) = proxied(&channel).await;
    for authority in
        ["localhost", "a.example:80", "[::1]:50", "tmp%2Fusers.sock", "/run/users.sock", "a b", "x,y"]
    {
        let mut client = RawPeer::connect(proxied.address).await;
        // `:method: POST` and `:scheme: http` from the static table.
        let mut block = vec![0x83, 0x86];
        for (name, value) in [
            (":path", UNARY),
            (":authority", authority),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            block.extend(literal(name, value));
        }
        client.headers(1, &block, 0).await;
        client.send(DATA, END_STREAM, 1, hotpick_tests::raw::HELLO).await;
        let answer = client.answer_on(1).await;
        assert_eq!(answer.header("grpc-status"), Some("0"), "{authority}: {answer:?}");
    }
}

#[tokio::test]
async fn a_path_with_a_fragment_is_not_served_as_another_path() {
    let cluster = Cluster::start(&["a"]).await;
    let channel = cluster.channel().connect_lazy().expect("a channel");
    let (proxied, _caller) = proxied(&channel).await;
    let mut client = RawPeer::connect(proxied.address).await;
    client.rpc(1, &format!("{UNARY}#x"), &[]).await;
    assert_eq!(client.answer_on(1).await.reset, Some(1), "PROTOCOL_ERROR");
    client.rpc(3, UNARY, &[]).await;
    assert_eq!(client.answer_on(3).await.header("grpc-status"), Some("0"));
}

/// A request that HTTP/2 or gRPC does not allow does not affect other RPCs of the connection.
#[tokio::test]
async fn an_odd_request_is_answered_alone() {
    let cluster = Cluster::start(&["a"]).await;
    let channel = cluster.channel().connect_lazy().expect("a channel");
    let (proxied, _caller) = proxied(&channel).await;
    let mut client = RawPeer::connect(proxied.address).await;
    let mut stream = 1;
    for (what, fields, status, reset) in [
        ("newline", vec![(&b"x-a"[..], &b"a\nb"[..])], Some("0"), None),
        ("NUL", vec![(b"x-a", b"a\0b")], Some("0"), None),
        ("DEL", vec![(b"x-a", b"\x7f")], Some("0"), None),
        ("capital", vec![(b"X-A", b"b")], Some("0"), None),
        ("name with a space", vec![(b"a b", b"c")], Some("13"), None),
        ("name with a colon", vec![(b":foo", b"c")], Some("13"), None),
        ("connection", vec![(b"connection", b"close")], None, Some(1)),
        ("te", vec![(b"te", b"gzip")], None, Some(1)),
        ("content-length", vec![(b"content-length", b"9999")], None, Some(1)),
    ] {
        let mut block = request(UNARY);
        block.extend(fields.iter().flat_map(|(name, value)| literal(name, value)));
        client.headers(stream, &block, 0).await;
        client.send(DATA, END_STREAM, stream, hotpick_tests::raw::HELLO).await;
        let answer = client.answer_on(stream).await;
        assert_eq!((answer.header("grpc-status"), answer.reset), (status, reset), "{what}: {answer:?}");
        stream += 2;
    }
    client.rpc(stream, UNARY, &[]).await;
    assert_eq!(client.answer_on(stream).await.header("grpc-status"), Some("0"));
}

#[tokio::test]
async fn metadata_beyond_the_limit_fails_its_rpc_alone_and_with_a_status() {
    let cluster = Cluster::start(&["a"]).await;
    let channel = cluster.channel().connect_lazy().expect("a channel");
    let (proxied, _caller) = proxied(&channel).await;
    let mut client = RawPeer::connect(proxied.address).await;
    let mut stream = 1;
    for (kib, status) in
        [(8, "0"), (70, RESOURCE_EXHAUSTED), (130, RESOURCE_EXHAUSTED), (1000, RESOURCE_EXHAUSTED)]
    {
        client.rpc(stream, UNARY, &[("x-big", &"v".repeat(kib << 10))]).await;
        let answer = client.answer_on(stream).await;
        assert_eq!(answer.header("grpc-status"), Some(status), "{kib} KiB");
        stream += 2;
    }
    // Beyond the announced SETTINGS_MAX_HEADER_LIST_SIZE: the answer is an HTTP status, and other RPCs go on.
    client.rpc(stream, UNARY, &[("x-big", &"v".repeat(1100 << 10))]).await;
    assert_eq!(client.answer_on(stream).await.header(":status"), Some("431"));
    client.rpc(stream + 2, UNARY, &[]).await;
    assert_eq!(client.answer_on(stream + 2).await.header("grpc-status"), Some("0"));
}

/// Requests and their resets are read together, as after a time without CPU.
#[tokio::test]
async fn thousands_of_rpcs_that_are_given_up_before_they_are_read_end_nothing() {
    let cluster = Cluster::start(&["a"]).await;
    let channel = cluster.channel().connect_lazy().expect("a channel");
    let (proxied, _caller) = proxied(&channel).await;
    let mut client = RawPeer::connect(proxied.address).await;
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    let mut all = Vec::new();
    for stream in (1..4_001).step_by(2) {
        all.extend(frame(HEADERS, END_HEADERS, stream, &request(UNARY)));
        all.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    client.bytes(&all).await;
    client.rpc(4_001, UNARY, &[]).await;
    assert_eq!(client.answer_on(4_001).await.header("grpc-status"), Some("0"));
}

/// DATA that was in flight when the proxy ended a stream is not a client error.
#[tokio::test]
async fn uploads_that_are_refused_early_end_nothing() {
    let server = Scripted::start(async |(_, mut respond): scripted::Exchange| {
        let mut head = scripted::head();
        head.headers_mut().insert("grpc-status", 7.into());
        let _ = respond.send_response(head, true);
    })
    .await;
    let channel = channel(server.address()).connect_lazy().expect("a channel");
    let (proxied, _caller) = proxied(&channel).await;
    let mut client = RawPeer::connect(proxied.address).await;
    for stream in (1..600).step_by(2) {
        client.begin_rpc(stream, UNARY, &[]).await;
        assert_eq!(client.answer_on(stream).await.header("grpc-status"), Some("7"));
    }
    // The client notices the refusals late.
    for stream in (1..600).step_by(2) {
        client.send(DATA, 0, stream, &[0; 1024]).await;
        client.send(DATA, END_STREAM, stream, &[0; 1024]).await;
    }
    client.rpc(601, UNARY, &[]).await;
    assert_eq!(client.answer_on(601).await.header("grpc-status"), Some("7"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_dropped_by_the_hundred_touch_no_other() {
    let cluster = Cluster::start(&["a"]).await;
    let silent_server = Scripted::start(async |(_, mut respond): scripted::Exchange| {
        // Hold the RPC until it is reset.
        let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
    })
    .await;
    let backend = cluster.backends[0].address();
    let both = Channel::builder(format!("static:///{backend}")).connect_lazy().expect("a channel");
    let (proxy, caller) = proxied(&both).await;
    let mut neighbour = Neighbour::open(&caller).await;
    let silent = channel(silent_server.address()).connect_lazy().expect("a channel");
    let (holding, holder) = proxied(&silent).await;
    for round in 0..20 {
        let calls: Vec<_> = (0..300).map(|_| begin(&holder, hello())).collect();
        soon("300 RPCs in flight", async {
            while holding.proxy.rpcs() < 300 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        calls.iter().for_each(tokio::task::JoinHandle::abort);
        soon("the end of all RPCs", async {
            while holding.proxy.rpcs() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        assert_eq!(silent_server.accepted(), 1, "round {round}");
        neighbour.assert_answers(&format!("round {round}")).await;
    }
    assert_eq!(proxy.proxy.rpcs(), 1);
}

/// The server does not answer, so that the RPCs up to the limit stay in flight.
#[tokio::test]
async fn rpcs_beyond_the_limit_fail_and_those_within_it_do_not() {
    let silent_server = Scripted::start(async |(_, mut respond): scripted::Exchange| {
        let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
    })
    .await;
    let channel = channel(silent_server.address()).connect_lazy().expect("a channel");
    let mut options = ProxyOptions::default();
    options.max_rpcs = 3;
    let proxied = Proxied::start(&channel, options).await;
    let mut client = RawPeer::connect(proxied.address).await;
    for stream in [1, 3, 5, 7] {
        client.rpc(stream, UNARY, &[]).await;
    }
    let answer = client.answer_on(7).await;
    assert_eq!(answer.header("grpc-status"), Some("14"), "{answer:?}");
    client.reset(1, 8).await;
    soon("fewer RPCs than the limit", async {
        while proxied.proxy.rpcs() > 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    client.rpc(9, UNARY, &[]).await;
    client.rpc(11, UNARY, &[]).await;
    assert_eq!(client.answer_on(11).await.header("grpc-status"), Some("14"));
}

/// Clients send nothing, one byte, half of the preface, or all of it without SETTINGS.
#[tokio::test]
async fn a_client_that_does_not_finish_its_preface_is_closed_in_time() {
    let cluster = Cluster::start(&["a"]).await;
    let channel = cluster.channel().connect_lazy().expect("a channel");
    let mut options = ProxyOptions::default();
    options.handshake_timeout = Duration::from_millis(100);
    let proxied = Proxied::start(&channel, options).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for sent in [0, 1, 12, 24] {
        let mut client = RawPeer::silent(proxied.address).await;
        client.bytes(&preface[..sent]).await;
        soon("the connection to be closed", client.closed()).await;
    }
    // A client that has finished its preface stays connected.
    let mut client = RawPeer::connect(proxied.address).await;
    client.rpc(1, UNARY, &[]).await;
    client.answer_on(1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    client.rpc(3, UNARY, &[]).await;
    assert_eq!(client.answer_on(3).await.header("grpc-status"), Some("0"));
}

/// A frozen client acknowledges nothing, not even the PING after GOAWAY.
#[tokio::test]
async fn a_drain_does_not_wait_for_a_client_that_is_frozen_and_has_no_rpc() {
    let cluster = Cluster::start(&["a"]).await;
    let channel = cluster.channel().connect_lazy().expect("a channel");
    let mut options = ProxyOptions::default();
    options.drain_timeout = Duration::from_millis(100);
    let proxied = Proxied::start(&channel, options).await;
    let mut frozen = RawPeer::connect(proxied.address).await;
    frozen.rpc(1, UNARY, &[]).await;
    frozen.answer_on(1).await;
    let mut half = RawPeer::silent(proxied.address).await;
    half.bytes(b"PRI").await;
    soon("the drain", proxied.drain()).await;
}

/// It has been quiet for longer than it may be while the proxy drains, but has not been told to.
#[tokio::test]
async fn a_drain_notifies_a_client_however_long_it_was_quiet() {
    let cluster = Cluster::start(&["a"]).await;
    let channel = cluster.channel().connect_lazy().expect("a channel");
    let mut options = ProxyOptions::default();
    options.drain_timeout = Duration::from_millis(200);
    let proxied = Proxied::start(&channel, options).await;
    let mut client = RawPeer::connect(proxied.address).await;
    client.rpc(1, UNARY, &[]).await;
    client.answer_on(1).await;
    tokio::time::sleep(2 * options.drain_timeout).await;
    let draining = tokio::spawn(proxied.drain());
    // An RPC that is sent before the GOAWAY arrives is served.
    client.rpc(3, UNARY, &[]).await;
    while client.frame().await.expect("GOAWAY").kind != GOAWAY {}
    assert_eq!(client.answer_on(3).await.header("grpc-status"), Some("0"));
    client.closed().await;
    drop(client);
    soon("the drain", draining).await.expect("no panic");
}

/// A proxy of a server with long answers. Its drains wait for 100 ms only.
struct LongAnswers {
    _server: Scripted,
    _channel: Channel,
    proxied: Proxied,
    /// Number of answers of the server.
    answered: tokio::sync::watch::Receiver<u32>,
}

/// The server sends answers of `bytes` bytes when it has `rpcs` RPCs: a client that does not read keeps the proxy from reading its
/// next requests.
async fn proxy_of_long_answers(bytes: usize, rpcs: u32) -> LongAnswers {
    let (count, answered) = tokio::sync::watch::channel(0);
    let all = Arc::new(tokio::sync::Barrier::new(rpcs as usize));
    let server = Scripted::start(move |(_, mut respond): scripted::Exchange| {
        let (count, all) = (count.clone(), Arc::clone(&all));
        async move {
            all.wait().await;
            let mut stream = respond.send_response(scripted::head(), false).expect("sent");
            stream.send_data(Bytes::from(vec![0; bytes]), false).expect("sent");
            let ok = http::HeaderValue::from_static("0");
            let trailers = http::HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), ok)]);
            stream.send_trailers(trailers).expect("sent");
            count.send_modify(|count| *count += 1);
        }
    })
    .await;
    let channel = channel(server.address()).connect_lazy().expect("a channel");
    let mut options = ProxyOptions::default();
    options.drain_timeout = Duration::from_millis(100);
    let proxied = Proxied::start(&channel, options).await;
    LongAnswers { _server: server, _channel: channel, proxied, answered }
}

/// The answers are with h2, because of the client's windows, or with the kernel; few tasks have more to send, or none. The
/// client opens its windows as it reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_waits_until_the_client_has_its_answers() {
    const SETTINGS_INITIAL_WINDOW: u16 = 4;
    const DEFAULT_WINDOW: u32 = 65_535;
    // RPCs, bytes of each answer, and the client's windows of a stream and of the connection.
    for (rpcs, length, of_stream, of_connection) in [
        (1u32, 20_000, 1_000, DEFAULT_WINDOW),
        (40, 5_000, DEFAULT_WINDOW, DEFAULT_WINDOW),
        (500, 60_000, 1 << 20, 1 << 30),
    ] {
        let LongAnswers { proxied, mut answered, _server, _channel } =
            proxy_of_long_answers(length, rpcs).await;
        let mut client = RawPeer::connect(proxied.address).await;
        client.settings(&[(SETTINGS_INITIAL_WINDOW, of_stream)]).await;
        if of_connection > DEFAULT_WINDOW {
            client.send(WINDOW_UPDATE, 0, 0, &(of_connection - DEFAULT_WINDOW).to_be_bytes()).await;
        }
        client.synchronize().await;
        for number in 0..rpcs {
            client.headers(2 * number + 1, &request(UNARY), END_STREAM).await;
        }
        let all = answered.wait_for(|count| *count == rpcs);
        soon("the answers", all).await.expect("the server goes on");
        let draining = tokio::spawn(proxied.drain());
        // It reads nothing for much longer than a client without answers to come may take.
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(!draining.is_finished());
        let (mut ended, mut bytes) = (0, 0);
        while let Some(frame) = client.frame().await {
            ended += u32::from(frame.flags & END_STREAM != 0 && matches!(frame.kind, HEADERS | DATA));
            if frame.kind == DATA {
                bytes += frame.payload.len();
                let more = u32::try_from(frame.payload.len()).expect("a frame").to_be_bytes();
                client.send(WINDOW_UPDATE, 0, 0, &more).await;
                client.send(WINDOW_UPDATE, 0, frame.stream, &more).await;
            }
        }
        assert_eq!((ended, bytes), (rpcs, length * rpcs as usize));
        drop(client);
        soon("the drain", draining).await.expect("no panic");
    }
}

/// It has its answers, and sends frame after frame. What the proxy answers to these is no RPC, read or not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_frames_of_a_client_without_rpcs_hold_a_drain() {
    const PING: u8 = 6;
    for reads in [true, false] {
        let LongAnswers { proxied, _server, _channel, .. } = proxy_of_long_answers(5, 1).await;
        let mut client = RawPeer::connect(proxied.address).await;
        client.headers(1, &request(UNARY), END_STREAM).await;
        client.answer_on(1).await;
        let (mut reader, mut writer) = client.split();
        let pings = [&[0, 0, 8, PING, 0, 0, 0, 0, 0][..], &[7; 8]].concat().repeat(8);
        let writing = tokio::spawn(async move {
            while writer.write_all(&pings).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        let reading = tokio::spawn(async move {
            let mut some = vec![0; 1 << 16];
            while reads && reader.read(&mut some).await.is_ok_and(|read| read > 0) {}
            // The socket stays open.
            std::future::pending::<()>().await;
        });
        soon("the drain", proxied.drain()).await;
        writing.abort();
        reading.abort();
    }
}

/// A client with an RPC in flight gets a GOAWAY, and the drain waits for the RPC.
#[tokio::test]
async fn a_drain_waits_for_the_rpcs_that_there_are() {
    let (release, mut released) = tokio::sync::watch::channel(false);
    released.mark_unchanged();
    let server = Scripted::start(move |(_, mut respond): scripted::Exchange| {
        let mut released = released.clone();
        async move {
            let _ = released.wait_for(|released| *released).await;
            scripted::answer(&mut respond, "a");
        }
    })
    .await;
    let channel = channel(server.address()).connect_lazy().expect("a channel");
    let mut options = ProxyOptions::default();
    options.drain_timeout = Duration::from_millis(10);
    let proxied = Proxied::start(&channel, options).await;
    let mut client = RawPeer::connect(proxied.address).await;
    client.rpc(1, UNARY, &[]).await;
    soon("the RPC", async {
        while proxied.proxy.rpcs() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let draining = tokio::spawn(proxied.drain());
    while client.frame().await.expect("GOAWAY").kind != GOAWAY {}
    assert!(!draining.is_finished());
    release.send_replace(true);
    assert_eq!(client.answer_on(1).await.header("grpc-status"), Some("0"));
    client.closed().await;
    soon("the drain", draining).await.expect("no panic");
}

#[tokio::test]
async fn empty_data_frames_of_a_client_have_no_number_that_is_too_many() {
    let cluster = Cluster::start(&["a"]).await;
    let channel = cluster.channel().connect_lazy().expect("a channel");
    let (proxied, _caller) = proxied(&channel).await;
    let mut client = RawPeer::connect(proxied.address).await;
    client.begin_rpc(1, UNARY, &[]).await;
    for _ in 0..500 {
        client.send(DATA, 0, 1, b"").await;
    }
    client.send(DATA, END_STREAM, 1, hotpick_tests::raw::HELLO).await;
    assert_eq!(client.answer_on(1).await.header("grpc-status"), Some("0"));
}

/// `:path` is sent in CONTINUATION, split in two, and with its name from HPACK's dynamic table.
#[tokio::test]
async fn no_form_of_a_path_with_a_fragment_is_served_as_another_path() {
    let cluster = Cluster::start(&["a"]).await;
    let channel = cluster.channel().connect_lazy().expect("a channel");
    let (proxied, _caller) = proxied(&channel).await;
    let path = format!("{UNARY}#x");
    let rest = [literal("content-type", "application/grpc"), literal("te", "trailers")].concat();
    let block = [&[0x83, 0x86][..], &literal(":path", &path), &rest].concat();
    for cut in [0, 1, 3, 12, 20, 40] {
        let mut client = RawPeer::connect(proxied.address).await;
        client.send(HEADERS, 0, 1, &block[..cut]).await;
        client.send(9, END_HEADERS, 1, &block[cut..]).await;
        client.send(DATA, END_STREAM, 1, hotpick_tests::raw::HELLO).await;
        assert_eq!(client.answer_on(1).await.reset, Some(1), "cut at {cut}");
    }
    // A valid path adds entry 62 to the dynamic table. The next request refers to the name of that entry.
    let mut client = RawPeer::connect(proxied.address).await;
    let mut field = literal(":path", UNARY);
    field[0] = 0x40;
    client.headers(1, &[&[0x83, 0x86][..], &field, &rest].concat(), 0).await;
    client.send(DATA, END_STREAM, 1, hotpick_tests::raw::HELLO).await;
    assert_eq!(client.answer_on(1).await.header("grpc-status"), Some("0"));
    let value = &literal("", &path)[2..];
    client.headers(3, &[&[0x83, 0x86, 0x0f, 62 - 15][..], value, &rest].concat(), 0).await;
    client.send(DATA, END_STREAM, 3, hotpick_tests::raw::HELLO).await;
    assert_eq!(client.answer_on(3).await.reset, Some(1), "name from the dynamic table");
}

/// The client sends all requests before it reads an answer, through two proxies. Each proxy has more to write to the
/// other than the buffers between them hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_in_a_row_do_not_wait_for_each_other() {
    let cluster = Cluster::start(&["a"]).await;
    let channel = cluster.channel().connect_lazy().expect("a channel");
    let (inner, _caller) = proxied(&channel).await;
    let between = to(inner.address).connect_lazy().expect("a channel");
    let (_outer, caller) = proxied(&between).await;
    let text = "x".repeat(60_000);
    let mut streams = tokio::task::JoinSet::new();
    for _ in 0..150 {
        let (mut client, text) = (caller.client.clone(), text.clone());
        streams.spawn(async move {
            let requests = tokio_stream::iter(std::iter::repeat_n(hotpick_echo::EchoRequest::new(&text), 20));
            let mut answers = client.bidi(requests).await.expect("open").into_inner();
            let mut count = 0;
            while let Some(answer) = answers.message().await.expect("an answer") {
                assert_eq!(answer.text.len(), text.len());
                count += 1;
            }
            count
        });
    }
    soon("all streams to end", async {
        while let Some(count) = streams.join_next().await {
            assert_eq!(count.expect("no panic"), 20);
        }
    })
    .await;
}

/// In all windows there are more small frames than h2 keeps for a connection. The server reads nothing, and its side waits
/// for the next frame or, in the second round, for room: the proxy has sent the request's headers and has its first byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_of_tiny_frames_that_no_server_reads_end_nothing() {
    const WINDOW: usize = 256 << 10;
    for has_begun in [false, true] {
        let server = RawServer::bind().await;
        let address = server.address();
        let (begun, mut begins) = mpsc::unbounded_channel();
        // SETTINGS_INITIAL_WINDOW_SIZE.
        let reading = tokio::spawn(async move {
            let mut peer = server.accept(&[(4, 0)]).await;
            while let Some(frame) = peer.frame().await {
                if frame.kind == HEADERS && frame.flags & END_STREAM != 0 {
                    peer.answer(frame.stream, "a").await;
                } else if frame.kind == HEADERS {
                    let _ = begun.send(());
                }
            }
        });
        let channel = channel(address).connect_lazy().expect("a channel");
        let proxied = Proxied::start(&channel, ProxyOptions::default()).await;
        let mut client = RawPeer::connect(proxied.address).await;
        // Now its windows are larger than by default.
        client.synchronize().await;
        for stream in [1, 3, 5, 7, 9] {
            client.begin_rpc(stream, UNARY, &[]).await;
            if has_begun {
                client.send(DATA, 0, stream, b"x").await;
                soon("the request", begins.recv()).await.expect("the server goes on");
                client.synchronize().await;
            }
            let tiny =
                [&[0, 0, 1, DATA, 0, 0, 0, 0, u8::try_from(stream).expect("small")][..], b"x"].concat();
            let some = tiny.repeat(1024);
            for _ in 0..WINDOW / 1024 - 1 {
                client.bytes(&some).await;
            }
        }
        // An RPC without a message needs no window.
        client.headers(11, &request(UNARY), END_STREAM).await;
        assert_eq!(client.answer_on(11).await.header("grpc-status"), Some("0"));
        assert!(!reading.is_finished());
    }
}
