//! What a gRPC channel must do, scenario by scenario: the behaviour that the test suites of grpc-go and its
//! siblings agree on. Where grpc-go's answer is known, it is the one that is asked for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hotpick::Channel;
use hotpick::channel::{ChannelStatus, WaitForReady};
use hotpick::connectivity::ConnectivityState::{self, Connecting, Idle, Ready, TransientFailure};
use hotpick::picker::{Pick, PickResult};
use hotpick::resolver::{Endpoint, ResolveNow, Resolver, ResolverStream, ResolverUpdate, Target};
use hotpick::service_config::ServiceConfig;
use hotpick::subconn::{SubConn, SubConnOptions};
use hotpick_echo::{Backend, BackendOptions, EchoRequest};
use hotpick_tests::raw::{self, RawServer};
use hotpick_tests::{Caller, Cluster, Load, Native, soon};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

fn hello() -> Request<EchoRequest> {
    Request::new(EchoRequest::new("hello"))
}

fn patient() -> Request<EchoRequest> {
    let mut request = hello();
    request.extensions_mut().insert(WaitForReady(true));
    request
}

fn within(mut request: Request<EchoRequest>, millis: u64) -> Request<EchoRequest> {
    request.set_timeout(Duration::from_millis(millis));
    request
}

/// Options of a client that finds things out quickly.
fn quick() -> SubConnOptions {
    let mut options = SubConnOptions::default();
    options.connect_timeout = Duration::from_millis(300);
    options.backoff.base = Duration::from_millis(20);
    options.backoff.max = Duration::from_millis(100);
    options
}

fn to(address: std::net::SocketAddr) -> hotpick::channel::ChannelBuilder {
    Channel::builder(format!("static:///{address}")).subconn_options(quick())
}

fn first_ready(ready: &hotpick::subconn::ReadySet) -> PickResult {
    ready.ready().first().map_or(PickResult::Queue, |first| PickResult::Pick(Pick::to(first.clone())))
}

async fn state(channel: &Channel, wanted: ConnectivityState) {
    soon(&wanted.to_string(), channel.wait_for(|status| status.state == wanted)).await;
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let looking = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(what, looking).await;
}

/// An RPC that has been begun.
fn begin(caller: &Caller, request: Request<EchoRequest>) -> tokio::task::JoinHandle<Result<String, Status>> {
    let caller = caller.clone();
    tokio::spawn(async move { caller.request(request).await })
}

/// A stream that is open, and the end of it that keeps it so.
async fn open(caller: &Caller) -> (mpsc::Sender<EchoRequest>, tonic::Streaming<hotpick_echo::EchoResponse>) {
    let (send, receive) = mpsc::channel(1);
    let answers = caller.client.clone().bidi(ReceiverStream::new(receive)).await.expect("open").into_inner();
    (send, answers)
}

#[tokio::test]
async fn h01_without_a_picker_an_rpc_waits_to_its_deadline() {
    let silent = RawServer::bind().await;
    let channel = Channel::builder(format!("static:///{}", silent.address())).connect().expect("a channel");
    let caller = Caller::of(&channel);
    let status = caller.request(within(hello(), 50)).await.expect_err("nothing is ready");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(channel.state(), Connecting);
    // And one that is given up is gone.
    let waiting = begin(&caller, hello());
    tokio::task::yield_now().await;
    waiting.abort();
    assert!(soon("the cancellation", waiting).await.expect_err("cancelled").is_cancelled());
}

#[tokio::test]
async fn h02_a_new_picker_wakes_a_thousand_waiters() {
    let cluster = Cluster::start(&["a"]).await;
    let silent = RawServer::bind().await;
    cluster.resolver.update(ResolverUpdate::endpoints([Endpoint::new(silent.address().into())]));
    let channel = cluster.channel().connect().expect("a channel");
    let caller = Caller::of(&channel);
    let mut waiting = JoinSet::new();
    for _ in 0..1000 {
        let caller = caller.clone();
        waiting.spawn(async move { caller.call().await });
    }
    state(&channel, Connecting).await;
    tokio::task::yield_now().await;
    assert!(waiting.try_join_next().is_none());
    cluster.resolver.update(ResolverUpdate::endpoints(cluster.endpoints()));
    while let Some(answer) = soon("the waiters", waiting.join_next()).await {
        assert_eq!(answer.expect("no panic").expect("served"), "a");
    }
}

#[tokio::test]
async fn h03_a_failing_pick_fails_fast_and_wait_for_ready_waits_and_names_the_last_error() {
    let cluster = Cluster::start(&["a"]).await;
    let native = Native::new(|_, _| PickResult::Fail(Status::unavailable("not today")));
    let channel = cluster.channel().native_policy(native).connect().expect("a channel");
    let caller = Caller::ready(&channel, Some("native")).await;
    let status = caller.call().await.expect_err("it fails");
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "not today"));
    let status = caller.request(within(patient(), 50)).await.expect_err("it waits in vain");
    let text = "deadline exceeded: latest balancer error: not today";
    assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, text));
}

#[tokio::test]
async fn h03_wait_for_ready_can_be_the_channels_default() {
    let channel = Channel::builder("static:///127.0.0.1:1").subconn_options(quick()).wait_for_ready(true);
    let caller = Caller::of(&channel.connect().expect("a channel"));
    let status = caller.request(within(hello(), 100)).await.expect_err("it waits in vain");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(
        status.message().contains("latest balancer error: no endpoint of static:///127.0.0.1:1 is ready")
    );
    // An RPC may say otherwise.
    let mut request = hello();
    request.extensions_mut().insert(WaitForReady(false));
    assert_eq!(caller.request(request).await.expect_err("refused").code(), Code::Unavailable);
}

