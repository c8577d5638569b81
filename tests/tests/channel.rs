//! Tests of the channel and its subconns.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hotpick::Channel;
use hotpick::Target;
use hotpick::channel::WaitForReady;
use hotpick::connectivity::ConnectivityState;
use hotpick::picker::{Pick, PickInfo, PickResult, Picker};
use hotpick::policy::{PickerBuilder, Placement, Policy, PolicyVersion, StartError};
use hotpick::resolver::{Endpoint, ResolveNow, Resolver, ResolverStream, ResolverUpdate};
use hotpick::subconn::ReadySet;
use hotpick::transport::SubConnOptions;
use hotpick_echo::{Backend, EchoRequest};
use hotpick_tests::{Caller, Cluster, Load, soon};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Request};
use tower::Service as _;

#[tokio::test]
async fn all_four_kinds_of_rpc_work_through_a_generated_client() {
    let cluster = Cluster::start(&["a"]).await;
    let caller = Caller::ready(&cluster.channel().connect_lazy().expect("a channel"), None).await;
    let mut client = caller.client.clone();

    let answer = client.unary(EchoRequest::new("one")).await.expect("an answer").into_inner();
    assert_eq!((answer.text.as_str(), answer.backend.as_str()), ("one", "a"));

    let request = EchoRequest { text: "many".to_owned(), count: 3 };
    let answers = client.server_stream(request).await.expect("an answer").into_inner();
    let texts: Vec<_> = answers.map(|answer| answer.expect("a message").text).collect().await;
    assert_eq!(texts, ["many", "many", "many"]);

    let requests = tokio_stream::iter(["a", "b", "c"].map(EchoRequest::new));
    let answer = client.client_stream(requests).await.expect("an answer").into_inner();
    assert_eq!(answer.text, "abc");

    let requests = tokio_stream::iter(["x", "y"].map(EchoRequest::new));
    let answers = client.bidi(requests).await.expect("an answer").into_inner();
    let texts: Vec<_> = answers.map(|answer| answer.expect("a message").text).collect().await;
    assert_eq!(texts, ["x", "y"]);

    let stats = caller.status().subconns[0].stats();
    assert_eq!((stats.picked, stats.succeeded, stats.failed, stats.in_flight), (4, 4, 0, 0));
}

/// A proxy receives a message, an empty DATA frame, and later the end of the stream from its clients. Servers close
/// connections that send many empty frames.
#[tokio::test]
async fn frames_of_nothing_are_not_passed_on() {
    let cluster = Cluster::start(&["a"]).await;
    let caller = Caller::ready(&cluster.channel().connect_lazy().expect("a channel"), None).await;
    for _ in 0..300 {
        let (send, frames) = mpsc::unbounded_channel();
        for frame in [&[0, 0, 0, 0, 3, 10, 1, b'x'][..], &[]] {
            send.send(Ok::<_, tonic::Status>(Frame::data(Bytes::from_static(frame)))).expect("open");
        }
        let body = tonic::body::Body::new(StreamBody::new(UnboundedReceiverStream::new(frames)));
        let request =
            http::Request::post("/hotpick.echo.Echo/Unary").header("content-type", "application/grpc");
        let response = caller.channel().clone().call(request.body(body).expect("a request"));
        let ended = async {
            tokio::task::yield_now().await;
            drop(send);
        };
        let (response, ()) = tokio::join!(response, ended);
        let end = response.expect("an answer").into_body().collect().await.expect("no error");
        assert_eq!(end.trailers().and_then(|end| end.get("grpc-status")).expect("a status"), "0");
    }
    assert_eq!(cluster.accepted(), 1);
}

#[tokio::test]
async fn without_a_policy_rpcs_spread_round_robin() {
    let cluster = Cluster::start(&["a", "b", "c"]).await;
    let caller = Caller::ready(&cluster.channel().connect_lazy().expect("a channel"), None).await;
    let tally = caller.tally(300).await;
    assert_eq!(tally.into_values().collect::<Vec<_>>(), [100, 100, 100]);
}

