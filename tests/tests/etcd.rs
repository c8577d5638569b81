//! Endpoints out of a real etcd, and of one that misbehaves.

use std::net::SocketAddr;
use std::time::Duration;

use hotpick::Channel;
use hotpick::connectivity::ConnectivityState::{Ready, TransientFailure};
use hotpick::etcd::Registration;
use hotpick_tests::peers::{self, Etcd, Process};
use hotpick_tests::{Caller, Cluster, Policies, soon, standard};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::resolvers::settled;

async fn etcd_channel(etcd: &Etcd) -> Channel {
    Channel::builder(format!("static:///{}", etcd.address())).connect().expect("a channel")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_endpoints_come_with_registrations_and_go_with_their_leases() {
    if !peers::available() {
        return;
    }
    let mut etcd = Etcd::start();
    let cluster = Cluster::start(&["red-1", "green-1", "blue-1"]).await;
    let client = etcd_channel(&etcd).await;
    let ttl = Duration::from_secs(1);
    let register = async |at: usize| {
        let backend = &cluster.backends[at];
        let (host, port) = (backend.address().ip().to_string(), backend.address().port());
        let value = json!({"address": host, "port": port, "color": backend.name().split('-').next(), "weight": at + 1});
        let key = format!("services/echo/{}", backend.name());
        soon("the registration", Registration::start(&client, key, value, ttl)).await.expect("registered")
    };
    let [red, green, blue] = [0, 1, 2].map(|at| cluster.backends[at].address().to_string());
    let first = register(0).await;
    let policies = Policies::with(&[("color.wasm", &standard("color"))]);
    let target = format!("etcd:///services/echo?endpoints={}", etcd.address());
    let channel = Channel::builder(target).policies(&policies.followed).policy("color").connect();
    let channel = channel.expect("a channel");
    settled(&channel, &[&red]).await;

    // One more, and a value that is none of ours.
    let second = register(1).await;
    settled(&channel, &[&red, &green]).await;
    let caller = Caller::ready(&channel, Some("color")).await;
    assert_eq!(caller.call_color("green").await.expect("served"), "green-1");
    assert_eq!(caller.status().subconns[0].endpoint().weight(), 2);

    // One leaves in good order; the other's process dies, and its lease runs out.
    second.revoke().await;
    settled(&channel, &[&red]).await;
    let third = register(2).await;
    settled(&channel, &[&red, &blue]).await;
    drop(first);
    settled(&channel, &[&blue]).await;
    assert_eq!(caller.call_color("blue").await.expect("served"), "blue-1");

    // It has outlived the lease of the other, being kept alive; and now through a restart of etcd.
    etcd.stop();
    soon("the loss of etcd", client.wait_for(|status| status.state != Ready)).await;
    assert_eq!(caller.call_color("blue").await.expect("served while etcd is gone"), "blue-1");
    etcd.restart();
    let fourth = register(0).await;
    settled(&channel, &[&red, &blue]).await;
    // Its lease is kept alive again, or has been replaced: it outlives others that are not.
    for _ in 0..2 {
        let other = register(1).await;
        settled(&channel, &[&red, &green, &blue]).await;
        drop(other);
        settled(&channel, &[&red, &blue]).await;
    }
    assert_eq!(cluster.backends[2].accepted(), 1);
    third.revoke().await;
    fourth.revoke().await;
    soon("none", channel.wait_for(|status| status.state == TransientFailure)).await;
}

fn etcdctl(etcd: &Etcd, arguments: &[&str]) -> String {
    let output = std::process::Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &etcd.address()])
        .args(arguments)
        .output()
        .expect("etcdctl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_values_that_are_no_endpoints_and_compactions_cost_nothing() {
    if !peers::available() {
        return;
    }
    let mut etcd = Etcd::start();
    let cluster = Cluster::start(&["a", "b"]).await;
    let [a, b] = [0, 1].map(|at| cluster.backends[at].address().to_string());
    let put = |etcd: &Etcd, key: &str, address: &str| {
        etcdctl(etcd, &["put", key, &json!({"address": address}).to_string()]);
    };
    put(&etcd, "services/echo/a", &a);
    // Another service's, though it begins alike; and what is no endpoint.
    put(&etcd, "services/echo2/x", "127.0.0.1:1");
    etcdctl(&etcd, &["put", "services/echo/junk", "junk"]);
    etcdctl(&etcd, &["put", "services/echo/none", "{\"port\": 1}"]);
    let target = format!("etcd:///services/echo?endpoints={}", etcd.address());
    let channel = Channel::builder(target).connect().expect("a channel");
    settled(&channel, &[&a]).await;

    // While the watch is broken the revision that it would go on from is compacted away.
    etcd.restart();
    put(&etcd, "services/echo/b", &b);
    for _ in 0..5 {
        put(&etcd, "services/echo/b", &b);
    }
    let said = etcdctl(&etcd, &["get", "services/echo/b", "-w", "json"]);
    let revision =
        serde_json::from_str::<serde_json::Value>(&said).expect("JSON")["header"]["revision"].clone();
    etcdctl(&etcd, &["compact", &revision.to_string()]);
    settled(&channel, &[&a, &b]).await;
    etcdctl(&etcd, &["del", "services/echo/a"]);
    settled(&channel, &[&b]).await;
    assert_eq!(Caller::of(&channel).call().await.expect("served"), "b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_of_colors_in_etcd_runs() {
    if !peers::available() {
        return;
    }
    let etcd = Etcd::start();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut command = peers::built("examples/color_etcd");
    let mut example = Process::start(command.arg(etcd.address()).current_dir(root));
    let said = example.rest();
    assert_eq!(example.end(), Some(0), "{said:#?}");
    assert!(said.iter().any(|line| line.contains("red: red-1 red-2 red-1 red-2")), "{said:#?}");
    assert!(said.iter().any(|line| line.contains("green: green-1 green-1 green-1 green-1")), "{said:#?}");
    assert_eq!(said.last().map(String::as_str), Some("0 failed"), "{said:#?}");
}

/// An etcd of one key, `services/echo/a`, that treats each watch as it is told.
async fn fake_etcd(
    address: String,
    watches: &'static [&'static str],
    log: mpsc::UnboundedSender<&'static str>,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let mut watches = watches.iter();
        while let Ok((stream, _)) = listener.accept().await {
            let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
            // Watches that are left open.
            let mut open = Vec::new();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let head = http::Response::builder().header("content-type", "application/grpc").body(());
                let mut answer = respond.send_response(head.expect("a response"), false).expect("sent");
                let mut send = |message: &[u8]| {
                    let length = u32::try_from(message.len()).expect("short").to_be_bytes();
                    let framed = [&[0], &length[..], message].concat();
                    answer.send_data(framed.into(), false).expect("sent");
                };
                if request.uri().path().ends_with("/Range") {
                    let _ = log.send("range");
                    let value = format!("{{\"address\": \"{address}\"}}");
                    let length = |bytes: &[u8]| u8::try_from(bytes.len()).expect("short");
                    let kv = [&[0x0a, 1, b'a', 0x2a, length(value.as_bytes())], value.as_bytes()].concat();
                    // The header with revision 7, and the key.
                    send(&[&[0x0a, 2, 0x18, 7, 0x12, length(&kv)], &kv[..]].concat());
                    let mut trailers = http::HeaderMap::new();
                    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                    answer.send_trailers(trailers).expect("sent");
                    continue;
                }
                let kind = watches.next().copied().unwrap_or("open");
                let _ = log.send(kind);
                match kind {
                    // Made, and cancelled, because revision 9 has been compacted.
                    "compacted" => {
                        send(&[0x18, 1]);
                        send(&[0x20, 1, 0x28, 9]);
                    }
                    // Ended at once, as by a member without a leader.
                    "refused" => {
                        let mut trailers = http::HeaderMap::new();
                        trailers.insert("grpc-status", http::HeaderValue::from_static("14"));
                        answer.send_trailers(trailers).expect("sent");
                        continue;
                    }
                    _ => send(&[0x18, 1]),
                }
                open.push((answer, request));
            }
        }
    });
    at
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_watch_that_is_cancelled_is_followed_by_a_new_list_and_refusals_by_a_wait() {
    let cluster = Cluster::start(&["a"]).await;
    let address = cluster.backends[0].address().to_string();
    let (log, mut logged) = mpsc::unbounded_channel();
    let etcd = fake_etcd(address.clone(), &["compacted", "refused", "refused", "refused"], log).await;
    let channel = Channel::builder(format!("etcd:///services/echo?endpoints={etcd}")).connect();
    let channel = channel.expect("a channel");
    settled(&channel, &[&address]).await;
    let begin = std::time::Instant::now();
    for expected in
        ["range", "compacted", "range", "refused", "range", "refused", "range", "refused", "range", "open"]
    {
        assert_eq!(soon("the next request", logged.recv()).await, Some(expected));
    }
    // The second refusal is waited after for a second, the third for 1.6.
    assert!(begin.elapsed() > Duration::from_millis(1600), "{:?}", begin.elapsed());
    assert_eq!(Caller::of(&channel).call().await.expect("served"), "a");
}
