//! Limits of RPCs in flight, and of RPCs that wait.

use std::time::{Duration, Instant};

use hotpick::Channel;
use hotpick::channel::{OverloadOptions, WaitForReady};
use hotpick::retry::{RetryBudget, RetryOptions};
use hotpick_echo::{EchoClient, EchoRequest};
use hotpick_tests::raw::RawServer;
use hotpick_tests::soon;
use tonic::{Code, Request};

use super::Scripts;

/// Starts RPCs that are never answered, and waits until the servers have them.
async fn hang(scripts: &Scripts, count: usize) -> tokio::task::JoinSet<()> {
    let mut hanging = tokio::task::JoinSet::new();
    for _ in 0..count {
        let (call, request) = Scripts::request("hang");
        let mut client = scripts.client.clone();
        hanging.spawn(async move { drop(client.unary(request).await) });
        let is_there = async {
            while scripts.servers.of(&call).is_empty() {
                tokio::task::yield_now().await;
            }
        };
        soon("an RPC in flight", is_there).await;
    }
    hanging
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rpcs_beyond_the_channels_limit_fail_at_once() {
    let limits = OverloadOptions::default().with_max_requests(Some(2));
    let retries = RetryOptions::within(RetryBudget::default());
    let scripts = Scripts::with(1, |builder| builder.overload(limits).retries(retries)).await;
    let mut hanging = hang(&scripts, 2).await;
    let outcome = scripts.call("ok").await;
    let status = outcome.result.expect_err("there are two");
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.message(), "2 RPCs of the channel are in flight (max_requests)");
    assert!(outcome.attempts.is_empty());
    hanging.abort_all();
    while hanging.join_next().await.is_some() {}
    assert_eq!(scripts.call("ok").await.code(), Code::Ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rpcs_beyond_an_endpoints_limit_are_not_retried() {
    let limits = OverloadOptions::default().with_max_requests_per_endpoint(Some(1));
    let retries = RetryOptions::within(RetryBudget::default());
    let scripts = Scripts::with(2, |builder| builder.overload(limits).retries(retries)).await;
    // Round robin: one for each endpoint.
    let mut hanging = hang(&scripts, 2).await;
    let outcome = scripts.call("ok").await;
    let status = outcome.result.expect_err("each has one");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().ends_with("are in flight (max_requests_per_endpoint)"), "{status}");
    assert!(outcome.attempts.is_empty());
    let in_flight: Vec<_> =
        scripts.channel.status().subconns.iter().map(|subconn| subconn.stats().in_flight).collect();
    assert_eq!(in_flight, [1, 1]);
    hanging.abort_all();
    while hanging.join_next().await.is_some() {}
    assert_eq!(scripts.call("ok").await.code(), Code::Ok);
}

fn waiting(channel: &Channel) -> tokio::task::JoinHandle<Result<(), tonic::Status>> {
    let mut client = EchoClient::new(channel.clone());
    tokio::spawn(async move {
        let mut request = Request::new(EchoRequest::new("hello"));
        request.extensions_mut().insert(WaitForReady(true));
        client.unary(request).await.map(|_| ())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rpcs_that_wait_are_limited_in_number_and_time() {
    // Accepts, and says nothing: the channel stays CONNECTING.
    let silent = RawServer::bind().await;
    let limits =
        OverloadOptions::default().with_max_waiting(Some(1)).with_max_wait(Some(Duration::from_millis(300)));
    let channel = Channel::builder(format!("static:///{}", silent.address())).overload(limits);
    let channel = channel.connect_lazy().expect("a channel");
    let begun = Instant::now();
    let (first, second) = (waiting(&channel), waiting(&channel));
    let (first, second) = (soon("the first", first).await, soon("the second", second).await);
    let mut messages = [first, second].map(|result| {
        let status = result.expect("no panic").expect_err("nothing is ready");
        assert_eq!(status.code(), Code::Unavailable);
        status.message().to_owned()
    });
    messages.sort();
    assert_eq!(
        messages,
        [
            "1 RPCs of the channel wait already (max_waiting)",
            "the RPC has waited for 300ms without being sent (max_wait)",
        ]
    );
    assert!(begun.elapsed() >= Duration::from_millis(300));
}

/// A server that allows one stream: the next RPC waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rpcs_that_wait_for_a_stream_are_limited_as_well() {
    let server = RawServer::bind().await;
    let limits = OverloadOptions::default().with_max_wait(Some(Duration::from_millis(200)));
    let channel = Channel::builder(format!("static:///{}", server.address())).overload(limits);
    let channel = channel.connect_lazy().expect("a channel");
    // SETTINGS_MAX_CONCURRENT_STREAMS = 1
    let _peer = server.accept(&[(3, 1)]).await;
    let _first = waiting(&channel);
    let is_in_flight = async {
        while channel.status().subconns.first().is_none_or(|subconn| subconn.stats().in_flight == 0) {
            tokio::task::yield_now().await;
        }
    };
    soon("the first", is_in_flight).await;
    let second = soon("the second", waiting(&channel)).await.expect("no panic").expect_err("no stream");
    assert!(second.message().ends_with("without being sent (max_wait)"), "{second}");
    let stats = channel.status().subconns[0].stats();
    assert_eq!((stats.in_flight, stats.picked), (1, 1));
}