#[tokio::test]
async fn a_static_target_needs_no_resolver() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let [a, b] = [0, 1].map(|at| cluster.backends[at].address());
    let channel = Channel::builder(format!("static:///{a},{b}")).connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    assert_eq!(caller.tally(10).await.into_values().collect::<Vec<_>>(), [5, 5]);
}

#[tokio::test]
async fn a_backend_that_is_killed_and_restarted_gets_its_share_again() {
    let mut cluster = Cluster::start(&["a", "b", "c"]).await;
    let channel = cluster.channel().connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, None).await;

    let killed = cluster.backends.remove(1);
    let address = killed.address();
    drop(killed);
    let two_left = |status: &hotpick::channel::ChannelStatus| {
        status.subconns[1].state() != ConnectivityState::Ready && status.state == ConnectivityState::Ready
    };
    soon("the loss to be seen", channel.wait_for(two_left)).await;
    let tally = caller.tally(300).await;
    assert_eq!((tally.get("a"), tally.get("b"), tally.get("c")), (Some(&150), None, Some(&150)));

    let _restarted = Backend::start("b", address).await.expect("its port is free again");
    let caller = Caller::ready(&channel, None).await;
    assert_eq!(caller.tally(300).await.into_values().collect::<Vec<_>>(), [100, 100, 100]);
}

#[tokio::test]
async fn an_endpoint_that_refuses_costs_no_rpc() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let refusing = Endpoint::new("127.0.0.1:1".parse().expect("an address"));
    cluster.resolver.update(ResolverUpdate::endpoints([vec![refusing], cluster.endpoints()].concat()));
    let caller = Caller::of(&cluster.channel().connect_lazy().expect("a channel"));
    let tally = caller.tally(300).await;
    assert_eq!(tally.values().sum::<usize>(), 300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_goaways_under_load_lose_nothing() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let channel = cluster.channel().connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    let load = Load::start(&caller, 8, 4);
    for round in 1..=20 {
        let backend = &cluster.backends[round % 2];
        let before = backend.accepted();
        backend.drain();
        let reconnected =
            channel.wait_for(|status| backend.accepted() > before && status.ready.ready().len() == 2);
        soon("a new connection after GOAWAY", reconnected).await;
    }
    let (calls, failed) = load.stop().await;
    assert!(failed.is_empty(), "{} of {calls} failed: {:?}", failed.len(), failed[0]);
    assert_eq!(caller.dials(), 22);
}

/// A server that refuses the first stream, answers the others with PERMISSION_DENIED, and sends their bodies to
/// `requests`.
async fn refuses_once(listener: TcpListener, requests: mpsc::UnboundedSender<Vec<u8>>) {
    let (stream, _) = listener.accept().await.expect("accepted");
    let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
    let mut refuse = true;
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        if std::mem::take(&mut refuse) {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
            continue;
        }
        let requests = requests.clone();
        tokio::spawn(async move {
            let mut body = request.into_body();
            let mut bytes = Vec::new();
            while let Some(data) = body.data().await {
                bytes.extend_from_slice(&data.expect("a body"));
            }
            requests.send(bytes).expect("the test waits");
            let response = http::Response::builder().header("content-type", "application/grpc");
            let response = response.header("grpc-status", "7").header("grpc-message", "second").body(());
            respond.send_response(response.expect("a response"), true).expect("sent");
        });
    }
}

#[tokio::test]
async fn a_stream_that_the_peer_refuses_is_sent_again_once_and_whole() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let (send, mut requests) = mpsc::unbounded_channel();
    tokio::spawn(refuses_once(listener, send));
    let channel = Channel::builder(format!("static:///{address}")).connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    let status = soon("the second attempt", caller.call()).await.expect_err("permission denied");
    assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "second"));
    // The prefix of a gRPC message (5 bytes), and field 1 with the text.
    let request = requests.recv().await.expect("a request");
    assert_eq!(request, [&[0, 0, 0, 0, 7, 0x0a, 5][..], b"hello"].concat());
    assert_eq!(caller.dials(), 1);
}

