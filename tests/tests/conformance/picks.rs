//! Picks: queued, failed and dropped RPCs, and the outcome of each pick (H1 to H6).

use std::sync::Arc;
use std::time::Duration;

use hotpick::Channel;
use hotpick::channel::WaitForReady;
use hotpick::connectivity::ConnectivityState::{Connecting, Ready};
use hotpick::picker::{Pick, PickResult};
use hotpick::resolver::{Endpoint, ResolverUpdate};
use hotpick::service_config::ServiceConfig;
use hotpick::subconn::SubConn;
use hotpick_echo::{Backend, EchoRequest};
use hotpick_tests::raw::RawServer;
use hotpick_tests::{Caller, Cluster, Load, Native, soon};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

use super::*;

#[tokio::test]
async fn h01_without_a_picker_an_rpc_waits_to_its_deadline() {
    let silent = RawServer::bind().await;
    let channel =
        Channel::builder(format!("static:///{}", silent.address())).connect_lazy().expect("a channel");
    let caller = Caller::of(&channel);
    let status = caller.request(within(hello(), 50)).await.expect_err("nothing is ready");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(channel.state(), Connecting);
    // A waiting RPC can be cancelled.
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
    let channel = cluster.channel().connect_lazy().expect("a channel");
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
    let channel = cluster.channel().native_policy(native).connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, Some("native")).await;
    let status = caller.call().await.expect_err("the pick fails");
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "not today"));
    let status = caller.request(within(patient(), 50)).await.expect_err("nothing becomes ready");
    let text = "deadline exceeded: latest balancer error: not today";
    assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, text));
}