#[tokio::test]
async fn h04_a_drop_ends_the_rpc_with_exactly_its_code_and_is_not_retried() {
    let cluster = Cluster::start(&["a"]).await;
    for (dropped, seen) in [
        (Code::Unavailable, Code::Unavailable),
        (Code::ResourceExhausted, Code::ResourceExhausted),
        (Code::PermissionDenied, Code::PermissionDenied),
        // Those that belong to applications (gRFC A54).
        (Code::InvalidArgument, Code::Internal),
        (Code::NotFound, Code::Internal),
        (Code::AlreadyExists, Code::Internal),
        (Code::FailedPrecondition, Code::Internal),
        (Code::Aborted, Code::Internal),
        (Code::OutOfRange, Code::Internal),
        (Code::DataLoss, Code::Internal),
        (Code::Ok, Code::Internal),
    ] {
        let native = Native::new(move |_, _| PickResult::Drop(Status::new(dropped, "dropped")));
        let ledger = native.ledger();
        let channel = cluster.channel().native_policy(native).connect().expect("a channel");
        let caller = Caller::ready(&channel, Some("native")).await;
        for request in [hello(), patient()] {
            let status = caller.request(request).await.expect_err("dropped");
            assert_eq!(status.code(), seen, "{dropped:?}");
            assert!(status.message().contains("dropped"), "{}", status.message());
        }
        assert_eq!(ledger.asked(), 2);
    }
}

#[tokio::test]
async fn h05_a_pick_of_a_subconn_that_is_gone_is_told_once_and_picked_again() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let native = Native::new(|ready, info| match ready.all() {
        [first, ..] if !info.requeued && !info.tried.contains(&first.id()) => {
            PickResult::Pick(Pick::to(first.clone()))
        }
        _ => ready.ready().last().map_or(PickResult::Queue, |last| PickResult::Pick(Pick::to(last.clone()))),
    });
    let ledger = native.ledger();
    let refusing = Endpoint::new("127.0.0.1:1".parse().expect("an address"));
    let b = cluster.endpoints().remove(1);
    cluster.resolver.update(ResolverUpdate::endpoints(vec![refusing.clone(), b.clone()]));
    let channel = cluster.channel().native_policy(native).connect().expect("a channel");
    state(&channel, Ready).await;
    soon("the policy", channel.wait_for(|status| status.policy.name == "native")).await;

    // Not ready: the RPC waits for a change, and is then picked again.
    let caller = Caller::of(&channel);
    let held = begin(&caller, hello());
    until("the first pick", || ledger.ends().len() == 1).await;
    assert_eq!(ledger.ends(), [(None, false)]);
    // A change of an attribute makes a new picker.
    let changed = vec![refusing, b.with_attribute("new", "yes")];
    cluster.resolver.update(ResolverUpdate::endpoints(changed));
    assert_eq!(soon("the held RPC", held).await.expect("no panic").expect("served"), "b");
    assert_eq!(ledger.ends(), [(None, false), (Some(Code::Ok), false)]);

    // Removed meanwhile: a picker that remembers a subconn of long ago.
    let old: SubConn = caller.status().subconns[1].clone();
    let stale = Native::new(move |ready, info| match info.tried {
        [] => PickResult::Pick(Pick::to(old.clone())),
        _ => first_ready(ready),
    });
    let ledger = stale.ledger();
    let other = Cluster::start(&["c"]).await;
    let channel = other.channel().native_policy(stale).connect().expect("a channel");
    Caller::ready(&channel, Some("native")).await;
    drop(caller);
    cluster.resolver.update(ResolverUpdate::endpoints([]));
    let caller = Caller::of(&channel);
    let rpc = async {
        loop {
            match caller.call().await.expect("served").as_str() {
                "c" => return,
                // The old one is not yet closed.
                _ => tokio::task::yield_now().await,
            }
        }
    };
    let changes = async {
        let mut weight = 1;
        loop {
            // New pickers keep coming.
            weight += 1;
            let changed = vec![other.endpoints()[0].clone().with_weight(weight)];
            other.resolver.update(ResolverUpdate::endpoints(changed));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = async { soon("an RPC by the other", rpc).await } => {}
        () = changes => {}
    }
    assert!(ledger.ends().contains(&(None, false)));
}

