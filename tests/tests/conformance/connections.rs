//! Connections: SETTINGS, GOAWAY, refused streams, losses, restarts, backoff, stream limits, addresses
//! (H7 to H11, H16, H18, H30).

use std::time::Duration;

use hotpick::channel::ChannelStatus;
use hotpick::connectivity::ConnectivityState::{Connecting, Ready, TransientFailure};
use hotpick::picker::{Pick, PickResult};
use hotpick::resolver::{Endpoint, ResolverUpdate};
use hotpick::transport::SubConnOptions;
use hotpick_echo::{Backend, BackendOptions};
use hotpick_tests::raw::{self, RawServer};
use hotpick_tests::{Caller, Cluster, Load, Native, soon};
use tokio_stream::StreamExt as _;
use tonic::Code;

use super::*;

#[tokio::test]
async fn h07_ready_is_only_after_settings_and_a_black_hole_fails_at_the_connect_deadline() {
    let silent = RawServer::bind().await;
    let channel = to(silent.address()).connect_lazy().expect("a channel");
    let mut seen = Vec::new();
    let mut states = channel.states();
    let _held = silent.silent().await;
    while seen.last() != Some(&TransientFailure) {
        seen.push(soon("TRANSIENT_FAILURE", states.next()).await.expect("a state"));
    }
    assert_eq!(seen, [Connecting, TransientFailure]);
    let status = Caller::of(&channel).call().await.expect_err("nothing is ready");
    assert!(status.message().contains("no HTTP/2 SETTINGS within 300ms"), "{}", status.message());
    // The next connection is READY once the peer sends SETTINGS.
    let (_peer, ()) = tokio::join!(silent.accept(&[]), state(&channel, Ready));
}

#[tokio::test]
async fn h08_goaway_on_an_idle_connection_sends_the_next_rpc_to_a_new_one() {
    let (server, _channel, caller, mut peer) = raw_pair().await;
    peer.goaway(0, 0).await;
    let mut next = server.accept(&[]).await;
    let call = begin(&caller, hello());
    let stream = next.request().await;
    next.answer(stream, "second").await;
    assert_eq!(soon("the answer", call).await.expect("no panic").expect("served"), "second");
    peer.closed().await;
}

#[tokio::test]
async fn h08_streams_that_are_open_at_a_goaway_finish_and_no_new_one_is_begun() {
    let (server, _channel, caller, mut peer) = raw_pair().await;
    let early = begin(&caller, hello());
    let stream = peer.request().await;
    peer.goaway(stream, 0).await;
    let mut next = server.accept(&[]).await;
    let late = begin(&caller, hello());
    let second = next.request().await;
    next.answer(second, "second").await;
    assert_eq!(soon("the late RPC", late).await.expect("no panic").expect("served"), "second");
    assert!(!early.is_finished());
    peer.answer(stream, "first").await;
    assert_eq!(soon("the early RPC", early).await.expect("no panic").expect("served"), "first");
    peer.closed().await;
}

#[tokio::test]
async fn h08_two_goaways_and_then_the_end_lose_nothing() {
    let (server, _channel, caller, mut peer) = raw_pair().await;
    let call = begin(&caller, hello());
    let stream = peer.request().await;
    // A graceful server sends the maximum stream id first, then its last stream.
    peer.goaway(0x7fff_ffff, 0).await;
    peer.goaway(stream, 0).await;
    peer.answer(stream, "first").await;
    assert_eq!(soon("the answer", call).await.expect("no panic").expect("served"), "first");
    drop(peer);
    let mut next = server.accept(&[]).await;
    let call = begin(&caller, hello());
    let stream = next.request().await;
    next.answer(stream, "second").await;
    assert_eq!(soon("the answer", call).await.expect("no panic").expect("served"), "second");
}

#[tokio::test]
async fn h08_a_goaway_with_a_last_id_below_ours_sends_the_request_again_unseen() {
    let (server, _channel, caller, mut peer) = raw_pair().await;
    let first = begin(&caller, hello());
    let served = peer.request().await;
    let second = begin(&caller, hello());
    peer.request().await;
    peer.goaway(served, 0).await;
    let mut next = server.accept(&[]).await;
    let again = next.request().await;
    next.answer(again, "second").await;
    peer.answer(served, "first").await;
    assert_eq!(soon("the first RPC", first).await.expect("no panic").expect("served"), "first");
    assert_eq!(soon("the second RPC", second).await.expect("no panic").expect("served"), "second");
}

