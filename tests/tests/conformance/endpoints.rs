//! The channel: resolver updates, service configs, states, idleness, shutdown (H12 to H15, H19, H20).

use std::collections::BTreeSet;
use std::time::Duration;

use hotpick::Channel;
use hotpick::channel::ChannelStatus;
use hotpick::connectivity::ConnectivityState::{self, Idle, Ready, TransientFailure};
use hotpick::picker::{Pick, PickResult};
use hotpick::resolver::{Endpoint, ResolveNow, Resolver, ResolverStream, ResolverUpdate, Target};
use hotpick::service_config::ServiceConfig;
use hotpick::subconn::SubConn;
use hotpick_echo::EchoRequest;
use hotpick_tests::raw::RawServer;
use hotpick_tests::{Caller, Cluster, Load, Native, soon};
use tokio_stream::StreamExt as _;
use tonic::Code;

use super::*;

#[tokio::test]
async fn h12_an_empty_list_later_fails_rpcs_and_recovery_frees_the_waiters() {
    let cluster = Cluster::start(&["a"]).await;
    let channel = cluster.channel().connect_lazy().expect("a channel");
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
    let channel = cluster.channel().connect_lazy().expect("a channel");
    let caller = Caller::of(&channel);
    assert_eq!(caller.call().await.expect_err("too late").code(), Code::DeadlineExceeded);
    // The new weight shows that the update has been applied.
    let heavy = Endpoint::new(silent.address().into()).with_weight(9);
    cluster.resolver.update(ResolverUpdate::endpoints([heavy]).with_service_config(bad()));
    let taken = |status: &ChannelStatus| status.subconns[0].endpoint().weight() == 9;
    soon("the update", channel.wait_for(taken)).await;
    assert_eq!(caller.call().await.expect_err("too late").code(), Code::DeadlineExceeded);
    // An invalid first config is ignored.
    let cluster = Cluster::start(&["a"]).await;
    cluster.resolver.update(ResolverUpdate::endpoints(cluster.endpoints()).with_service_config(bad()));
    let channel = cluster.channel().connect_lazy().expect("a channel");
    let answer = soon("the answer", Caller::of(&channel).call()).await;
    assert_eq!(answer.expect("served"), "a");
}

#[tokio::test]
async fn h13_duplicates_attributes_and_order_dial_nothing() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let channel = cluster.channel().connect_lazy().expect("a channel");
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
    let channel = cluster.channel().subconn_options(quick()).connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    assert_eq!(caller.call().await.expect("served"), "a");
    cluster.resolver.update(ResolverUpdate::endpoints(vec![b.clone()]));
    let replaced = |status: &ChannelStatus| *status.subconns[0].endpoint() == b && status.state == Ready;
    soon("the other endpoint", channel.wait_for(replaced)).await;
    assert_eq!(caller.call().await.expect("served"), "b");

    let many = |count: u16| {
        let refusing = |n: u16| Endpoint::new(format!("127.0.0.1:{}", 1 + n).parse().expect("an address"));
        let mut all: Vec<_> = (0..count - 1).map(refusing).collect();
        all.push(b.clone());
        ResolverUpdate::endpoints(all)
    };
    cluster.resolver.update(many(1000));
    soon("1000 subconns", channel.wait_for(|status| status.subconns.len() == 1000)).await;
    caller.call().await.expect("served");
    cluster.resolver.update(many(10));
    soon("10 subconns", channel.wait_for(|status| status.subconns.len() == 10)).await;
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
    let channel = cluster.channel().native_policy(native).connect_lazy().expect("a channel");
    let mut peer = server.accept(&[]).await;
    let caller = Caller::ready(&channel, Some("native")).await;
    let in_flight = begin(&caller, hello());
    let stream = peer.request().await;
    cluster.resolver.update(ResolverUpdate::endpoints(cluster.endpoints()));
    soon("the removal", channel.wait_for(|status| status.subconns.len() == 1)).await;
    assert_eq!(caller.call().await.expect("served"), "a");
    peer.answer(stream, "removed").await;
    assert_eq!(soon("the answer", in_flight).await.expect("no panic").expect("served"), "removed");
    peer.closed().await;
}

#[tokio::test]
async fn h15_when_all_fail_rpcs_fail_fast_until_the_first_is_ready() {
    let cluster = Cluster::start(&["a"]).await;
    let refusing = |port: u16| Endpoint::new(format!("127.0.0.1:{port}").parse().expect("an address"));
    cluster.resolver.update(ResolverUpdate::endpoints([refusing(1), refusing(2)]));
    let channel = cluster.channel().subconn_options(quick()).connect_lazy().expect("a channel");
    state(&channel, TransientFailure).await;
    let caller = Caller::of(&channel);
    let dials = |status: &ChannelStatus| -> u64 { status.subconns.iter().map(|s| s.stats().dials).sum() };
    // Between connection attempts RPCs still fail instead of waiting.
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
async fn h19_a_channel_without_rpcs_goes_idle_and_an_rpc_wakes_it() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let channel =
        cluster.channel().idle_timeout(Duration::from_millis(100)).connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    let ids: BTreeSet<_> = caller.status().subconns.iter().map(SubConn::id).collect();
    state(&channel, Idle).await;
    until("the connections to go", || {
        channel.status().subconns.iter().all(|subconn| subconn.stats().connections == 0)
    })
    .await;
    caller.call().await.expect("served");
    assert_eq!(channel.state(), Ready);
    // The same subconns are connected again.
    assert_eq!(caller.status().subconns.iter().map(SubConn::id).collect::<BTreeSet<_>>(), ids);
    // A channel with an open stream does not go idle.
    let (send, mut answers) = open(&caller).await;
    let other = cluster.channel().idle_timeout(Duration::from_millis(100)).connect_lazy().expect("a channel");
    for _ in 0..2 {
        // Waits for as long as a channel without RPCs takes to go idle.
        state(&other, Ready).await;
        state(&other, Idle).await;
        other.connect();
    }
    assert_eq!(channel.state(), Ready);
    send.send(EchoRequest::new("still here")).await.expect("open");
    answers.next().await.expect("an answer").expect("a message");
    drop((send, answers));
    state(&channel, Idle).await;
    // `connect` wakes the channel without an RPC.
    channel.connect();
    state(&channel, Ready).await;
}