#[test]
fn a_channel_whose_runtime_is_gone_fails_its_rpcs() {
    let runtime = || tokio::runtime::Runtime::new().expect("a runtime");
    let first = runtime();
    let (_cluster, caller) = first.block_on(async {
        let cluster = Cluster::start(&["a"]).await;
        let channel = cluster.channel().connect_lazy().expect("a channel");
        let caller = Caller::ready(&channel, None).await;
        caller.call().await.expect("served");
        (cluster, caller)
    });
    drop(first);
    let status = runtime().block_on(soon("the failure", caller.call())).expect_err("nothing serves");
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "the channel's runtime has ended"));
}

#[tokio::test]
async fn a_native_policy_picks_like_any_other() {
    #[derive(Debug)]
    struct Last;
    impl Policy for Last {
        fn version(&self) -> PolicyVersion {
            PolicyVersion::new("last", 1, "")
        }
        fn start(&self, _: &Placement, _: &ReadySet) -> Result<Box<dyn PickerBuilder>, StartError> {
            Ok(Box::new(Self))
        }
    }
    impl PickerBuilder for Last {
        fn build(&mut self, ready: &ReadySet) -> Arc<dyn Picker> {
            Arc::new(LastOf(ready.clone()))
        }
    }
    #[derive(Debug)]
    struct LastOf(ReadySet);
    impl Picker for LastOf {
        fn pick(&self, _: &PickInfo<'_>) -> PickResult {
            let last = self.0.ready().last();
            last.map_or(PickResult::Queue, |last| PickResult::Pick(Pick::to(last.clone())))
        }
    }
    let cluster = Cluster::start(&["a", "b"]).await;
    let channel = cluster.channel().native_policy(Last).connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, Some("last")).await;
    assert_eq!(caller.tally(10).await.get("b"), Some(&10));
}

#[tokio::test]
async fn a_peer_that_never_speaks_http2_is_not_ready() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = silent.local_addr().expect("an address");
    let channel = Channel::builder(format!("static:///{address}")).connect_lazy().expect("a channel");
    let _accepted = soon("the dial", silent.accept()).await.expect("accepted");
    let mut request = Request::new(EchoRequest::new("hello"));
    request.set_timeout(Duration::from_millis(100));
    let status = Caller::of(&channel).request(request).await.expect_err("nothing answers");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(channel.state(), ConnectivityState::Connecting);
}

#[tokio::test]
async fn an_attempt_that_is_given_up_leaves_no_connection_behind() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = silent.local_addr().expect("an address");
    let mut options = SubConnOptions::default();
    options.connect_timeout = Duration::from_millis(50);
    let channel = Channel::builder(format!("static:///{address}")).subconn_options(options);
    let channel = channel.connect_lazy().expect("a channel");
    let (mut stream, _) = soon("the dial", silent.accept()).await.expect("accepted");
    let status = soon("the timeout", Caller::of(&channel).call()).await.expect_err("no SETTINGS");
    assert!(status.message().contains("no HTTP/2 SETTINGS within 50ms"), "{}", status.message());
    let mut rest = Vec::new();
    // The peer sees either the end of the stream or a reset.
    let _ = soon("the end of the connection", stream.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn a_peer_that_closes_at_once_is_unavailable_and_not_dialled_in_a_loop() {
    let rude = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = rude.local_addr().expect("an address");
    tokio::spawn(async move { while rude.accept().await.is_ok() {} });
    let channel = Channel::builder(format!("static:///{address}")).connect_lazy().expect("a channel");
    let caller = Caller::of(&channel);
    let status = caller.call().await.expect_err("nothing answers");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains(&address.to_string()), "{}", status.message());
    assert_eq!(caller.dials(), 1);
}