#[tokio::test]
async fn h08_enhance_your_calm_is_a_goaway_like_any_other_for_rpcs() {
    let (server, channel, caller, mut peer) = raw_pair().await;
    let call = begin(&caller, hello());
    let stream = peer.request().await;
    peer.goaway(stream, raw::ENHANCE_YOUR_CALM).await;
    let _next = server.accept(&[]).await;
    peer.answer(stream, "first").await;
    assert_eq!(soon("the answer", call).await.expect("no panic").expect("served"), "first");
    state(&channel, Ready).await;
    let error = channel.status().subconns[0].last_error().expect("a reason");
    assert!(error.contains("ENHANCE_YOUR_CALM") || error.contains("excessive load"), "{error}");
}

#[tokio::test]
async fn h09_a_refused_stream_is_sent_again_once_and_unseen() {
    let (_server, _channel, caller, mut peer) = raw_pair().await;
    let call = begin(&caller, hello());
    let stream = peer.request().await;
    peer.reset(stream, raw::REFUSED_STREAM).await;
    let again = peer.request().await;
    peer.answer(again, "at last").await;
    assert_eq!(soon("the answer", call).await.expect("no panic").expect("served"), "at last");

    let call = begin(&caller, hello());
    for _ in 0..2 {
        let stream = peer.request().await;
        peer.reset(stream, raw::REFUSED_STREAM).await;
    }
    let status = soon("the answer", call).await.expect("no panic").expect_err("refused twice");
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test]
async fn h09_a_stream_that_got_an_answer_is_not_sent_again() {
    let (_server, _channel, caller, mut peer) = raw_pair().await;
    let call = begin(&caller, hello());
    let stream = peer.request().await;
    peer.begin_answer(stream).await;
    peer.reset(stream, raw::REFUSED_STREAM).await;
    let status = soon("the end", call).await.expect("no panic").expect_err("refused");
    assert_eq!(status.code(), Code::Unavailable);
    // The next request is that of another RPC, not a retry.
    let call = begin(&caller, hello());
    let next = peer.request().await;
    assert_eq!(next, stream + 2);
    peer.answer(next, "next").await;
    assert_eq!(soon("the answer", call).await.expect("no panic").expect("served"), "next");
}

#[tokio::test]
async fn h10_a_connection_that_is_reset_is_unavailable_and_made_again() {
    let (server, _channel, caller, mut peer) = raw_pair().await;
    let call = begin(&caller, hello());
    peer.request().await;
    drop(peer);
    let status = soon("the loss", call).await.expect("no panic").expect_err("lost");
    assert_eq!(status.code(), Code::Unavailable);
    let mut next = server.accept(&[]).await;
    let call = begin(&caller, hello());
    let stream = next.request().await;
    next.answer(stream, "second").await;
    assert_eq!(soon("the answer", call).await.expect("no panic").expect("served"), "second");
}

#[tokio::test]
async fn h10_a_peer_that_answers_no_ping_is_given_up() {
    let server = RawServer::bind().await;
    let mut options = quick();
    options.keep_alive_interval = Some(Duration::from_millis(50));
    options.keep_alive_timeout = Duration::from_millis(50);
    let channel = to(server.address()).subconn_options(options).connect_lazy().expect("a channel");
    let mut peer = server.accept(&[]).await;
    state(&channel, Ready).await;
    let call = begin(&Caller::of(&channel), hello());
    peer.request().await;
    // The peer now reads nothing, so it does not answer PINGs.
    let status = soon("the keep-alive timeout", call).await.expect("no panic").expect_err("lost");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("keep-alive timed out"), "{}", status.message());
}

#[tokio::test]
async fn h10_a_peer_that_speaks_http_1_is_a_failure_that_says_so() {
    use tokio::io::AsyncWriteExt as _;

    let server = RawServer::bind().await;
    let channel = to(server.address()).connect_lazy().expect("a channel");
    let mut stream = server.silent().await;
    stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("written");
    state(&channel, TransientFailure).await;
    let status = Caller::of(&channel).call().await.expect_err("no HTTP/2");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("frame with invalid size"), "{}", status.message());
}