#[tokio::test]
async fn h06_every_pick_is_told_its_end_exactly_once() {
    let mut cluster = Cluster::start(&["a"]).await;
    let silent = RawServer::bind().await;
    let native = Native::new(|ready, info| {
        // Who asks for it gets the peer that does not answer.
        let at = usize::from(info.metadata.contains_key("silent"));
        ready.ready().get(at).map_or(PickResult::Queue, |one| PickResult::Pick(Pick::to(one.clone())))
    });
    let ledger = native.ledger();
    let mut endpoints = cluster.endpoints();
    endpoints.push(Endpoint::new(silent.address().into()));
    cluster.resolver.update(ResolverUpdate::endpoints(endpoints.clone()));
    let channel = cluster.channel().native_policy(native).connect().expect("a channel");
    let mut peer = silent.accept(&[]).await;
    let caller = Caller::ready(&channel, Some("native")).await;
    let told = |number: usize| {
        let ledger = Arc::clone(&ledger);
        async move { until("the end", || ledger.ends().len() == number).await }
    };

    // OK.
    caller.call().await.expect("served");
    told(1).await;
    // An error of the server's.
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    let request = tonic_health::pb::HealthCheckRequest::default();
    assert_eq!(health.check(request).await.expect_err("no such service").code(), Code::Unimplemented);
    told(2).await;
    // Given up before the headers.
    let mut request = hello();
    request.metadata_mut().insert("silent", tonic::metadata::MetadataValue::from_static("1"));
    let waiting = begin(&caller, request);
    peer.request().await;
    waiting.abort();
    told(3).await;
    // Its deadline passes before the headers.
    let mut request = within(hello(), 50);
    request.metadata_mut().insert("silent", tonic::metadata::MetadataValue::from_static("1"));
    assert_eq!(caller.request(request).await.expect_err("too late").code(), Code::DeadlineExceeded);
    told(4).await;
    // Given up in the middle.
    let (send, mut answers) = open(&caller).await;
    send.send(EchoRequest::new("one")).await.expect("open");
    answers.next().await.expect("an answer").expect("a good one");
    drop((send, answers));
    told(5).await;
    // The body dropped, of which nothing was read.
    let request = EchoRequest { text: "many".to_owned(), count: 1000 };
    drop(caller.client.clone().server_stream(request).await.expect("an answer"));
    told(6).await;
    // Its deadline passes underway.
    let (_send, receive) = mpsc::channel(1);
    let mut request = Request::new(ReceiverStream::new(receive));
    request.set_timeout(Duration::from_millis(50));
    let mut answers = caller.client.clone().bidi(request).await.expect("open").into_inner();
    let status = answers.next().await.expect("an item").expect_err("too late");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    told(7).await;
    // The policy replaced meanwhile, and then the connection lost.
    let (_send, mut answers) = open(&caller).await;
    let round_robin: ServiceConfig =
        r#"{"loadBalancingConfig": [{"round_robin": {}}]}"#.parse().expect("good");
    let update = ResolverUpdate::endpoints(vec![endpoints.remove(0)]).with_service_config(Ok(round_robin));
    cluster.resolver.update(update);
    soon("the swap", channel.wait_for(|status| status.policy.name == "round_robin")).await;
    caller.call().await.expect("served, and not in this ledger");
    cluster.backends.clear();
    let status = soon("the loss", answers.next()).await.expect("an item").expect_err("lost");
    assert_eq!(status.code(), Code::Unavailable);
    told(8).await;

    let gave_up = true;
    assert_eq!(ledger.picks(), 8);
    assert_eq!(
        ledger.ends(),
        [
            (Some(Code::Ok), false),
            (Some(Code::Cancelled), gave_up),
            (Some(Code::Cancelled), gave_up),
            (Some(Code::Cancelled), gave_up),
            (Some(Code::DeadlineExceeded), gave_up),
            (Some(Code::DeadlineExceeded), gave_up),
            (Some(Code::Unimplemented), false),
            (Some(Code::Unavailable), false),
        ]
    );
}

#[tokio::test]
async fn h06_picks_and_ends_are_equal_while_servers_stop() {
    let mut cluster = Cluster::start(&["a", "b"]).await;
    let native = Native::new(|ready, info| {
        let ready = ready.ready();
        let at = info.method.len() + info.tried.len();
        ready.get(at % ready.len()).map_or(PickResult::Queue, |one| PickResult::Pick(Pick::to(one.clone())))
    });
    let ledger = native.ledger();
    let channel = cluster.channel().native_policy(native).connect().expect("a channel");
    let caller = Caller::ready(&channel, Some("native")).await;
    let load = Load::start(&caller, 8, 2);
    for _ in 0..5 {
        let stopped = cluster.backends.remove(0);
        let (name, address) = (stopped.name().to_owned(), stopped.address());
        drop(stopped);
        soon("the loss", channel.wait_for(|status| status.subconns.iter().any(|s| s.state() != Ready))).await;
        cluster.backends.push(Backend::start(&name, address).await.expect("its port is free"));
        Caller::ready(&channel, None).await;
    }
    let _ = load.stop().await;
    until("every end", || ledger.ends().len() == ledger.picks()).await;
    let in_flight: u32 = caller.status().subconns.iter().map(|subconn| subconn.stats().in_flight).sum();
    assert_eq!(in_flight, 0);
}

#[tokio::test]
async fn h06_an_answer_without_a_status_is_the_servers_fault_and_not_the_clients() {
    let server = RawServer::bind().await;
    let native = Native::new(|ready, _| first_ready(ready));
    let ledger = native.ledger();
    let channel = to(server.address()).native_policy(native).connect().expect("a channel");
    let mut peer = server.accept(&[]).await;
    let caller = Caller::ready(&channel, Some("native")).await;
    let call = begin(&caller, hello());
    let stream = peer.request().await;
    // HEADERS with END_HEADERS and END_STREAM, and nothing but `:status: 200`.
    peer.send(1, 4 | 1, stream, &[0x88]).await;
    soon("the end", call).await.expect("no panic").expect_err("no answer");
    assert_eq!(ledger.ends(), [(Some(Code::Unknown), false)]);
}

/// hyper alone would go on with the request of an RPC whose response is given up.
#[tokio::test]
async fn h06_a_response_that_is_dropped_cancels_the_stream_though_the_request_is_open() {
    let (_server, _channel, caller, mut peer) = raw_pair().await;
    let (_send, receive) = mpsc::channel::<EchoRequest>(1);
    let mut client = caller.client.clone();
    let stream = tokio::spawn(async move { client.bidi(ReceiverStream::new(receive)).await });
    let number = loop {
        let frame = peer.frame().await.expect("a request");
        if frame.kind == 1 {
            break frame.stream;
        }
    };
    peer.begin_answer(number).await;
    drop(soon("the headers", stream).await.expect("no panic").expect("open"));
    let reset = loop {
        let frame = peer.frame().await.expect("the end of the stream");
        if frame.kind == 3 {
            break frame;
        }
    };
    const CANCEL: [u8; 4] = 8u32.to_be_bytes();
    assert_eq!((reset.stream, &reset.payload[..]), (number, &CANCEL[..]));
}