#[tokio::test]
async fn without_endpoints_rpcs_fail_until_there_is_one() {
    let cluster = Cluster::start(&["a"]).await;
    cluster.resolver.update(ResolverUpdate::endpoints([]));
    let channel = cluster.channel().connect_lazy().expect("a channel");
    let caller = Caller::of(&channel);
    let status = caller.call().await.expect_err("no endpoint");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("zero addresses"), "{}", status.message());

    // A wait-for-ready RPC is queued until the first endpoint appears.
    let mut request = Request::new(EchoRequest::new("hello"));
    request.extensions_mut().insert(WaitForReady(true));
    let queued = tokio::spawn({
        let caller = caller.clone();
        async move { caller.request(request).await }
    });
    cluster.resolver.update(ResolverUpdate::endpoints(cluster.endpoints()));
    let backend = soon("the queued RPC", queued).await.expect("no panic").expect("served");
    assert_eq!(backend, "a");
}

#[tokio::test]
async fn a_resolver_error_counts_only_while_nothing_better_is_known() {
    let cluster = Cluster::start(&["a"]).await;
    cluster.resolver.update(ResolverUpdate::error("no such name"));
    let channel = cluster.channel().connect_lazy().expect("a channel");
    let status = Caller::of(&channel).call().await.expect_err("the target is not resolved");
    assert!(status.message().contains("no such name"), "{}", status.message());
    cluster.resolver.update(ResolverUpdate::endpoints(cluster.endpoints()));
    let caller = Caller::ready(&channel, None).await;
    cluster.resolver.update(ResolverUpdate::error("later"));
    assert_eq!(caller.tally(5).await.get("a"), Some(&5));
}

#[tokio::test]
async fn endpoints_come_and_go_without_a_dial_to_those_that_stay() {
    let cluster = Cluster::start(&["a", "b", "c"]).await;
    let all = cluster.endpoints();
    let channel = cluster.channel().connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, None).await;

    // Changes the order and a weight, lists one endpoint twice, and removes one.
    let changed = vec![all[2].clone().with_weight(7), all[0].clone(), all[2].clone()];
    cluster.resolver.update(ResolverUpdate::endpoints(changed));
    soon("the change", channel.wait_for(|status| status.subconns.len() == 2)).await;
    assert_eq!(caller.tally(10).await.into_iter().collect::<Vec<_>>(), [("a".into(), 5), ("c".into(), 5)]);
    assert_eq!(caller.status().subconns[0].endpoint().weight(), 7);
    assert_eq!(cluster.accepted(), 3);

    cluster.resolver.update(ResolverUpdate::endpoints(all));
    soon("the change", channel.wait_for(|status| status.subconns.len() == 3)).await;
    Caller::ready(&channel, None).await;
    assert_eq!(cluster.accepted(), 4);
}

#[tokio::test]
async fn a_stream_on_an_endpoint_that_is_removed_goes_on() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let channel = cluster.channel().connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    let load = Load::start(&caller, 0, 4);
    // Waits until all four streams are open, two on each backend.
    let open = |status: &hotpick::channel::ChannelStatus| {
        status.subconns.iter().all(|subconn| subconn.stats().in_flight == 2)
    };
    while !open(&caller.status()) {
        tokio::task::yield_now().await;
    }
    cluster.resolver.update(ResolverUpdate::endpoints(vec![cluster.endpoints()[0].clone()]));
    soon("the change", channel.wait_for(|status| status.subconns.len() == 1)).await;
    assert_eq!(caller.tally(10).await.get("a"), Some(&10));
    let (_, failed) = load.stop().await;
    assert!(failed.is_empty(), "{failed:?}");
}

#[tokio::test]
async fn the_states_of_a_channel_can_be_followed() {
    let cluster = Cluster::start(&["a"]).await;
    let channel = cluster.channel().connect_lazy().expect("a channel");
    let mut states = channel.states();
    let mut seen = Vec::new();
    while seen.last() != Some(&ConnectivityState::Ready) {
        seen.push(soon("READY", states.next()).await.expect("a state"));
    }
    assert_eq!(seen[0], ConnectivityState::Connecting);
    cluster.resolver.update(ResolverUpdate::endpoints([]));
    assert_eq!(soon("no endpoints", states.next()).await, Some(ConnectivityState::TransientFailure));
    drop(channel);
    assert_eq!(soon("the end", states.next()).await, Some(ConnectivityState::Shutdown));
    assert_eq!(soon("the end", states.next()).await, None);
}