#[tokio::test]
async fn h11_after_a_restart_of_one_and_of_all_the_distribution_is_as_before() {
    let mut cluster = Cluster::start(&["a", "b", "c"]).await;
    let channel = cluster.channel().subconn_options(quick()).connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    let before = caller.tally(300).await;
    for count in [1, 3] {
        let stopped: Vec<_> = cluster.backends.drain(..count).collect();
        let places: Vec<_> = stopped.iter().map(|b| (b.name().to_owned(), b.address())).collect();
        drop(stopped);
        let down = |status: &ChannelStatus| {
            status.subconns.iter().filter(|subconn| subconn.state() != Ready).count() == count
        };
        soon("the loss", channel.wait_for(down)).await;
        for (name, address) in places {
            cluster.backends.push(Backend::start(&name, address).await.expect("its port is free"));
        }
        Caller::ready(&channel, None).await;
        assert_eq!(caller.tally(300).await, before);
    }
}

#[tokio::test]
async fn h11_a_rolling_restart_with_drain_fails_nothing() {
    let mut cluster = Cluster::start(&["a", "b", "c", "d"]).await;
    let channel = cluster.channel().subconn_options(quick()).connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    let load = Load::start(&caller, 32, 0);
    for at in 0..4 {
        let old = &cluster.backends[at];
        let (name, address) = (old.name().to_owned(), old.address());
        // Closes the listener, sends GOAWAY, and ends with its last stream.
        old.leave();
        soon("the last connection to end", old.left()).await;
        cluster.backends[at] = Backend::start(&name, address).await.expect("its port is free");
        soon("READY again", Caller::ready(&channel, None)).await;
    }
    let (calls, failed) = load.stop().await;
    assert!(failed.is_empty(), "{} of {calls} failed: {:?}", failed.len(), failed[0]);
}

/// Accepts and closes HTTP/2 connections for `seconds`. Returns their number.
async fn flapping(server: &RawServer, seconds: u64) -> usize {
    let mut accepted = 0;
    let closing = async {
        loop {
            drop(server.accept(&[]).await);
            accepted += 1;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(seconds), closing).await;
    accepted
}

#[tokio::test]
async fn h16_dials_to_a_peer_that_closes_at_once_are_bounded_by_the_backoff() {
    let server = RawServer::bind().await;
    let mut options = quick();
    options.backoff.base = Duration::from_millis(100);
    options.backoff.max = Duration::from_secs(10);
    options.backoff.jitter = 0.0;
    let _channel = to(server.address()).subconn_options(options).connect_lazy().expect("a channel");
    let accepted = flapping(&server, 2).await;
    // Two dials at 0 ms, then one after each delay of 160, 256, 410 and 655 ms.
    assert!((4..=6).contains(&accepted), "{accepted} connections in 2 s");
}

#[tokio::test]
async fn h18_with_one_stream_at_a_time_a_policy_sees_who_is_busy() {
    let mut options = BackendOptions::default();
    options.max_streams = Some(1);
    let mut cluster = Cluster::start(&[]).await;
    for name in ["a", "b"] {
        let backend = Backend::start_with(name, "127.0.0.1:0".parse().expect("an address"), options).await;
        cluster.backends.push(backend.expect("a free port"));
    }
    cluster.resolver.update(ResolverUpdate::endpoints(cluster.endpoints()));
    let least = Native::new(|ready, _| {
        let least = ready.ready().iter().min_by_key(|subconn| subconn.stats().in_flight);
        least.map_or(PickResult::Queue, |one| PickResult::Pick(Pick::to(one.clone())))
    });
    let channel = cluster.channel().native_policy(least).connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, Some("native")).await;
    assert!(caller.status().subconns.iter().all(|subconn| subconn.stats().max_streams == Some(1)));
    let (_send, _answers) = open(&caller).await;
    let busy = usize::from(caller.status().subconns[1].stats().in_flight == 1);
    let free = ["b", "a"][busy];
    assert_eq!(caller.tally(20).await.into_iter().collect::<Vec<_>>(), [(free.to_owned(), 20)]);
}

