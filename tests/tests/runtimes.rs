//! Runtimes that end before the RPCs that started on them, callers without a runtime, and threads with a small stack.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use hotpick::Channel;
use hotpick::channel::ChannelStatus;
use hotpick::resolver::ResolverUpdate;
use hotpick_echo::EchoRequest;
use hotpick_tests::wat::Wat;
use hotpick_tests::{Caller, Cluster, Policies, soon};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Request};
use tower::Service as _;

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

/// Starts backends and a channel to them on a runtime.
fn cluster(on: &Runtime) -> (Cluster, Channel) {
    on.block_on(async {
        let cluster = Cluster::start(&["a", "b"]).await;
        let channel = cluster.channel().connect_lazy().expect("a channel");
        Caller::ready(&channel, None).await;
        (cluster, channel)
    })
}

/// Programs can have another executor or none; tonic's channel works there, too.
#[test]
fn rpcs_need_no_runtime_of_their_callers() {
    let ours = runtime();
    let (cluster, channel) = cluster(&ours);
    let caller = Caller::of(&channel);
    for _ in 0..10 {
        futures_executor(caller.call()).expect("served");
    }
    let mut with_deadline = Request::new(EchoRequest::new("hello"));
    with_deadline.set_timeout(Duration::from_secs(20));
    futures_executor(caller.request(with_deadline)).expect("served");
    let mut late = Request::new(EchoRequest::new("hello"));
    late.set_timeout(Duration::from_millis(50));
    cluster.backends.iter().for_each(|backend| backend.set_delay(Duration::from_secs(5)));
    let status = futures_executor(caller.request(late)).expect_err("the backends are slow");
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

/// Runs a future on this thread, without a runtime.
fn futures_executor<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park_timeout(Duration::from_secs(30)),
        }
    }
}

type Frames = mpsc::UnboundedSender<Result<Frame<Bytes>, tonic::Status>>;

/// Returns a request with an open body, and the sender of its frames.
fn open_request(path: &str) -> (Frames, http::Request<tonic::body::Body>) {
    let (send, frames) = mpsc::unbounded_channel();
    let body = tonic::body::Body::new(StreamBody::new(UnboundedReceiverStream::new(frames)));
    let request = http::Request::post(path).header("content-type", "application/grpc");
    (send, request.body(body).expect("a request"))
}

const MESSAGE: &[u8] = &[0, 0, 0, 0, 3, 10, 1, b'x'];

/// The response has started; the rest of the request is still sent after the runtime that it started on has ended.
#[test]
fn an_rpc_outlives_the_runtime_that_it_began_on() {
    let ours = runtime();
    let (_cluster, mut mine) = cluster(&ours);
    let theirs = runtime();
    let (send, request) = open_request("/hotpick.echo.Echo/Bidi");
    send.send(Ok(Frame::data(Bytes::from_static(MESSAGE)))).expect("open");
    let response = theirs.block_on(async { soon("an answer", mine.call(request)).await }).expect("an answer");
    theirs.shutdown_timeout(Duration::from_secs(5));
    send.send(Ok(Frame::data(Bytes::from_static(MESSAGE)))).expect("the body is still read");
    drop(send);
    let end = ours.block_on(soon("the end", response.into_body().collect())).expect("no error");
    assert_eq!(end.trailers().and_then(|end| end.get("grpc-status")).expect("a status"), "0");
}

#[test]
fn a_request_whose_body_panics_ends_its_rpc() {
    let ours = runtime();
    let (_cluster, channel) = cluster(&ours);
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    let first =
        futures_util::stream::iter([Ok::<_, tonic::Status>(Frame::data(Bytes::from_static(MESSAGE)))]);
    let then = futures_util::FutureExt::into_stream(async move {
        let _ = gone.await;
        panic!("intended");
    });
    let body = tonic::body::Body::new(StreamBody::new(futures_util::StreamExt::chain(first, then)));
    let request = http::Request::post("/hotpick.echo.Echo/Bidi").header("content-type", "application/grpc");
    let request = request.body(body).expect("a request");
    let mut mine = channel.clone();
    ours.block_on(async {
        let response = soon("an answer", mine.call(request)).await.expect("an answer");
        go.send(()).expect("the body waits");
        let end = soon("the end", response.into_body().collect()).await;
        assert!(end.is_err(), "the RPC succeeded without the rest of its request");
        Caller::of(&channel).tally(10).await;
    });
}