/// A resolver that does not answer until it is watched for the second time.
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

/// A resolver that reports its endpoints to the first watch, and an error to later ones.
#[derive(Debug)]
struct OnlyOnce(std::sync::atomic::AtomicBool, Vec<Endpoint>);

impl Resolver for OnlyOnce {
    fn watch(&self, _: &Target, _: ResolveNow) -> ResolverStream {
        let update = match self.0.swap(true, std::sync::atomic::Ordering::SeqCst) {
            false => ResolverUpdate::endpoints(self.1.clone()),
            true => ResolverUpdate::error("the registry is gone"),
        };
        Box::pin(tokio_stream::once(update))
    }
}

#[tokio::test]
async fn h19_a_resolver_error_after_idleness_leaves_the_endpoints_that_were_known() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let resolver = OnlyOnce(false.into(), cluster.endpoints());
    let channel = Channel::builder("static:///once").resolver(resolver).connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    channel.enter_idle();
    state(&channel, Idle).await;
    caller.call().await.expect("served by a known endpoint");
    state(&channel, Ready).await;
}

#[tokio::test]
async fn h19_an_rpc_wakes_a_channel_that_went_idle_before_it_was_resolved() {
    let cluster = Cluster::start(&["a"]).await;
    for early in [true, false] {
        let resolver = Later(Default::default(), cluster.endpoints().remove(0));
        let channel =
            Channel::builder("static:///later").resolver(resolver).connect_lazy().expect("a channel");
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
    let channel = cluster.channel().connect_lazy().expect("a channel");
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
    let channel = cluster.channel().connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    let load = Load::start(&caller, 8, 0);
    let all = cluster.endpoints();
    let mut memory = Vec::new();
    for round in 0..10_000usize {
        // One endpoint stays. The others come and go, and change their weight.
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
    // The limit is generous, because other tests run in the same process.
    let growth = memory[3].saturating_sub(memory[1]);
    assert!(growth < 64 << 10, "{growth} KiB more: {memory:?}");
}

#[tokio::test]
async fn a_graceful_shutdown_finishes_rpcs_and_takes_no_new_ones() {
    let cluster = Cluster::start(&["a"]).await;
    let channel = cluster.channel().connect_lazy().expect("a channel");
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
    assert_eq!(answers.next().await.expect("an answer").expect("a message").text, "last");
    assert!(!closing.is_finished());
    drop(send);
    // The RPC is over, although `answers` is still held.
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
    let other = cluster.channel().connect_lazy().expect("a channel");
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
    let channel = cluster.channel().service_config(config).connect_lazy().expect("a channel");
    let caller = Caller::of(&channel);
    let status = caller.call().await.expect_err("too late");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    // The shorter of the two timeouts applies.
    let begin = tokio::time::Instant::now();
    caller.request(within(hello(), 60_000)).await.expect_err("too late");
    assert!(begin.elapsed() < Duration::from_secs(20));
    // The other method waits although nothing is ready.
    cluster.resolver.update(ResolverUpdate::endpoints([]));
    state(&channel, TransientFailure).await;
    let mut client = caller.client.clone();
    let waiting = tokio::spawn(async move { client.server_stream(EchoRequest::new("x")).await.map(|_| ()) });
    assert_eq!(caller.call().await.expect_err("fails fast").code(), Code::Unavailable);
    cluster.resolver.update(ResolverUpdate::endpoints(cluster.endpoints()));
    soon("the RPC that waits", waiting).await.expect("no panic").expect("served");
}

#[tokio::test]
async fn a_method_timeout_reaches_the_server_as_grpc_timeout() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let server = async {
        let (stream, _) = listener.accept().await.expect("accepted");
        let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
        let (request, _) = connection.accept().await.expect("a request").expect("a valid request");
        request.headers()["grpc-timeout"].to_str().expect("text").to_owned()
    };
    let config = r#"{"methodConfig": [{"name": [{}], "timeout": "7s"}]}"#.parse().expect("a config");
    let channel = to(address).service_config(config).connect_lazy().expect("a channel");
    let _call = begin(&Caller::of(&channel), hello());
    let timeout = soon("the request", server).await;
    let millis: u64 = timeout.strip_suffix('m').and_then(|text| text.parse().ok()).expect("milliseconds");
    assert!((5000..=7000).contains(&millis), "{timeout}");
}