#[tokio::test]
async fn h18_at_the_limit_of_streams_rpcs_wait_or_get_a_further_connection() {
    let address = "127.0.0.1:0".parse().expect("an address");
    let mut limited = BackendOptions::default();
    limited.max_streams = Some(1);
    let backend = Backend::start_with("a", address, limited).await.expect("a free port");
    // With one connection, the second RPC waits for the first.
    let channel = to(backend.address()).connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    let (send, answers) = open(&caller).await;
    let waiting = begin(&caller, hello());
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!waiting.is_finished());
    drop((send, answers));
    assert_eq!(soon("a stream", waiting).await.expect("no panic").expect("served"), "a");
    assert_eq!(backend.accepted(), 1);

    // With up to three connections, three RPCs run at once and the fourth waits.
    let mut options = quick();
    options.max_connections = 3;
    let channel = to(backend.address()).subconn_options(options).connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(soon("a stream", open(&caller)).await);
    }
    assert_eq!(caller.status().subconns[0].stats().connections, 3);
    assert_eq!(backend.accepted(), 4);
    let waiting = begin(&caller, hello());
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!waiting.is_finished());
    streams.pop();
    assert_eq!(soon("a free stream", waiting).await.expect("no panic").expect("served"), "a");
    assert_eq!(backend.accepted(), 4);
}

/// A task may have several RPCs and poll one after the other.
#[tokio::test]
async fn h18_an_rpc_that_is_not_polled_holds_up_no_other() {
    let mut limited = BackendOptions::default();
    limited.max_streams = Some(2);
    let backend = Backend::start_with("a", "127.0.0.1:0".parse().expect("an address"), limited).await;
    let backend = backend.expect("a free port");
    let channel = to(backend.address()).connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    let streams = [open(&caller).await, open(&caller).await];
    let mut first = Box::pin(caller.call());
    tokio::select! {
        biased;
        answer = &mut first => panic!("answered without a free stream: {answer:?}"),
        () = std::future::ready(()) => {}
    }
    let second = begin(&caller, hello());
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    drop(streams);
    assert_eq!(soon("the second RPC", second).await.expect("no panic").expect("served"), "a");
    assert_eq!(soon("the first RPC", first).await.expect("served"), "a");
}

#[tokio::test]
async fn h18_rpcs_that_wait_for_a_stream_go_on_when_the_peer_allows_more() {
    const MAX_CONCURRENT_STREAMS: u16 = 3;
    let server = RawServer::bind().await;
    let mut options = quick();
    options.max_connections = 2;
    let channel = to(server.address()).subconn_options(options).connect_lazy().expect("a channel");
    let one = [(MAX_CONCURRENT_STREAMS, 1)];
    let mut first = server.accept(&one).await;
    state(&channel, Ready).await;
    let caller = Caller::of(&channel);
    let calls = [0; 3].map(|_| begin(&caller, hello()));
    let stream = first.request().await;
    let mut second = server.accept(&one).await;
    let other = second.request().await;
    // The third RPC waits: neither connection has a free stream.
    first.settings(&[(MAX_CONCURRENT_STREAMS, 5)]).await;
    let third = first.request().await;
    for (peer, stream) in [(&mut first, third), (&mut second, other)] {
        peer.answer(stream, "a").await;
    }
    first.answer(stream, "a").await;
    for call in calls {
        assert_eq!(soon("the answer", call).await.expect("no panic").expect("served"), "a");
    }
}