#[tokio::test]
async fn h07_ready_is_only_after_settings_and_a_black_hole_fails_at_the_connect_deadline() {
    let silent = RawServer::bind().await;
    let channel = to(silent.address()).connect().expect("a channel");
    let mut seen = Vec::new();
    let mut states = channel.states();
    let _held = silent.silent().await;
    while seen.last() != Some(&TransientFailure) {
        seen.push(soon("TRANSIENT_FAILURE", states.next()).await.expect("a state"));
    }
    assert_eq!(seen, [Connecting, TransientFailure]);
    let status = Caller::of(&channel).call().await.expect_err("nothing is ready");
    assert!(status.message().contains("no HTTP/2 SETTINGS within 300ms"), "{}", status.message());
    // With its SETTINGS it is READY.
    let (_peer, ()) = tokio::join!(silent.accept(&[]), state(&channel, Ready));
}

/// A channel with two connections in a row, the first of which is READY.
async fn raw_pair() -> (RawServer, Channel, Caller, raw::RawPeer) {
    let server = RawServer::bind().await;
    let channel = to(server.address()).connect().expect("a channel");
    let peer = server.accept(&[]).await;
    state(&channel, Ready).await;
    let caller = Caller::of(&channel);
    (server, channel, caller, peer)
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
    assert_eq!(soon("the late one", late).await.expect("no panic").expect("served"), "second");
    assert!(!early.is_finished());
    peer.answer(stream, "first").await;
    assert_eq!(soon("the early one", early).await.expect("no panic").expect("served"), "first");
    peer.closed().await;
}

#[tokio::test]
async fn h08_two_goaways_and_then_the_end_lose_nothing() {
    let (server, _channel, caller, mut peer) = raw_pair().await;
    let call = begin(&caller, hello());
    let stream = peer.request().await;
    // As graceful servers do: first without a limit, then with the last stream.
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
    assert_eq!(soon("the first", first).await.expect("no panic").expect("served"), "first");
    assert_eq!(soon("the second", second).await.expect("no panic").expect("served"), "second");
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
    // The next request is another RPC.
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
    let channel = to(server.address()).subconn_options(options).connect().expect("a channel");
    let mut peer = server.accept(&[]).await;
    state(&channel, Ready).await;
    let call = begin(&Caller::of(&channel), hello());
    peer.request().await;
    // From here on it reads nothing, and so answers no PING.
    let status = soon("the end of patience", call).await.expect("no panic").expect_err("lost");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("keep-alive timed out"), "{}", status.message());
}

#[tokio::test]
async fn h10_a_peer_that_speaks_http_1_is_a_failure_that_says_so() {
    use tokio::io::AsyncWriteExt as _;

    let server = RawServer::bind().await;
    let channel = to(server.address()).connect().expect("a channel");
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
    let channel = cluster.channel().subconn_options(quick()).connect().expect("a channel");
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
    let channel = cluster.channel().subconn_options(quick()).connect().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    let load = Load::start(&caller, 32, 0);
    for at in 0..4 {
        let old = &cluster.backends[at];
        let (name, address) = (old.name().to_owned(), old.address());
        // It closes its listener, says GOAWAY, and ends when its last stream has.
        old.leave();
        soon("the last connection to end", old.left()).await;
        cluster.backends[at] = Backend::start(&name, address).await.expect("its port is free");
        soon("READY again", Caller::ready(&channel, None)).await;
    }
    let (calls, failed) = load.stop().await;
    assert!(failed.is_empty(), "{} of {calls} failed: {:?}", failed.len(), failed[0]);
}

#[tokio::test]
async fn h12_an_empty_list_later_fails_rpcs_and_recovery_frees_the_waiters() {
    let cluster = Cluster::start(&["a"]).await;
    let channel = cluster.channel().connect().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    caller.call().await.expect("served");
    cluster.resolver.update(ResolverUpdate::endpoints([]));
    state(&channel, TransientFailure).await;
    let status = caller.call().await.expect_err("no endpoints");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("zero addresses"), "{}", status.message());
    let waiting = begin(&caller, patient());
    cluster.resolver.update(ResolverUpdate::endpoints(cluster.endpoints()));
    assert_eq!(soon("the waiter", waiting).await.expect("no panic").expect("served"), "a");
}

#[tokio::test]
async fn h12_a_bad_service_config_keeps_the_one_before() {
    let cluster = Cluster::start(&["a"]).await;
    let timeout: ServiceConfig =
        r#"{"methodConfig": [{"name": [{}], "timeout": "0.05s"}]}"#.parse().expect("good");
    let bad = || "{".parse::<ServiceConfig>();
    let silent = RawServer::bind().await;
    let endpoints = || ResolverUpdate::endpoints([Endpoint::new(silent.address().into())]);
    cluster.resolver.update(endpoints().with_service_config(Ok(timeout)));
    let channel = cluster.channel().connect().expect("a channel");
    let caller = Caller::of(&channel);
    assert_eq!(caller.call().await.expect_err("too late").code(), Code::DeadlineExceeded);
    // It has been taken in when the endpoint that came with it is there.
    let heavy = Endpoint::new(silent.address().into()).with_weight(9);
    cluster.resolver.update(ResolverUpdate::endpoints([heavy]).with_service_config(bad()));
    let taken = |status: &ChannelStatus| status.subconns[0].endpoint().weight() == 9;
    soon("the update", channel.wait_for(taken)).await;
    assert_eq!(caller.call().await.expect_err("too late").code(), Code::DeadlineExceeded);
    // From the start it is as if there were none.
    let cluster = Cluster::start(&["a"]).await;
    cluster.resolver.update(ResolverUpdate::endpoints(cluster.endpoints()).with_service_config(bad()));
    let channel = cluster.channel().connect().expect("a channel");
    let answer = soon("the answer", Caller::of(&channel).call()).await;
    assert_eq!(answer.expect("served"), "a");
}