#[tokio::test]
async fn h03_wait_for_ready_can_be_the_channels_default() {
    let channel = Channel::builder("static:///127.0.0.1:1").subconn_options(quick()).wait_for_ready(true);
    let caller = Caller::of(&channel.connect_lazy().expect("a channel"));
    let status = caller.request(within(hello(), 100)).await.expect_err("nothing becomes ready");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(
        status.message().contains("latest balancer error: no endpoint of static:///127.0.0.1:1 is ready")
    );
    // An RPC can override the default of the channel.
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
        // Status codes that a control plane must not use (gRFC A54).
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
        let channel = cluster.channel().native_policy(native).connect_lazy().expect("a channel");
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
async fn h05_a_pick_of_a_subconn_that_is_gone_is_reported_once_and_picked_again() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let native = Native::new(|ready, info| match ready.all().first() {
        Some(first) if !info.requeued => PickResult::Pick(Pick::to(first.clone())),
        _ => ready.ready().last().map_or(PickResult::Queue, |last| PickResult::Pick(Pick::to(last.clone()))),
    });
    let ledger = native.ledger();
    let refusing = Endpoint::new("127.0.0.1:1".parse().expect("an address"));
    let b = cluster.endpoints().remove(1);
    cluster.resolver.update(ResolverUpdate::endpoints(vec![refusing.clone(), b.clone()]));
    let channel = cluster.channel().native_policy(native).connect_lazy().expect("a channel");
    state(&channel, Ready).await;
    soon("the policy", channel.wait_for(|status| status.policy.name == "native")).await;

    // The picked subconn is not ready: the RPC waits for a new picker, and is picked again.
    let caller = Caller::of(&channel);
    let held = begin(&caller, hello());
    until("the first pick", || ledger.ends().len() == 1).await;
    assert_eq!(ledger.ends(), [(None, false)]);
    // A changed attribute results in a new picker.
    let changed = vec![refusing, b.with_attribute("new", "yes")];
    cluster.resolver.update(ResolverUpdate::endpoints(changed));
    assert_eq!(soon("the held RPC", held).await.expect("no panic").expect("served"), "b");
    assert_eq!(ledger.ends(), [(None, false), (Some(Code::Ok), false)]);

    // The picked subconn has been removed: the picker holds one of a previous channel.
    let old: SubConn = caller.status().subconns[1].clone();
    let stale =
        Native::new(
            move |ready, info| {
                if info.requeued { first_ready(ready) } else { PickResult::Pick(Pick::to(old.clone())) }
            },
        );
    let ledger = stale.ledger();
    let other = Cluster::start(&["c"]).await;
    let channel = other.channel().native_policy(stale).connect_lazy().expect("a channel");
    Caller::ready(&channel, Some("native")).await;
    drop(caller);
    cluster.resolver.update(ResolverUpdate::endpoints([]));
    let caller = Caller::of(&channel);
    let rpc = async {
        loop {
            match caller.call().await.expect("served").as_str() {
                "c" => return,
                // The old subconn is not closed yet.
                _ => tokio::task::yield_now().await,
            }
        }
    };
    let changes = async {
        let mut weight = 1;
        loop {
            // Each new weight results in a new picker.
            weight += 1;
            let changed = vec![other.endpoints()[0].clone().with_weight(weight)];
            other.resolver.update(ResolverUpdate::endpoints(changed));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = async { soon("an RPC on the other server", rpc).await } => {}
        () = changes => {}
    }
    assert!(ledger.ends().contains(&(None, false)));
}

#[tokio::test]
async fn h06_the_outcome_of_every_pick_is_reported_exactly_once() {
    let mut cluster = Cluster::start(&["a"]).await;
    let silent = RawServer::bind().await;
    let native = Native::new(|ready, info| {
        // RPCs with this metadata get the peer that does not answer.
        let at = usize::from(info.metadata.contains_key("silent"));
        ready.ready().get(at).map_or(PickResult::Queue, |one| PickResult::Pick(Pick::to(one.clone())))
    });
    let ledger = native.ledger();
    let mut endpoints = cluster.endpoints();
    endpoints.push(Endpoint::new(silent.address().into()));
    cluster.resolver.update(ResolverUpdate::endpoints(endpoints.clone()));
    let channel = cluster.channel().native_policy(native).connect_lazy().expect("a channel");
    let mut peer = silent.accept(&[]).await;
    let caller = Caller::ready(&channel, Some("native")).await;
    let reported = |number: usize| {
        let ledger = Arc::clone(&ledger);
        async move { until("the outcome", || ledger.ends().len() == number).await }
    };

    // Success.
    caller.call().await.expect("served");
    reported(1).await;
    // An error from the server.
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    let request = tonic_health::pb::HealthCheckRequest::default();
    assert_eq!(health.check(request).await.expect_err("no such service").code(), Code::Unimplemented);
    reported(2).await;
    // Cancelled before the response headers.
    let mut request = hello();
    request.metadata_mut().insert("silent", tonic::metadata::MetadataValue::from_static("1"));
    let waiting = begin(&caller, request);
    peer.request().await;
    waiting.abort();
    reported(3).await;
    // Deadline exceeded before the response headers.
    let mut request = within(hello(), 50);
    request.metadata_mut().insert("silent", tonic::metadata::MetadataValue::from_static("1"));
    assert_eq!(caller.request(request).await.expect_err("too late").code(), Code::DeadlineExceeded);
    reported(4).await;
    // Cancelled after the first message.
    let (send, mut answers) = open(&caller).await;
    send.send(EchoRequest::new("one")).await.expect("open");
    answers.next().await.expect("an answer").expect("a message");
    drop((send, answers));
    reported(5).await;
    // Response body dropped unread.
    let request = EchoRequest { text: "many".to_owned(), count: 1000 };
    drop(caller.client.clone().server_stream(request).await.expect("an answer"));
    reported(6).await;
    // Deadline exceeded after the response headers.
    let (_send, receive) = mpsc::channel(1);
    let mut request = Request::new(ReceiverStream::new(receive));
    request.set_timeout(Duration::from_millis(50));
    let mut answers = caller.client.clone().bidi(request).await.expect("open").into_inner();
    let status = answers.next().await.expect("an item").expect_err("too late");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    reported(7).await;
    // Policy replaced during the RPC, then connection lost.
    let (_send, mut answers) = open(&caller).await;
    let round_robin: ServiceConfig =
        r#"{"loadBalancingConfig": [{"round_robin": {}}]}"#.parse().expect("good");
    let update = ResolverUpdate::endpoints(vec![endpoints.remove(0)]).with_service_config(Ok(round_robin));
    cluster.resolver.update(update);
    soon("the swap", channel.wait_for(|status| status.policy.name == "round_robin")).await;
    caller.call().await.expect("served, and not recorded in this ledger");
    cluster.backends.clear();
    let status = soon("the loss", answers.next()).await.expect("an item").expect_err("lost");
    assert_eq!(status.code(), Code::Unavailable);
    reported(8).await;

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
    let channel = cluster.channel().native_policy(native).connect_lazy().expect("a channel");
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
    until("every outcome", || ledger.ends().len() == ledger.picks()).await;
    let in_flight: u32 = caller.status().subconns.iter().map(|subconn| subconn.stats().in_flight).sum();
    assert_eq!(in_flight, 0);
}

#[tokio::test]
async fn h06_an_answer_without_a_status_is_the_servers_fault_and_not_the_clients() {
    let server = RawServer::bind().await;
    let native = Native::new(|ready, _| first_ready(ready));
    let ledger = native.ledger();
    let channel = to(server.address()).native_policy(native).connect_lazy().expect("a channel");
    let mut peer = server.accept(&[]).await;
    let caller = Caller::ready(&channel, Some("native")).await;
    let call = begin(&caller, hello());
    let stream = peer.request().await;
    // HEADERS with END_HEADERS and END_STREAM, containing only `:status: 200`.
    peer.send(1, 4 | 1, stream, &[0x88]).await;
    soon("the end", call).await.expect("no panic").expect_err("no grpc-status");
    assert_eq!(ledger.ends(), [(Some(Code::Unknown), false)]);
}

/// The request exceeds the flow-control window, and the peer never extends it.
#[tokio::test]
async fn h06_a_response_that_is_dropped_cancels_the_stream_though_the_peer_takes_no_more() {
    let (_server, _channel, caller, mut peer) = raw_pair().await;
    let requests =
        tokio_stream::iter([EchoRequest::new("x".repeat(60_000)), EchoRequest::new("y".repeat(60_000))]);
    let mut client = caller.client.clone();
    let call = tokio::spawn(async move { client.bidi(requests).await });
    let (mut number, mut taken) = (0, 0);
    while taken < 65_535 {
        let frame = soon("the window to be used", peer.frame()).await.expect("a frame");
        if frame.kind == 1 {
            number = frame.stream;
        }
        taken += if frame.kind == 0 { frame.payload.len() } else { 0 };
    }
    peer.begin_answer(number).await;
    drop(soon("the headers", call).await.expect("no panic").expect("open"));
    loop {
        let frame = soon("the reset", peer.frame()).await.expect("the end of the stream");
        if frame.kind == 3 {
            assert_eq!((frame.stream, &frame.payload[..]), (number, &8u32.to_be_bytes()[..]));
            break;
        }
    }
}

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
