//! Health checking (H28).

use std::time::Duration;

use hotpick::Channel;
use hotpick::channel::ChannelStatus;
use hotpick::connectivity::ConnectivityState::{Ready, TransientFailure};
use hotpick::resolver::ResolverUpdate;
use hotpick::service_config::ServiceConfig;
use hotpick_echo::{Backend, BackendOptions};
use hotpick_tests::raw::RawServer;
use hotpick_tests::{Caller, Cluster, Load, soon};

use super::*;

/// Two backends with a health service, and a channel that watches the health of "echo".
async fn health_checked() -> (Cluster, Channel) {
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
    let channel = cluster.channel().subconn_options(quick()).service_config(config).connect_lazy();
    (cluster, channel.expect("a channel"))
}

#[tokio::test]
async fn h28_rpcs_follow_what_the_health_service_says() {
    let (cluster, channel) = health_checked().await;
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
    // Health changes do not cause reconnects.
    assert_eq!((cluster.accepted(), caller.dials()), (2, 2));
    for backend in &cluster.backends {
        backend.set_serving("echo", false).await;
    }
    state(&channel, TransientFailure).await;
    let status = caller.call().await.expect_err("no backend is serving");
    assert!(status.message().contains("the health service reports NOT_SERVING for \"echo\""), "{status}");
}

#[tokio::test]
async fn h28_a_server_without_a_health_service_counts_as_healthy() {
    let cluster = Cluster::start(&["a"]).await;
    let config = r#"{"healthCheckConfig": {"serviceName": "echo"}}"#.parse().expect("a config");
    let channel = cluster.channel().service_config(config).connect_lazy().expect("a channel");
    assert_eq!(Caller::ready(&channel, None).await.call().await.expect("served"), "a");
}

#[tokio::test]
async fn h28_a_watch_that_has_ended_for_good_takes_no_stream() {
    const MAX_CONCURRENT_STREAMS: u16 = 3;
    let server = RawServer::bind().await;
    let config = r#"{"healthCheckConfig": {"serviceName": "echo"}}"#.parse().expect("a config");
    let channel = to(server.address()).subconn_options(quick()).service_config(config);
    let channel = channel.connect_lazy().expect("a channel");
    let mut peer = server.accept(&[(MAX_CONCURRENT_STREAMS, 1)]).await;
    let watch = peer.request().await;
    peer.refuse(watch, 12, "no such method").await;
    state(&channel, Ready).await;
    let call = begin(&Caller::of(&channel), hello());
    let stream = peer.request().await;
    peer.answer(stream, "a").await;
    assert_eq!(soon("the answer", call).await.expect("no panic").expect("served"), "a");
}

#[tokio::test]
async fn h28_errors_of_the_watch_are_tried_again_with_a_backoff() {
    let server = RawServer::bind().await;
    let config = r#"{"healthCheckConfig": {"serviceName": "echo"}}"#.parse().expect("a config");
    let mut options = quick();
    options.backoff.jitter = 0.0;
    let channel = to(server.address()).subconn_options(options).service_config(config);
    let channel = channel.connect_lazy().expect("a channel");
    let mut peer = server.accept(&[]).await;
    let begin = tokio::time::Instant::now();
    for _ in 0..4 {
        let watch = peer.request().await;
        peer.refuse(watch, 13, "out of order").await;
    }
    // The first watch starts at once, the retries after 20, 32 and 51 ms.
    assert!(begin.elapsed() >= Duration::from_millis(50), "{:?}", begin.elapsed());
    state(&channel, TransientFailure).await;
    let status = Caller::of(&channel).call().await.expect_err("health unknown");
    assert!(status.message().contains("the health check fails: out of order"), "{status}");
    let watch = peer.request().await;
    peer.refuse(watch, 12, "no such method").await;
    state(&channel, Ready).await;
}

#[tokio::test]
async fn h28_a_goaway_during_the_watch_costs_nothing() {
    let (cluster, channel) = health_checked().await;
    let caller = Caller::ready(&channel, None).await;
    let load = Load::start(&caller, 4, 0);
    for round in 0..10 {
        let backend = &cluster.backends[round % 2];
        let before = backend.accepted();
        backend.drain();
        let again = |status: &ChannelStatus| {
            backend.accepted() > before && status.ready.ready().len() == status.subconns.len()
        };
        soon("the next connection", channel.wait_for(again)).await;
    }
    let (calls, failed) = load.stop().await;
    assert!(failed.is_empty(), "{} of {calls} failed: {:?}", failed.len(), failed[0]);
}

#[tokio::test]
async fn health_checking_can_be_turned_on_and_off_while_rpcs_run() {
    let (cluster, channel) = health_checked().await;
    let caller = Caller::ready(&channel, None).await;
    cluster.backends[0].set_serving("echo", false).await;
    soon("NOT_SERVING", channel.wait_for(|status| status.subconns[0].state() == TransientFailure)).await;
    let off = ServiceConfig::default();
    cluster.resolver.update(ResolverUpdate::endpoints(cluster.endpoints()).with_service_config(Ok(off)));
    Caller::ready(&channel, None).await;
    assert_eq!(caller.tally(10).await.len(), 2);
}