#[tokio::test]
async fn h13_duplicates_attributes_and_order_dial_nothing() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let channel = cluster.channel().connect().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    let [a, b] = [0, 1].map(|at| cluster.endpoints()[at].clone());
    for (list, count) in [
        (vec![a.clone(), b.clone(), a.clone(), a.clone().with_weight(2)], 2),
        (vec![b.clone(), a.clone()], 2),
        (vec![b.clone().with_attribute("zone", "x"), a.clone().with_weight(3)], 2),
    ] {
        let last = list.last().expect("some").clone();
        cluster.resolver.update(ResolverUpdate::endpoints(list));
        let seen = |status: &ChannelStatus| {
            status.subconns.len() == count
                && (status.subconns.iter().any(|s| *s.endpoint() == last) || last.weight() == 2)
        };
        soon("the change", channel.wait_for(seen)).await;
        caller.tally(4).await;
    }
    assert_eq!(cluster.accepted(), 2);
}

#[tokio::test]
async fn h13_a_disjoint_list_replaces_all_and_a_thousand_become_ten() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let [a, b] = [0, 1].map(|at| cluster.endpoints()[at].clone());
    cluster.resolver.update(ResolverUpdate::endpoints(vec![a]));
    let channel = cluster.channel().subconn_options(quick()).connect().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    assert_eq!(caller.call().await.expect("served"), "a");
    cluster.resolver.update(ResolverUpdate::endpoints(vec![b.clone()]));
    let replaced = |status: &ChannelStatus| *status.subconns[0].endpoint() == b && status.state == Ready;
    soon("the other", channel.wait_for(replaced)).await;
    assert_eq!(caller.call().await.expect("served"), "b");

    let many = |count: u16| {
        let refusing = |n: u16| Endpoint::new(format!("127.0.0.1:{}", 1 + n).parse().expect("an address"));
        let mut all: Vec<_> = (0..count - 1).map(refusing).collect();
        all.push(b.clone());
        ResolverUpdate::endpoints(all)
    };
    cluster.resolver.update(many(1000));
    soon("a thousand", channel.wait_for(|status| status.subconns.len() == 1000)).await;
    caller.call().await.expect("served");
    cluster.resolver.update(many(10));
    soon("ten", channel.wait_for(|status| status.subconns.len() == 10)).await;
    assert_eq!(caller.call().await.expect("served"), "b");
    assert_eq!(cluster.accepted(), 2);
}

#[tokio::test]
async fn h14_a_removed_subconn_finishes_its_rpcs_takes_no_more_and_closes() {
    let (server, _, _, _) = raw_pair().await;
    let cluster = Cluster::start(&["a"]).await;
    let mut both = cluster.endpoints();
    both.push(Endpoint::new(server.address().into()));
    cluster.resolver.update(ResolverUpdate::endpoints(both));
    let native = Native::new(|ready, info| {
        let at = usize::from(!info.metadata.contains_key("first"));
        let ready = ready.ready();
        let one = ready.get(at).or(ready.first());
        one.map_or(PickResult::Queue, |one| PickResult::Pick(Pick::to(one.clone())))
    });
    let channel = cluster.channel().native_policy(native).connect().expect("a channel");
    let mut peer = server.accept(&[]).await;
    let caller = Caller::ready(&channel, Some("native")).await;
    let under_way = begin(&caller, hello());
    let stream = peer.request().await;
    cluster.resolver.update(ResolverUpdate::endpoints(cluster.endpoints()));
    soon("the removal", channel.wait_for(|status| status.subconns.len() == 1)).await;
    assert_eq!(caller.call().await.expect("served"), "a");
    peer.answer(stream, "removed").await;
    assert_eq!(soon("the answer", under_way).await.expect("no panic").expect("served"), "removed");
    peer.closed().await;
}

#[tokio::test]
async fn h15_when_all_fail_rpcs_fail_fast_until_the_first_is_ready() {
    let cluster = Cluster::start(&["a"]).await;
    let refusing = |port: u16| Endpoint::new(format!("127.0.0.1:{port}").parse().expect("an address"));
    cluster.resolver.update(ResolverUpdate::endpoints([refusing(1), refusing(2)]));
    let channel = cluster.channel().subconn_options(quick()).connect().expect("a channel");
    state(&channel, TransientFailure).await;
    let caller = Caller::of(&channel);
    let dials = |status: &ChannelStatus| -> u64 { status.subconns.iter().map(|s| s.stats().dials).sum() };
    // Through several attempts it never goes back to waiting.
    while dials(&caller.status()) < 8 {
        let status = soon("a fast failure", caller.call()).await.expect_err("all fail");
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("last connection error: connect to 127.0.0.1:"), "{status}");
        assert_eq!(channel.state(), TransientFailure);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut endpoints = cluster.endpoints();
    endpoints.push(refusing(1));
    cluster.resolver.update(ResolverUpdate::endpoints(endpoints));
    state(&channel, Ready).await;
    assert_eq!(caller.call().await.expect("served"), "a");
}