#[tokio::test]
async fn an_rpc_given_up_while_its_peer_takes_nothing_is_reset() {
    const INITIAL_WINDOW_SIZE: u16 = 4;
    const RST_STREAM: u8 = 3;
    let server = RawServer::bind().await;
    let channel = to(server.address()).subconn_options(quick()).connect_lazy().expect("a channel");
    let mut peer = server.accept(&[(INITIAL_WINDOW_SIZE, 0)]).await;
    state(&channel, Ready).await;
    let caller = Caller::of(&channel);
    let opening = tokio::spawn(async move { open(&caller).await });
    let head = loop {
        let frame = peer.frame().await.expect("headers");
        if frame.kind == 1 {
            break frame;
        }
    };
    peer.begin_answer(head.stream).await;
    let (send, answers) = soon("the response", opening).await.expect("no panic");
    // The window of 0 bytes allows neither a message nor the end of the request.
    drop((send, answers));
    let reset = loop {
        let frame = peer.frame().await.expect("a reset");
        if frame.kind == RST_STREAM {
            break frame;
        }
    };
    assert_eq!((reset.stream, &reset.payload[..]), (head.stream, &8_u32.to_be_bytes()[..]));
}

#[tokio::test]
async fn headers_of_the_callers_own_connection_end_at_the_channel() {
    let cluster = Cluster::start(&["a"]).await;
    let channel = cluster.channel().connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    let mut request = hello();
    for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
        request.metadata_mut().insert(name, "x".parse().expect("a value"));
    }
    assert_eq!(caller.request(request).await.expect("served"), "a");
}

#[tokio::test]
async fn a_further_connection_that_does_not_last_is_made_again_with_a_backoff() {
    let server = RawServer::bind().await;
    let mut options = quick();
    options.connections = 2;
    options.backoff.base = Duration::from_millis(100);
    options.backoff.max = Duration::from_millis(100);
    options.backoff.jitter = 0.0;
    let channel = to(server.address()).subconn_options(options).connect_lazy().expect("a channel");
    let _first = server.accept(&[]).await;
    let accepted = flapping(&server, 1).await;
    // Dialled at once, then every 100 ms.
    assert!((2..=11).contains(&accepted), "{accepted} connections in a second");
    assert_eq!(channel.state(), Ready);
}

#[tokio::test]
async fn several_connections_to_an_endpoint_share_its_rpcs_and_are_made_again() {
    let mut cluster = Cluster::start(&["a"]).await;
    let mut options = quick();
    options.connections = 3;
    let channel = cluster.channel().subconn_options(options).connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    let three = |status: &ChannelStatus| status.subconns[0].stats().connections == 3;
    until("three connections", || three(&channel.status())).await;
    let mut streams = Vec::new();
    for _ in 0..6 {
        streams.push(open(&caller).await);
    }
    assert_eq!(cluster.accepted(), 3);
    drop(streams);
    let address = cluster.backends.remove(0).address();
    soon("the loss", channel.wait_for(|status| status.state != Ready)).await;
    cluster.backends.push(Backend::start("a", address).await.expect("its port is free"));
    Caller::ready(&channel, None).await;
    until("three connections", || three(&channel.status())).await;
    assert_eq!(caller.call().await.expect("served"), "a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn goaways_on_one_of_several_connections_lose_nothing() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let mut options = quick();
    options.connections = 3;
    let channel = cluster.channel().subconn_options(options).connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    let three = |status: &ChannelStatus| status.subconns.iter().all(|s| s.stats().connections == 3);
    let load = Load::start(&caller, 16, 4);
    for round in 0..20 {
        until("three connections each", || three(&channel.status())).await;
        let backend = &cluster.backends[round % 2];
        let before = backend.accepted();
        backend.drain();
        until("the next three", || backend.accepted() >= before + 3).await;
    }
    let (calls, failed) = load.stop().await;
    assert!(failed.is_empty(), "{} of {calls} failed: {:?}", failed.len(), failed[0]);
}

#[tokio::test]
async fn h30_an_endpoint_of_several_addresses_is_reached_by_the_first_that_answers() {
    let cluster = Cluster::start(&["a"]).await;
    let black_hole = RawServer::bind().await;
    let endpoint = Endpoint::new("127.0.0.1:1".parse().expect("an address"))
        .with_address(black_hole.address().into())
        .with_address(cluster.backends[0].address().into());
    cluster.resolver.update(ResolverUpdate::endpoints([endpoint]));
    let mut options = SubConnOptions::default();
    options.attempt_delay = Duration::from_millis(50);
    let channel = cluster.channel().subconn_options(options).connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    assert_eq!(caller.call().await.expect("served"), "a");
    assert_eq!(caller.dials(), 1);
}