#[tokio::test]
async fn a_lost_connection_under_an_rpc_is_unavailable() {
    let cluster = Cluster::start(&["a"]).await;
    let channel = cluster.channel().connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    let (_send, receive) = mpsc::channel(1);
    let requests = tokio_stream::wrappers::ReceiverStream::new(receive);
    let mut answers = caller.client.clone().bidi(requests).await.expect("open").into_inner();
    drop(cluster);
    let status = soon("the loss", answers.next()).await.expect("an item").expect_err("lost");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}

#[tokio::test]
async fn bad_arguments_are_refused_with_one_sentence() {
    let refuse =
        |builder: hotpick::channel::ChannelBuilder| builder.connect_lazy().expect_err("refused").to_string();
    assert_eq!(
        refuse(Channel::builder("")),
        "the target is empty: write dns:///name:port, or static:///host:port,host:port"
    );
    assert_eq!(
        refuse(Channel::builder("static:///a:1").policy("Color!")),
        "policy \"Color!\" is not a policy name: use a-z, 0-9, '_' and '-', at most 63, the first a letter or digit"
    );
    assert_eq!(
        refuse(Channel::builder("static:///a:1").authority("a b")),
        "invalid authority \"a b\": expected a host or host:port"
    );
}

/// A resolver that reports its endpoint. Its first watch then panics.
#[derive(Debug)]
struct Panics {
    endpoint: Endpoint,
    watched: AtomicUsize,
}

impl Resolver for Panics {
    fn watch(&self, _target: &Target, _resolve_now: ResolveNow) -> ResolverStream {
        let first = self.watched.fetch_add(1, Ordering::SeqCst) == 0;
        let answer = tokio_stream::iter([ResolverUpdate::endpoints([self.endpoint.clone()])]);
        let then = futures_util::stream::poll_fn(move |_| {
            assert!(!first, "intentional panic");
            std::task::Poll::Pending
        });
        Box::pin(futures_util::StreamExt::chain(answer, then))
    }
}

#[tokio::test]
async fn a_resolver_that_panics_is_watched_again_and_its_endpoints_stay() {
    let cluster = Cluster::start(&["a"]).await;
    let resolver = Arc::new(Panics { endpoint: cluster.endpoints().remove(0), watched: AtomicUsize::new(0) });
    #[derive(Debug)]
    struct Shared(Arc<Panics>);
    impl Resolver for Shared {
        fn watch(&self, target: &Target, resolve_now: ResolveNow) -> ResolverStream {
            self.0.watch(target, resolve_now)
        }
    }
    let channel = Channel::builder("static:///x").resolver(Shared(Arc::clone(&resolver))).connect_lazy();
    let channel = channel.expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    let before = hotpick::panics();
    soon("another watch", async {
        while resolver.watched.load(Ordering::SeqCst) < 2 {
            assert_eq!(caller.call().await.expect("served"), "a");
        }
    })
    .await;
    assert!(before > 0 || hotpick::panics() > 0, "the panic is counted");
    assert_eq!(cluster.accepted(), 1);
}

/// A native policy that panics when it builds a picker.
#[derive(Debug)]
struct Dizzy;

impl Policy for Dizzy {
    fn version(&self) -> PolicyVersion {
        PolicyVersion::new("dizzy", 1, "")
    }

    fn start(&self, _: &Placement, _: &ReadySet) -> Result<Box<dyn PickerBuilder>, StartError> {
        Ok(Box::new(Self))
    }
}

impl PickerBuilder for Dizzy {
    fn build(&mut self, _: &ReadySet) -> Arc<dyn Picker> {
        panic!("intentional panic")
    }
}

#[tokio::test]
async fn a_native_policy_that_panics_is_replaced_by_round_robin() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let channel = cluster.channel().native_policy(Dizzy).connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    assert_eq!(caller.tally(20).await.len(), 2);
}
