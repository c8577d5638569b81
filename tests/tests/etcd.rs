//! Endpoints from etcd: real clusters, and fake servers that misbehave.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hotpick::Channel;
use hotpick::connectivity::ConnectivityState::TransientFailure;
use hotpick::etcd::{self, EtcdResolver, Registration};
use hotpick::tls::ClientTls;
use hotpick_tests::peers::{self, Etcd, Process};
use hotpick_tests::{Caller, Cluster, Load, Policies, soon, standard};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::resolvers::settled;

fn client_of(members: &[Etcd]) -> etcd::Etcd {
    etcd::Etcd::builder(addresses(members)).connect_lazy().expect("a client")
}

fn addresses(members: &[Etcd]) -> String {
    members.iter().map(Etcd::address).collect::<Vec<_>>().join(",")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_endpoints_come_with_registrations_and_go_with_their_leases() {
    if !peers::available() {
        return;
    }
    let mut members = [Etcd::start()];
    let cluster = Cluster::start(&["red-1", "green-1", "blue-1"]).await;
    let client = client_of(&members);
    let etcd = &mut members[0];
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
    let channel = Channel::builder(target).policies(&policies.followed).policy("color").connect_lazy();
    let channel = channel.expect("a channel");
    settled(&channel, &[&red]).await;

    // Register a second server. Its weight and attributes reach the policy.
    let second = register(1).await;
    settled(&channel, &[&red, &green]).await;
    let caller = Caller::ready(&channel, Some("color")).await;
    assert_eq!(caller.call_color("green").await.expect("served"), "green-1");
    assert_eq!(caller.status().subconns[0].endpoint().weight(), 2);

    // One server deregisters gracefully. The other one's process dies and its lease expires.
    second.revoke().await;
    settled(&channel, &[&red]).await;
    let third = register(2).await;
    settled(&channel, &[&red, &blue]).await;
    drop(first);
    settled(&channel, &[&blue]).await;
    assert_eq!(caller.call_color("blue").await.expect("served"), "blue-1");

    // The remaining lease is kept alive, also across a restart of etcd.
    etcd.stop();
    assert_eq!(caller.call_color("blue").await.expect("served while etcd is down"), "blue-1");
    etcd.restart();
    let fourth = register(0).await;
    settled(&channel, &[&red, &blue]).await;
    // Its lease is kept alive or replaced: the entry outlives others whose leases expire.
    for _ in 0..2 {
        let other = register(1).await;
        settled(&channel, &[&red, &green, &blue]).await;
        drop(other);
        settled(&channel, &[&red, &blue]).await;
    }
    assert_eq!(cluster.backends[2].accepted(), 1);
    third.revoke().await;
    fourth.revoke().await;
    soon("no endpoints", channel.wait_for(|status| status.state == TransientFailure)).await;
}

fn etcdctl(etcd: &Etcd, arguments: &[&str]) -> String {
    etcdctl_at(&[&["--endpoints", &etcd.address()], arguments].concat())
}

fn etcdctl_at(arguments: &[&str]) -> String {
    let output = std::process::Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(arguments)
        .output()
        .expect("etcdctl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_values_that_are_not_endpoints_and_compactions_are_harmless() {
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
    // A key of another service with the same prefix, and values that are not endpoints.
    put(&etcd, "services/echo2/x", "127.0.0.1:1");
    etcdctl(&etcd, &["put", "services/echo/junk", "junk"]);
    etcdctl(&etcd, &["put", "services/echo/none", "{\"port\": 1}"]);
    let target = format!("etcd:///services/echo?endpoints={}", etcd.address());
    let channel = Channel::builder(target).connect_lazy().expect("a channel");
    settled(&channel, &[&a]).await;

    // While the watch is broken, the revision from which it would resume is compacted.
    etcd.restart();
    put(&etcd, "services/echo/b", &b);
    for _ in 0..5 {
        put(&etcd, "services/echo/b", &b);
    }
    let output = etcdctl(&etcd, &["get", "services/echo/b", "-w", "json"]);
    let revision =
        serde_json::from_str::<serde_json::Value>(&output).expect("JSON")["header"]["revision"].clone();
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
    let output = example.rest();
    assert_eq!(example.end(), Some(0), "{output:#?}");
    assert!(output.iter().any(|line| line.contains("red: red-1 red-2 red-1 red-2")), "{output:#?}");
    assert!(output.iter().any(|line| line.contains("green: green-1 green-1 green-1 green-1")), "{output:#?}");
    assert_eq!(output.last().map(String::as_str), Some("0 failed"), "{output:#?}");
}

/// Starts a fake etcd with one key, `services/echo/a`, that handles each watch as the next entry of `watches` says:
/// "compacted", "refused" or "open". Further watches stay open.
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
            // Keeps the open watches alive.
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
                    // A header with revision 7, and the key.
                    send(&[&[0x0a, 2, 0x18, 7, 0x12, length(&kv)], &kv[..]].concat());
                    let mut trailers = http::HeaderMap::new();
                    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                    answer.send_trailers(trailers).expect("sent");
                    continue;
                }
                let kind = watches.next().copied().unwrap_or("open");
                let _ = log.send(kind);
                match kind {
                    // Created, then cancelled because revision 9 has been compacted.
                    "compacted" => {
                        send(&[0x18, 1]);
                        send(&[0x20, 1, 0x28, 9]);
                    }
                    // Ended at once, as a member without a leader does.
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
    let channel = Channel::builder(format!("etcd:///services/echo?endpoints={etcd}")).connect_lazy();
    let channel = channel.expect("a channel");
    settled(&channel, &[&address]).await;
    let begin = std::time::Instant::now();
    for expected in
        ["range", "compacted", "range", "refused", "range", "refused", "range", "refused", "range", "open"]
    {
        assert_eq!(soon("the next request", logged.recv()).await, Some(expected));
    }
    // The second and third refusals are each followed by a wait of 1 s ± 20 %.
    assert!(begin.elapsed() > Duration::from_millis(1600), "{:?}", begin.elapsed());
    assert_eq!(Caller::of(&channel).call().await.expect("served"), "a");
}

/// Six servers registered in an etcd cluster of three, a channel that follows them, and a continuous load of RPCs.
struct Fleet {
    members: Vec<Etcd>,
    cluster: Cluster,
    entries: Vec<Registration>,
    client: etcd::Etcd,
    channel: Channel,
    load: Load,
}

const TTL: Duration = Duration::from_secs(3);

impl Fleet {
    async fn start(members: Vec<Etcd>) -> Self {
        let cluster = Cluster::start(&["a", "b", "c", "d", "e", "f"]).await;
        let client = client_of(&members);
        let mut entries = Vec::new();
        for at in 0..cluster.backends.len() {
            entries.push(register(&client, &cluster, at).await);
        }
        let target = format!("etcd:///services/echo?endpoints={}", addresses(&members));
        let channel = Channel::builder(target).connect_lazy().expect("a channel");
        let load = Load::start(&Caller::ready(&channel, None).await, 2, 1);
        Self { members, cluster, entries, client, channel, load }
    }

    /// Asserts for `time` that a new channel sees all registrations.
    async fn stay_registered_for(&self, time: Duration, while_: &str) {
        let begin = Instant::now();
        while begin.elapsed() < time {
            self.are_registered(&format!("{while_}, after {:?}", begin.elapsed())).await;
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn are_registered(&self, when: &str) {
        let fresh = Channel::builder("static:///fresh")
            .resolver(EtcdResolver::new(&self.client, "services/echo"))
            .connect_lazy()
            .expect("a channel");
        soon("the endpoints", fresh.wait_for(|status| !status.subconns.is_empty())).await;
        // A thawed leader may revoke leases that it should not. Their entries are registered again at once; 2 s allow
        // for a busy machine.
        let all = fresh.wait_for(|status| status.subconns.len() == self.entries.len());
        let all = tokio::time::timeout(Duration::from_secs(2), all).await;
        assert!(
            all.is_ok(),
            "{} entries are missing: {when}",
            self.entries.len() - fresh.status().subconns.len()
        );
    }

    /// Deregisters a server and registers it again. Returns how long the channel took to notice its removal.
    async fn follows_changes(&mut self) -> Duration {
        let begin = Instant::now();
        self.entries.remove(0).revoke().await;
        let entries = self.entries.len();
        soon("one endpoint less", self.channel.wait_for(|status| status.subconns.len() == entries)).await;
        let took = begin.elapsed();
        self.entries.insert(0, register(&self.client, &self.cluster, 0).await);
        soon("one endpoint more", self.channel.wait_for(|status| status.subconns.len() == entries + 1)).await;
        took
    }

    async fn end(self) {
        let (calls, failed) = self.load.stop().await;
        assert!(calls > 0 && failed.is_empty(), "{} of {calls} failed: {:?}", failed.len(), failed.first());
    }
}

async fn register(client: &etcd::Etcd, cluster: &Cluster, at: usize) -> Registration {
    let backend = &cluster.backends[at];
    let key = format!("services/echo/{}", backend.name());
    let value = json!({"address": backend.address().to_string()});
    soon("the registration", Registration::start(client, key, value, TTL)).await.expect("registered")
}

/// How long a member stays unavailable: `HOTPICK_ETCD_OUTAGE` seconds, 4 by default.
fn outage() -> Duration {
    let seconds = std::env::var("HOTPICK_ETCD_OUTAGE").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(4))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_member_that_is_frozen_or_gone_takes_no_registration_with_it() {
    if !peers::available() {
        return;
    }
    let mut fleet = Fleet::start(Etcd::cluster(3)).await;
    for at in 0..3 {
        fleet.members[at].freeze();
        fleet.stay_registered_for(outage(), "frozen").await;
        // If the watch is on that member, unanswered PINGs reveal it.
        let took = fleet.follows_changes().await;
        assert!(took < Duration::from_secs(15), "{took:?}");
        fleet.members[at].thaw();
        fleet.stay_registered_for(TTL, "thawed").await;
    }
    fleet.members[1].stop();
    fleet.stay_registered_for(outage(), "stopped").await;
    fleet.follows_changes().await;
    fleet.members[1].restart();
    fleet.stay_registered_for(TTL, "restarted").await;
    fleet.end().await;
}

/// The partitioned member still answers clients, but does not see what the other members commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_member_that_is_cut_off_from_the_others_takes_no_registration_with_it() {
    if !peers::available() {
        return;
    }
    let Some((members, _hosts)) = Etcd::cluster_on_hosts() else {
        eprintln!("not tested: network namespaces cannot be created here");
        return;
    };
    let mut fleet = Fleet::start(members).await;
    for at in 0..3 {
        fleet.members[at].cut_off(true);
        fleet.stay_registered_for(outage(), "cut off").await;
        fleet.follows_changes().await;
        fleet.members[at].cut_off(false);
        fleet.stay_registered_for(TTL, "reconnected").await;
    }
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_etcd_is_back_the_registrations_are_there_and_changes_are_followed() {
    if !peers::available() {
        return;
    }
    let mut fleet = Fleet::start(Etcd::cluster(3)).await;
    fleet.members.iter_mut().for_each(Etcd::stop);
    sleep(outage()).await;
    fleet.members.iter_mut().for_each(Etcd::spawn);
    fleet.members.iter().for_each(Etcd::wait);
    let back = Instant::now();
    fleet.follows_changes().await;
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    // Longer than the leases that etcd restored.
    fleet.stay_registered_for(TTL * 3, "all restarted").await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_are_held_when_etcd_has_lost_its_data() {
    if !peers::available() {
        return;
    }
    let mut members = [Etcd::start()];
    let cluster = Cluster::start(&["a", "b"]).await;
    let [a, b] = [0, 1].map(|at| cluster.backends[at].address().to_string());
    let client = client_of(&members);
    let entry = register(&client, &cluster, 0).await;
    // The entry of a server that does not register again.
    etcdctl(&members[0], &["put", "services/echo/b", &json!({"address": b}).to_string()]);
    let target = format!("etcd:///services/echo?endpoints=http://{}&hold=6", members[0].address());
    let channel = Channel::builder(target).connect_lazy().expect("a channel");
    settled(&channel, &[&a, &b]).await;
    let load = Load::start(&Caller::ready(&channel, None).await, 2, 0);
    members[0].lose();
    members[0].restart();
    // One server registers again. The other endpoint is held for the 6 s of the target's `hold`.
    let listed = async || etcdctl(&members[0], &["get", "--prefix", "services/", "--keys-only"]);
    while !listed().await.contains("services/echo/a") {
        tokio::task::yield_now().await;
    }
    assert_eq!(channel.status().subconns.len(), 2);
    settled(&channel, &[&a]).await;
    entry.revoke().await;
    soon("no endpoints", channel.wait_for(|status| status.state == TransientFailure)).await;
    let (calls, failed) = load.stop().await;
    assert!(calls > 0, "no RPC was made");
    // RPCs failed only after the last server had deregistered.
    assert!(failed.iter().all(|status| status.message().contains("has no endpoints")), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_with_tls_and_a_password_is_let_in_with_them_and_says_so_without() {
    if !peers::available() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
    std::fs::write(at("cert.pem"), made.cert.pem()).expect("written");
    std::fs::write(at("key.pem"), made.signing_key.serialize_pem()).expect("written");
    std::fs::write(at("password"), "secret\n").expect("written");
    let tls = [format!("--cert-file={}", at("cert.pem")), format!("--key-file={}", at("key.pem"))];
    // Tokens expire after 2 s, while the watch is open.
    let arguments = [&tls[0], &tls[1], "--auth-token-ttl=2"];
    let members = Etcd::cluster_with(1, &arguments);
    let https = format!("https://{}", members[0].address());
    let ca = at("cert.pem");
    let as_root = ["--endpoints", &https, "--cacert", &ca, "--user", "root:secret"];
    etcdctl_at(&["--endpoints", &https, "--cacert", &ca, "user", "add", "root:secret"]);
    etcdctl_at(&["--endpoints", &https, "--cacert", &ca, "auth", "enable"]);

    let cluster = Cluster::start(&["a", "b"]).await;
    let [a, b] = [0, 1].map(|at| cluster.backends[at].address().to_string());
    let client = etcd::Etcd::builder(&https).tls(ClientTls::new().ca_file(&ca)).user("root", "secret");
    let client = client.connect_lazy().expect("a client");
    let _entry = register(&client, &cluster, 0).await;
    let target =
        format!("etcd:///services/echo?endpoints={https}&ca={ca}&user=root&password-file={}", at("password"));
    let channel = Channel::builder(target).connect_lazy().expect("a channel");
    settled(&channel, &[&a]).await;
    let value = json!({"address": b}).to_string();
    etcdctl_at(&[&as_root[..], &["put", "services/echo/b", &value]].concat());
    settled(&channel, &[&a, &b]).await;
    // The token has expired.
    sleep(TTL * 2).await;
    let second = register(&client, &cluster, 1).await;
    second.revoke().await;
    settled(&channel, &[&a]).await;

    std::fs::write(at("password"), "wrong").expect("written");
    for (target, expected) in [
        (format!("etcd:///services/echo?endpoints={}", members[0].address()), "or require TLS"),
        (format!("etcd:///services/echo?endpoints={https}"), "certificate"),
        (format!("etcd:///services/echo?endpoints={https}&ca={ca}"), "user name is empty"),
        (
            format!(
                "etcd:///services/echo?endpoints={https}&ca={ca}&user=root&password-file={}",
                at("password")
            ),
            "login as \"root\": etcdserver: authentication failed",
        ),
        (
            format!("etcd:///services/echo?endpoints={https}&ca={ca}&user=root&password-file=/nowhere"),
            "password file \"/nowhere\" cannot be read",
        ),
    ] {
        let channel = Channel::builder(&target).connect_lazy().expect("a channel");
        let status = soon("a failure", Caller::of(&channel).call()).await.expect_err("access is denied");
        assert!(status.message().contains(expected), "{target}: {status}");
    }
}

/// State of a fake etcd that can lose its lease and refuse puts.
#[derive(Debug, Default)]
struct Leases {
    has_lease: AtomicBool,
    is_put: AtomicBool,
    refuses_puts: AtomicBool,
    refused_puts: AtomicUsize,
}

async fn serve(leases: Arc<Leases>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
            let mut open = Vec::new();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let head = http::Response::builder().header("content-type", "application/grpc").body(());
                let mut answer = respond.send_response(head.expect("a response"), false).expect("sent");
                let ttl = |has_lease: bool| if has_lease { vec![0x18, 5] } else { Vec::new() };
                let (message, status) = match request.uri().path().rsplit('/').next() {
                    Some("LeaseGrant") if leases.has_lease.swap(true, Ordering::SeqCst) => (None, "9"),
                    Some("LeaseGrant") => (Some(ttl(true)), "0"),
                    Some("LeaseKeepAlive") => (Some(ttl(leases.has_lease.load(Ordering::SeqCst))), "0"),
                    Some("Put") if leases.refuses_puts.load(Ordering::SeqCst) => {
                        leases.refused_puts.fetch_add(1, Ordering::SeqCst);
                        (None, "7")
                    }
                    Some("Put") => {
                        leases.is_put.store(true, Ordering::SeqCst);
                        (Some(Vec::new()), "0")
                    }
                    _ => {
                        open.push((answer, request));
                        continue;
                    }
                };
                if let Some(message) = message {
                    let length = u32::try_from(message.len()).expect("short").to_be_bytes();
                    answer.send_data([&[0], &length[..], &message].concat().into(), false).expect("sent");
                }
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", http::HeaderValue::from_static(status));
                trailers.insert("grpc-message", http::HeaderValue::from_static("it exists"));
                answer.send_trailers(trailers).expect("sent");
            }
        }
    });
    at
}

/// A live lease does not imply that the entry exists: the put may have failed after the lease was re-created.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_could_not_be_put_with_its_new_lease_is_put_when_it_can() {
    let leases = Arc::new(Leases::default());
    let address = serve(Arc::clone(&leases)).await;
    let client = etcd::Etcd::builder(address.to_string()).connect_lazy().expect("a client");
    let value = json!({"address": "127.0.0.1:1"});
    let _entry =
        soon("the registration", Registration::start(&client, "k", value, TTL)).await.expect("registered");
    assert!(leases.is_put.load(Ordering::SeqCst));
    // The server loses its lease and entry, and refuses puts.
    leases.refuses_puts.store(true, Ordering::SeqCst);
    leases.is_put.store(false, Ordering::SeqCst);
    leases.has_lease.store(false, Ordering::SeqCst);
    let until = async |what: &str, condition: &dyn Fn() -> bool| {
        soon(what, async {
            while !condition() {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    };
    until("refused puts", &|| leases.refused_puts.load(Ordering::SeqCst) > 3).await;
    assert!(leases.has_lease.load(Ordering::SeqCst), "the lease has not been re-created");
    leases.refuses_puts.store(false, Ordering::SeqCst);
    until("the put", &|| leases.is_put.load(Ordering::SeqCst)).await;
}