#[tokio::test]
async fn h16_dials_to_a_peer_that_closes_at_once_are_bounded_by_the_backoff() {
    let server = RawServer::bind().await;
    let mut options = quick();
    options.backoff.base = Duration::from_millis(100);
    options.backoff.max = Duration::from_secs(10);
    options.backoff.jitter = 0.0;
    let _channel = to(server.address()).subconn_options(options).connect().expect("a channel");
    let mut accepted = 0;
    let flapping = async {
        loop {
            // It even speaks HTTP/2 first.
            drop(server.accept(&[]).await);
            accepted += 1;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(2), flapping).await;
    // At 0, once more at 0, then after 160, 256, 410, 655 ms.
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
    let channel = cluster.channel().native_policy(least).connect().expect("a channel");
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
    // One connection alone: the second RPC waits for the first.
    let channel = to(backend.address()).connect().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    let (send, answers) = open(&caller).await;
    let waiting = begin(&caller, hello());
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!waiting.is_finished());
    drop((send, answers));
    assert_eq!(soon("its turn on the one", waiting).await.expect("no panic").expect("served"), "a");
    assert_eq!(backend.accepted(), 1);

    // Up to three: as many RPCs at once, and the fourth waits.
    let mut options = quick();
    options.max_connections = 3;
    let channel = to(backend.address()).subconn_options(options).connect().expect("a channel");
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
    assert_eq!(soon("its turn", waiting).await.expect("no panic").expect("served"), "a");
    assert_eq!(backend.accepted(), 4);
}