/// Without its runtime, a channel cannot send RPCs, and RPCs must not wait forever.
#[test]
fn a_channel_whose_runtime_has_ended_fails_rpcs() {
    let (servers, ours, theirs) = (runtime(), runtime(), runtime());
    let (cluster, _) = cluster(&servers);
    let channel = ours.block_on(async {
        let channel = cluster.channel().connect_lazy().expect("a channel");
        Caller::ready(&channel, None).await;
        channel
    });
    let (_send, request) = open_request("/hotpick.echo.Echo/Bidi");
    let mut mine = channel.clone();
    let in_flight = theirs.spawn(async move { mine.call(request).await.map(|_| ()) });
    ours.shutdown_timeout(Duration::from_secs(5));
    theirs.block_on(async {
        let status = soon("the end of the RPC", in_flight).await.expect("no panic");
        assert!(status.is_err(), "a response arrived without a runtime");
        let mut request = Request::new(EchoRequest::new("hello"));
        request.set_timeout(Duration::from_secs(20));
        soon("a failure", Caller::of(&channel).request(request))
            .await
            .expect_err("the channel has no runtime");
    });
    let status =
        Caller::of(&channel).call().now_or_never().expect("at once").expect_err("the channel has no runtime");
    assert_ne!(status.code(), Code::Ok);
}

/// Returns a policy that recurses infinitely for wait-for-ready RPCs. Detecting this takes half a megabyte of stack.
fn recursing() -> Vec<u8> {
    Wat {
        exports: "(func $deep (param i32) (result i32) (i32.add (i32.const 1) (call $deep (local.get 0))))",
        pick: &Wat::picks_but(1, "(drop (call $deep (i32.const 0)))"),
        ..Wat::default()
    }
    .component()
}

#[test]
fn a_thread_with_little_stack_falls_back_and_the_process_lives() {
    let policies = Policies::with(&[("p.wasm", &recursing())]);
    let little =
        || Builder::new_multi_thread().worker_threads(2).thread_stack_size(256 << 10).enable_all().build();
    let little = little().expect("a runtime");
    // Runs on the runtime's threads, because the stack of this thread is larger.
    let picked = little.spawn({
        let followed = policies.followed;
        async move {
            let cluster = Cluster::start(&["a", "b"]).await;
            let channel =
                cluster.channel().policies(&followed).policy("p").connect_lazy().expect("a channel");
            let caller = Caller::ready(&channel, Some("p")).await;
            let tally = caller.tally(20).await;
            // The policy is still notified of changes.
            cluster.resolver.update(ResolverUpdate::endpoints([cluster.endpoints()[0].clone()]));
            let one = |status: &ChannelStatus| status.ready.ready().len() == 1;
            soon("one endpoint", channel.wait_for(one)).await;
            assert_eq!(caller.tally(5).await.len(), 1);
            (tally, channel.status().faults)
        }
    });
    let (tally, faults) = little.block_on(soon_on(picked));
    // The native round robin picked.
    assert_eq!(tally.values().copied().collect::<Vec<_>>(), [10, 10]);
    assert_eq!((faults.count, faults.fallback_picks), (0, 25));
}

async fn soon_on<T>(task: tokio::task::JoinHandle<T>) -> T {
    soon("the task", task).await.expect("no panic")
}

/// With a stack of the usual size, infinite recursion is a fault like any other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_recurses_is_found_out() {
    let cluster = Cluster::start(&["a"]).await;
    let policies = Policies::with(&[("p.wasm", &recursing())]);
    let channel = cluster.channel().policies(&policies.followed).policy("p").wait_for_ready(true);
    let channel = channel.connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, Some("p")).await;
    let calls = tokio::spawn(async move { caller.tally(1).await });
    soon_on(calls).await;
    let faults = channel.status().faults;
    assert!(faults.last.is_some_and(|last| last.contains("call stack exhausted")), "{}", faults.count);
}