#[tokio::test]
async fn h18_rpcs_that_wait_for_a_stream_go_on_when_the_peer_allows_more() {
    const MAX_CONCURRENT_STREAMS: u16 = 3;
    let server = RawServer::bind().await;
    let mut options = quick();
    options.max_connections = 2;
    let channel = to(server.address()).subconn_options(options).connect().expect("a channel");
    let one = [(MAX_CONCURRENT_STREAMS, 1)];
    let mut first = server.accept(&one).await;
    state(&channel, Ready).await;
    let caller = Caller::of(&channel);
    let calls = [0; 3].map(|_| begin(&caller, hello()));
    let stream = first.request().await;
    let mut second = server.accept(&one).await;
    let other = second.request().await;
    // The third waits; neither connection is free.
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
async fn a_further_connection_that_does_not_last_is_made_again_with_a_backoff() {
    let server = RawServer::bind().await;
    let mut options = quick();
    options.connections = 2;
    options.backoff.base = Duration::from_millis(100);
    options.backoff.max = Duration::from_millis(100);
    options.backoff.jitter = 0.0;
    let channel = to(server.address()).subconn_options(options).connect().expect("a channel");
    let _first = server.accept(&[]).await;
    let mut accepted = 0;
    let flapping = async {
        loop {
            drop(server.accept(&[]).await);
            accepted += 1;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), flapping).await;
    // At once, and then every 100 ms.
    assert!((2..=11).contains(&accepted), "{accepted} connections in a second");
    assert_eq!(channel.state(), Ready);
}

#[tokio::test]
async fn several_connections_to_an_endpoint_share_its_rpcs_and_are_made_again() {
    let mut cluster = Cluster::start(&["a"]).await;
    let mut options = quick();
    options.connections = 3;
    let channel = cluster.channel().subconn_options(options).connect().expect("a channel");
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
    let channel = cluster.channel().subconn_options(options).connect().expect("a channel");
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
async fn h19_a_channel_without_rpcs_goes_idle_and_an_rpc_wakes_it() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let channel = cluster.channel().idle_timeout(Duration::from_millis(100)).connect().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    let ids: BTreeSet<_> = caller.status().subconns.iter().map(SubConn::id).collect();
    state(&channel, Idle).await;
    until("the connections to go", || {
        channel.status().subconns.iter().all(|subconn| subconn.stats().connections == 0)
    })
    .await;
    caller.call().await.expect("served");
    assert_eq!(channel.state(), Ready);
    // The same subconns, connected anew.
    assert_eq!(caller.status().subconns.iter().map(SubConn::id).collect::<BTreeSet<_>>(), ids);
    // A stream that is open is no idleness.
    let (send, mut answers) = open(&caller).await;
    let other = cluster.channel().idle_timeout(Duration::from_millis(100)).connect().expect("a channel");
    for _ in 0..2 {
        // Long enough for one that has none.
        state(&other, Ready).await;
        state(&other, Idle).await;
        other.connect();
    }
    assert_eq!(channel.state(), Ready);
    send.send(EchoRequest::new("still here")).await.expect("open");
    answers.next().await.expect("an answer").expect("a good one");
    drop((send, answers));
    state(&channel, Idle).await;
    // Nor need there be an RPC.
    channel.connect();
    state(&channel, Ready).await;
}

/// Has no answer until it is watched for the second time.
#[derive(Debug)]
struct Later(std::sync::atomic::AtomicBool, Endpoint);

impl Resolver for Later {
    fn watch(&self, _: &Target, _: ResolveNow) -> ResolverStream {
        match self.0.swap(true, std::sync::atomic::Ordering::SeqCst) {
            false => Box::pin(tokio_stream::pending()),
            true => Box::pin(tokio_stream::once(ResolverUpdate::endpoints([self.1.clone()]))),
        }
    }
}

#[tokio::test]
async fn h19_an_rpc_wakes_a_channel_that_went_idle_before_it_was_resolved() {
    let cluster = Cluster::start(&["a"]).await;
    for early in [true, false] {
        let resolver = Later(Default::default(), cluster.endpoints().remove(0));
        let channel = Channel::builder("static:///later").resolver(resolver).connect().expect("a channel");
        let caller = Caller::of(&channel);
        let rpc = early.then(|| begin(&caller, hello()));
        tokio::task::yield_now().await;
        channel.enter_idle();
        if !early {
            state(&channel, Idle).await;
        }
        let rpc = rpc.unwrap_or_else(|| begin(&caller, hello()));
        assert_eq!(soon("the answer", rpc).await.expect("no panic").expect("served"), "a");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h19_going_idle_races_with_rpcs_and_loses_none() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let channel = cluster.channel().connect().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    let load = Load::start(&caller, 4, 2);
    for _ in 0..100 {
        channel.enter_idle();
        caller.call().await.expect("served");
    }
    let (calls, failed) = load.stop().await;
    assert!(failed.is_empty(), "{} of {calls} failed: {:?}", failed.len(), failed[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h20_ten_thousand_updates_of_the_endpoints_lose_no_rpc_and_no_memory() {
    let cluster = Cluster::start(&["a", "b", "c"]).await;
    let channel = cluster.channel().connect().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    let load = Load::start(&caller, 8, 0);
    let all = cluster.endpoints();
    let mut memory = Vec::new();
    for round in 0..10_000usize {
        // One stays; another comes or goes, or has another weight.
        let mut some = vec![all[0].clone()];
        some.extend(all[1..].iter().filter(|_| round % 3 > 0).cloned());
        some.push(all[1 + round % 2].clone().with_weight(u32::try_from(round % 7).expect("small")));
        let count = some.iter().map(|endpoint| endpoint.addresses().to_vec()).collect::<BTreeSet<_>>().len();
        cluster.resolver.update(ResolverUpdate::endpoints(some));
        if round % 10 == 0 {
            soon("the update", channel.wait_for(|status| status.subconns.len() == count)).await;
        }
        if round % 2500 == 2499 {
            memory.push(hotpick_tests::resident("self"));
        }
    }
    let (calls, failed) = load.stop().await;
    assert!(failed.is_empty(), "{} of {calls} failed: {:?}", failed.len(), failed[0]);
    // In the same process other tests run, which have their own; so generously.
    let growth = memory[3].saturating_sub(memory[1]);
    assert!(growth < 64 << 10, "{growth} KiB more: {memory:?}");
}

#[tokio::test]
async fn a_graceful_shutdown_finishes_rpcs_and_takes_no_new_ones() {
    let cluster = Cluster::start(&["a"]).await;
    let channel = cluster.channel().connect().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    let (send, mut answers) = open(&caller).await;
    let closing = tokio::spawn({
        let channel = channel.clone();
        async move { channel.shutdown().await }
    });
    tokio::task::yield_now().await;
    let status = caller.call().await.expect_err("closed");
    assert_eq!((status.code(), status.message()), (Code::Cancelled, "the channel is closed"));
    send.send(EchoRequest::new("last")).await.expect("open");
    assert_eq!(answers.next().await.expect("an answer").expect("a good one").text, "last");
    assert!(!closing.is_finished());
    drop(send);
    // At its end nothing of an RPC is left, though the answers are kept.
    assert!(answers.next().await.is_none());
    soon("the shutdown", closing).await.expect("no panic");
    state(&channel, ConnectivityState::Shutdown).await;
}

#[tokio::test]
async fn a_hard_shutdown_ends_rpcs_now_with_cancelled() {
    let (_server, channel, caller, mut peer) = raw_pair().await;
    let waiting = begin(&caller, hello());
    peer.request().await;
    let cluster = Cluster::start(&["a"]).await;
    let other = cluster.channel().connect().expect("a channel");
    let (_send, mut answers) = open(&Caller::ready(&other, None).await).await;
    channel.close();
    other.close();
    let status = soon("the end", waiting).await.expect("no panic").expect_err("closed");
    assert_eq!((status.code(), status.message()), (Code::Cancelled, "the channel is closed"));
    let status = soon("the end", answers.next()).await.expect("an item").expect_err("closed");
    assert_eq!((status.code(), status.message()), (Code::Cancelled, "the channel is closed"));
    assert_eq!(caller.call().await.expect_err("closed").code(), Code::Cancelled);
    peer.closed().await;
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
    let channel = cluster.channel().subconn_options(options).connect().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    assert_eq!(caller.call().await.expect("served"), "a");
    assert_eq!(caller.dials(), 1);
}

/// A backend with a health service, and a channel that watches the health of "echo".
async fn checked() -> (Cluster, Channel) {
    let mut cluster = Cluster::start(&[]).await;
    let mut options = BackendOptions::default();
    options.health = true;
    for name in ["a", "b"] {
        let address = "127.0.0.1:0".parse().expect("an address");
        let backend = Backend::start_with(name, address, options).await.expect("a free port");
        backend.set_serving("echo", true).await;
        cluster.backends.push(backend);
    }
    cluster.resolver.update(ResolverUpdate::endpoints(cluster.endpoints()));
    let config = r#"{"healthCheckConfig": {"serviceName": "echo"}}"#.parse().expect("a config");
    let channel = cluster.channel().subconn_options(quick()).service_config(config).connect();
    (cluster, channel.expect("a channel"))
}

#[tokio::test]
async fn h28_rpcs_follow_what_the_health_service_says() {
    let (cluster, channel) = checked().await;
    let caller = Caller::ready(&channel, None).await;
    assert_eq!(caller.tally(10).await.len(), 2);
    for round in 0..4 {
        let (sick, well) = (round % 2, (round + 1) % 2);
        cluster.backends[sick].set_serving("echo", false).await;
        let moved = |status: &ChannelStatus| status.subconns[sick].state() == TransientFailure;
        soon("NOT_SERVING", channel.wait_for(moved)).await;
        assert_eq!(caller.tally(10).await.get(cluster.backends[well].name()), Some(&10));
        cluster.backends[sick].set_serving("echo", true).await;
        Caller::ready(&channel, None).await;
        assert_eq!(caller.tally(10).await.len(), 2);
    }
    // All of it on the connections that were there.
    assert_eq!((cluster.accepted(), caller.dials()), (2, 2));
    for backend in &cluster.backends {
        backend.set_serving("echo", false).await;
    }
    state(&channel, TransientFailure).await;
    let status = caller.call().await.expect_err("none serves");
    assert!(status.message().contains("the health service says NOT_SERVING of \"echo\""), "{status}");
}

#[tokio::test]
async fn h28_a_server_without_a_health_service_counts_as_healthy() {
    let cluster = Cluster::start(&["a"]).await;
    let config = r#"{"healthCheckConfig": {"serviceName": "echo"}}"#.parse().expect("a config");
    let channel = cluster.channel().service_config(config).connect().expect("a channel");
    assert_eq!(Caller::ready(&channel, None).await.call().await.expect("served"), "a");
}

#[tokio::test]
async fn h28_errors_of_the_watch_are_tried_again_with_a_backoff() {
    let server = RawServer::bind().await;
    let config = r#"{"healthCheckConfig": {"serviceName": "echo"}}"#.parse().expect("a config");
    let mut options = quick();
    options.backoff.jitter = 0.0;
    let channel = to(server.address()).subconn_options(options).service_config(config);
    let channel = channel.connect().expect("a channel");
    let mut peer = server.accept(&[]).await;
    let begin = tokio::time::Instant::now();
    for _ in 0..4 {
        let watch = peer.request().await;
        peer.refuse(watch, 13, "out of order").await;
    }
    // At once, then after 20, 32 and 51 ms.
    assert!(begin.elapsed() >= Duration::from_millis(50), "{:?}", begin.elapsed());
    state(&channel, TransientFailure).await;
    let status = Caller::of(&channel).call().await.expect_err("no one knows");
    assert!(status.message().contains("the health check fails: out of order"), "{status}");
    let watch = peer.request().await;
    peer.refuse(watch, 12, "no such method").await;
    state(&channel, Ready).await;
}

#[tokio::test]
async fn h28_a_goaway_during_the_watch_costs_nothing() {
    let (cluster, channel) = checked().await;
    let caller = Caller::ready(&channel, None).await;
    let load = Load::start(&caller, 4, 0);
    for round in 0..10 {
        let backend = &cluster.backends[round % 2];
        let before = backend.accepted();
        backend.drain();
        let again = |status: &ChannelStatus| {
            backend.accepted() > before && status.subconns.iter().all(|subconn| subconn.state() == Ready)
        };
        soon("the next connection", channel.wait_for(again)).await;
    }
    let (calls, failed) = load.stop().await;
    assert!(failed.is_empty(), "{} of {calls} failed: {:?}", failed.len(), failed[0]);
}

#[tokio::test]
async fn health_checking_can_be_turned_on_and_off_while_rpcs_run() {
    let (cluster, channel) = checked().await;
    let caller = Caller::ready(&channel, None).await;
    cluster.backends[0].set_serving("echo", false).await;
    soon("NOT_SERVING", channel.wait_for(|status| status.subconns[0].state() == TransientFailure)).await;
    let off = ServiceConfig::default();
    cluster.resolver.update(ResolverUpdate::endpoints(cluster.endpoints()).with_service_config(Ok(off)));
    Caller::ready(&channel, None).await;
    assert_eq!(caller.tally(10).await.len(), 2);
}

#[tokio::test]
async fn the_service_configs_timeouts_and_wait_for_ready_are_those_of_the_method() {
    let cluster = Cluster::start(&["a"]).await;
    let silent = RawServer::bind().await;
    cluster.resolver.update(ResolverUpdate::endpoints([Endpoint::new(silent.address().into())]));
    let config: ServiceConfig = r#"{"methodConfig": [
        {"name": [{"service": "hotpick.echo.Echo", "method": "Unary"}], "timeout": "0.05s"},
        {"name": [{"service": "hotpick.echo.Echo"}], "waitForReady": true}
    ]}"#
    .parse()
    .expect("a config");
    let channel = cluster.channel().service_config(config).connect().expect("a channel");
    let caller = Caller::of(&channel);
    let status = caller.call().await.expect_err("too late");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    // The shorter of two counts.
    let begin = tokio::time::Instant::now();
    caller.request(within(hello(), 60_000)).await.expect_err("too late");
    assert!(begin.elapsed() < Duration::from_secs(20));
    // The other method waits, though nothing is ready.
    cluster.resolver.update(ResolverUpdate::endpoints([]));
    state(&channel, TransientFailure).await;
    let mut client = caller.client.clone();
    let waiting = tokio::spawn(async move { client.server_stream(EchoRequest::new("x")).await.map(|_| ()) });
    assert_eq!(caller.call().await.expect_err("fails fast").code(), Code::Unavailable);
    cluster.resolver.update(ResolverUpdate::endpoints(cluster.endpoints()));
    soon("the one that waits", waiting).await.expect("no panic").expect("served");
}

#[tokio::test]
async fn a_method_timeout_reaches_the_server_as_grpc_timeout() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let server = async {
        let (stream, _) = listener.accept().await.expect("accepted");
        let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
        let (request, _) = connection.accept().await.expect("a request").expect("a good one");
        request.headers()["grpc-timeout"].to_str().expect("text").to_owned()
    };
    let config = r#"{"methodConfig": [{"name": [{}], "timeout": "7s"}]}"#.parse().expect("a config");
    let channel = to(address).service_config(config).connect().expect("a channel");
    let _call = begin(&Caller::of(&channel), hello());
    let told = soon("the request", server).await;
    let millis: u64 = told.strip_suffix('m').and_then(|text| text.parse().ok()).expect("milliseconds");
    assert!((5000..=7000).contains(&millis), "{told}");
}
