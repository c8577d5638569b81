//! Resolvers against real servers and files, and against fake DNS servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hotpick::Channel;
use hotpick::channel::ChannelStatus;
use hotpick::connectivity::ConnectivityState;
use hotpick::resolver::{
    self, DnsResolver, Endpoint, FileResolver, ManualResolver, ResolveNow, Resolver, ResolverStream, Target,
    TargetError,
};
use hotpick::tls::{ClientTls, ServerTls};
use hotpick_echo::Backend;
use hotpick_tests::fronts::{self, Certificates};
use hotpick_tests::peers::{self, Dnsmasq};
use hotpick_tests::{Caller, Cluster, Policies, soon, standard};
use serde_json::json;
use tokio_stream::StreamExt as _;
use tonic::{Code, Request};

/// Starts backends on several loopback addresses, all on the same port.
async fn backends_on(hosts: &[&str]) -> (Vec<Backend>, u16) {
    'ports: loop {
        let first = Backend::start(hosts[0], format!("{}:0", hosts[0]).parse().expect("an address")).await;
        let first = first.expect("a free port");
        let port = first.address().port();
        let mut backends = vec![first];
        for host in &hosts[1..] {
            match Backend::start(host, format!("{host}:{port}").parse().expect("an address")).await {
                Ok(backend) => backends.push(backend),
                Err(_) => continue 'ports,
            }
        }
        return (backends, port);
    }
}

/// A resolver whose failures are counted.
#[derive(Debug)]
struct Counted<R> {
    inner: R,
    errors: Arc<AtomicUsize>,
}

impl<R: Resolver> Resolver for Counted<R> {
    fn watch(&self, target: &Target, resolve_now: ResolveNow) -> ResolverStream {
        let errors = Arc::clone(&self.errors);
        Box::pin(self.inner.watch(target, resolve_now).map(move |update| {
            errors.fetch_add(usize::from(update.endpoints.is_err()), Ordering::SeqCst);
            update
        }))
    }
}

/// The number of failures of a resolver.
struct Errors(Arc<AtomicUsize>);

impl Errors {
    fn of<R>(inner: R) -> (Counted<R>, Self) {
        let errors = Arc::<AtomicUsize>::default();
        (Counted { inner, errors: Arc::clone(&errors) }, Self(errors))
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    /// Waits until there are more than `before` failures. They are counted in the channel's task when it receives them.
    async fn after(&self, before: usize) {
        let failing = async {
            while self.count() <= before {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon("the resolver to fail", failing).await;
    }
}

/// Returns a channel that may query DNS again after 50 ms.
fn dns(text: &str) -> Channel {
    counted_dns(text).0
}

/// Returns a channel like [`dns`], and the number of its failed lookups.
fn counted_dns(text: &str) -> (Channel, Errors) {
    let target: Target = text.parse().expect("a target");
    let resolver = DnsResolver::of(&target).expect("a resolver").min_interval(Duration::from_millis(50));
    let (resolver, errors) = Errors::of(resolver);
    let mut options = hotpick::transport::SubConnOptions::default();
    options.backoff.base = Duration::from_millis(50);
    let channel = Channel::builder(text).resolver(resolver).subconn_options(options).connect_lazy();
    (channel.expect("a channel"), errors)
}

/// Waits until a channel has exactly these endpoints, all READY.
pub(crate) async fn settled(channel: &Channel, addresses: &[&str]) {
    let mut wanted: Vec<_> = addresses.iter().map(|address| (*address).to_owned()).collect();
    wanted.sort();
    let is_settled = |status: &ChannelStatus| {
        let address = |subconn: &hotpick::subconn::SubConn| subconn.endpoint().addresses()[0].to_string();
        let mut found: Vec<_> = status.subconns.iter().map(address).collect();
        found.sort();
        found == wanted && status.ready.ready().len() == found.len()
    };
    soon(&format!("the endpoints {addresses:?}"), channel.wait_for(is_settled)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dns_names_are_resolved_and_followed_as_their_records_change() {
    if !peers::available() {
        return;
    }
    let (mut backends, port) = backends_on(&["127.0.0.1", "127.0.0.2", "127.0.0.3"]).await;
    let at = |last: u8| format!("127.0.0.{last}:{port}");
    let server = Dnsmasq::start(&[]);
    server.set("echo.test", &["127.0.0.1", "127.0.0.2"]);
    let (channel, errors) = counted_dns(&format!("dns://{}/echo.test:{port}", server.address()));
    settled(&channel, &[&at(1), &at(2)]).await;
    let caller = Caller::of(&channel);
    assert_eq!(caller.tally(10).await.len(), 2);

    // The change is noticed after the TTL of one second.
    server.set("echo.test", &["127.0.0.2", "127.0.0.3"]);
    settled(&channel, &[&at(2), &at(3)]).await;
    assert_eq!(backends[1].accepted(), 1);

    // The endpoints stay when the DNS server loses its records or is down.
    let mut server = server;
    let before = errors.count();
    server.set("echo.test", &[]);
    errors.after(before).await;
    assert_eq!(caller.tally(10).await.len(), 2);
    server.stop();
    let before = errors.count();
    errors.after(before).await;
    assert_eq!(caller.tally(10).await.len(), 2);

    // The DNS server is queried again when it is back.
    server.restart(&[]);
    server.set("echo.test", &["127.0.0.1"]);
    backends.remove(1);
    settled(&channel, &[&at(1)]).await;
    assert_eq!(caller.call().await.expect("served"), "127.0.0.1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dns_gives_ipv6_addresses_and_srv_records_too() {
    if !peers::available() {
        return;
    }
    let (_backends, port) = backends_on(&["127.0.0.1", "127.0.0.2"]).await;
    let six = Backend::start("six", "[::1]:0".parse().expect("an address")).await.expect("IPv6 on loopback");
    let srv = |host: &str, port: u16, priority: u8, weight: u8| {
        format!("--srv-host=_grpc._tcp.my_echo.test,{host}.test,{port},{priority},{weight}")
    };
    let (first, second, third) =
        (srv("one", port, 1, 3), srv("two", port, 2, 1), srv("six", six.address().port(), 1, 7));
    let server = Dnsmasq::start(&[&first, &second, &third]);
    for (name, address) in [("one.test", "127.0.0.1"), ("two.test", "127.0.0.2"), ("six.test", "::1")] {
        server.set(name, &[address]);
    }
    let six = six.address().to_string();
    let channel =
        dns(&format!("dns://{}/six.test:{}", server.address(), six.rsplit(':').next().expect("a port")));
    settled(&channel, &[&six]).await;
    assert_eq!(Caller::of(&channel).call().await.expect("served"), "six");

    // By default, only the records of the best priority are used, with their weights.
    let name = format!("dns://{}/_grpc._tcp.my_echo.test", server.address());
    let channel = dns(&name);
    let one = format!("127.0.0.1:{port}");
    settled(&channel, &[&one, &six]).await;
    let mut weights: Vec<_> = channel.status().subconns.iter().map(|s| s.endpoint().weight()).collect();
    weights.sort_unstable();
    assert_eq!(weights, [3, 7]);
    // `priorities=all` uses all records.
    let channel = dns(&format!("{name}?priorities=all"));
    settled(&channel, &[&one, &six, &format!("127.0.0.2:{port}")]).await;
    let priorities: Vec<_> =
        channel.status().subconns.iter().map(|s| s.endpoint().attributes()["priority"].clone()).collect();
    assert_eq!(priorities, ["1", "1", "2"]);
}

#[tokio::test]
async fn h17_while_dns_is_slow_an_rpc_waits_to_its_deadline() {
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let server = silent.local_addr().expect("an address");
    let channel = dns(&format!("dns://{server}/echo.test:1"));
    let mut request = Request::new(hotpick_echo::EchoRequest::new("hello"));
    request.set_timeout(Duration::from_millis(100));
    let status = Caller::of(&channel).request(request).await.expect_err("nothing is resolved");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(channel.state(), ConnectivityState::Connecting);
}

/// Container networks have such names.
#[tokio::test]
async fn a_name_with_an_underscore_is_a_name() {
    if !peers::available() {
        return;
    }
    let (_backends, port) = backends_on(&["127.0.0.1"]).await;
    let server = Dnsmasq::start(&[]);
    server.set("my_svc", &["127.0.0.1"]);
    server.set("a_b.some_net.test", &["127.0.0.1"]);
    for name in ["my_svc", "a_b.some_net.test"] {
        let channel = dns(&format!("dns://{}/{name}:{port}", server.address()));
        settled(&channel, &[&format!("127.0.0.1:{port}")]).await;
    }
}

/// Binds the same free port for UDP and TCP. A port that is free for UDP may be used by a TCP connection of another
/// test.
async fn bind_udp_and_tcp() -> (tokio::net::UdpSocket, tokio::net::TcpListener) {
    loop {
        let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = tcp.local_addr().expect("an address");
        if let Ok(udp) = tokio::net::UdpSocket::bind(address).await {
            return (udp, tcp);
        }
    }
}

/// The server sets the TC (truncated) flag on all answers, over TCP too. Only answers over TCP contain a record.
#[tokio::test]
async fn an_answer_that_is_cut_short_over_tcp_has_the_records_that_are_in_it() {
    let (_backends, port) = backends_on(&["127.0.0.1"]).await;
    let (udp, tcp) = bind_udp_and_tcp().await;
    let address = tcp.local_addr().expect("an address");
    // The question, returned as a truncated answer, with an A record for 127.0.0.1 if there is room.
    let answer = |query: &[u8], has_room: bool| {
        let question = 12 + query[12..].iter().position(|byte| *byte == 0).expect("a name") + 5;
        let mut answer = query[..question].to_vec();
        (answer[2], answer[3]) = (0x87, 0x80);
        answer[6..12].fill(0);
        let asks_for_a = query[question - 3] == 1;
        if has_room && asks_for_a {
            answer[7] = 1;
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
        }
        answer
    };
    let _server = tokio::spawn(async move {
        let mut query = [0; 512];
        let mut connections = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                received = udp.recv_from(&mut query) => {
                    let (count, client) = received.expect("a query");
                    udp.send_to(&answer(&query[..count], false), client).await.expect("sent");
                }
                accepted = tcp.accept() => {
                    let (mut stream, _) = accepted.expect("a connection");
                    connections.spawn(async move {
                        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
                        while let Ok(length) = stream.read_u16().await {
                            let mut query = vec![0; length.into()];
                            stream.read_exact(&mut query).await.expect("a query");
                            let answer = answer(&query, true);
                            let length = u16::try_from(answer.len()).expect("short").to_be_bytes();
                            stream.write_all(&[&length[..], &answer].concat()).await.expect("sent");
                        }
                    });
                }
            }
        }
    });
    let channel = dns(&format!("dns://{address}/cut.test:{port}"));
    settled(&channel, &[&format!("127.0.0.1:{port}")]).await;
}

#[tokio::test]
async fn a_name_that_does_not_exist_fails_rpcs_and_says_so() {
    if !peers::available() {
        return;
    }
    let server = Dnsmasq::start(&[]);
    let channel = dns(&format!("dns://{}/nowhere.test:1", server.address()));
    let status = soon("the failure", Caller::of(&channel).call()).await.expect_err("no such name");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("could not be resolved: DNS lookup of \"nowhere.test\""), "{status}");
}

/// Serves DNS for a while. Returns the number of queries.
async fn queries(server: &tokio::net::UdpSocket, during: Duration) -> usize {
    let mut count = 0;
    let mut buffer = [0; 512];
    let answering = async {
        loop {
            let (length, client) = server.recv_from(&mut buffer).await.expect("a query");
            count += 1;
            // The query, returned as an answer: one A record with a TTL of an hour, for an address where nothing
            // listens.
            let mut answer = buffer[..length].to_vec();
            answer.truncate(query_end(&answer));
            answer[2..4].copy_from_slice(&[0x84, 0]);
            let is_a = answer[answer.len() - 3] == 1;
            answer[6..12].copy_from_slice(&[0, u8::from(is_a), 0, 0, 0, 0]);
            if is_a {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0x0e, 0x10, 0, 4, 127, 0, 0, 1]);
            }
            server.send_to(&answer, client).await.expect("sent");
        }
    };
    let _ = tokio::time::timeout(during, answering).await;
    count
}

/// Returns the end of the only question in a DNS message.
fn query_end(message: &[u8]) -> usize {
    let mut at = 12;
    while message[at] != 0 {
        at += 1 + usize::from(message[at]);
    }
    at + 5
}

#[tokio::test]
async fn h17_re_resolution_on_failure_is_rate_limited() {
    let server = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let address = server.local_addr().expect("an address");
    let text = format!("dns://{address}/echo.test:1");
    let target: Target = text.parse().expect("a target");
    let mut options = hotpick::transport::SubConnOptions::default();
    options.backoff.base = Duration::from_millis(10);
    options.backoff.max = Duration::from_millis(10);
    // Each resolution makes two queries, for A and AAAA. The minimum of 4 allows for a busy machine.
    for (interval, least, most) in [(None, 2, 2), (Some(Duration::from_millis(100)), 4, 24)] {
        let mut resolver = DnsResolver::of(&target).expect("a resolver");
        if let Some(interval) = interval {
            resolver = resolver.min_interval(interval);
        }
        // Connections are refused 100 times per second.
        let channel = Channel::builder(&text).resolver(resolver).subconn_options(options).connect_lazy();
        let count = queries(&server, Duration::from_secs(1)).await;
        assert!((least..=most).contains(&count), "{count} queries with {interval:?}");
        drop(channel);
    }
}

/// A program writes the file in place and does not close it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_endpoints_that_someone_keeps_open_is_read_when_it_has_come_to_rest() {
    use std::io::Write as _;

    let cluster = Cluster::start(&["a", "b"]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("endpoints.json");
    let list = |at: usize| {
        json!({"endpoints": [{"address": cluster.backends[at].address().to_string()}]}).to_string()
    };
    std::fs::write(&path, list(0)).expect("written");
    let channel = Channel::builder(format!("file://{}", path.display())).connect_lazy().expect("a channel");
    let address = |at: usize| cluster.backends[at].address().to_string();
    settled(&channel, &[&address(0)]).await;
    let mut open = std::fs::File::options().write(true).truncate(true).open(&path).expect("open");
    open.write_all(list(1).as_bytes()).expect("written");
    settled(&channel, &[&address(1)]).await;
    drop(open);
}

#[tokio::test]
async fn a_file_of_endpoints_is_followed() {
    let cluster = Cluster::start(&["red-1", "green-1"]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let policies = Policies::with(&[("color.wasm", &standard("color"))]);
    let path = folder.path().join("endpoints.json");
    let endpoint = |at: usize| {
        let backend = &cluster.backends[at];
        json!({"address": backend.address().to_string(), "weight": at + 1, "color": backend.name().split('-').next()})
    };
    let write = |text: String| {
        // Atomically.
        let new = folder.path().join("new");
        std::fs::write(&new, text).expect("written");
        std::fs::rename(new, &path).expect("renamed");
    };
    let (resolver, errors) = Errors::of(FileResolver::new(&path));
    let channel = Channel::builder(format!("file://{}", path.display()))
        .resolver(resolver)
        .policies(&policies.followed)
        .policy("color");
    let channel = channel.connect_lazy().expect("a channel");
    let caller = Caller::of(&channel);
    let status = caller.call().await.expect_err("no file yet");
    assert!(status.message().contains("does not exist"), "{status}");

    write(json!({"endpoints": [endpoint(0), endpoint(1)]}).to_string());
    let caller = Caller::ready(&channel, Some("color")).await;
    assert_eq!(caller.call_color("green").await.expect("served"), "green-1");
    assert_eq!(caller.status().subconns[1].endpoint().weight(), 2);
    // A bad file or a missing file changes nothing.
    let before = errors.count();
    write("{\"endpoints\": [".to_owned());
    errors.after(before).await;
    std::fs::remove_file(&path).expect("removed");
    errors.after(before + 1).await;
    assert_eq!(caller.call_color("red").await.expect("served"), "red-1");
    // A service config in the file selects another policy at run time.
    let config = json!({"loadBalancingConfig": [{"no_such": {}}, {"round_robin": {}}]});
    write(json!({"endpoints": [endpoint(0)], "service_config": config}).to_string());
    let changed = |status: &ChannelStatus| status.policy.name == "round_robin" && status.subconns.len() == 1;
    soon("the change", channel.wait_for(changed)).await;
    assert_eq!(caller.call_color("green").await.expect("served"), "red-1");
    assert_eq!(cluster.accepted(), 2);
}

#[tokio::test]
async fn the_first_known_policy_of_a_service_config_balances_and_a_refused_one_leaves_the_old() {
    let cluster = Cluster::start(&["red-1", "green-1"]).await;
    let policies = Policies::with(&[("color.wasm", &standard("color")), ("bad.wasm", b"no wasm")]);
    let with = |config: serde_json::Value| {
        let config =
            hotpick::service_config::ServiceConfig::from_json(json!({"loadBalancingConfig": config}));
        let endpoints = resolver::ResolverUpdate::endpoints(cluster.endpoints());
        cluster.resolver.update(endpoints.with_service_config(config));
    };
    with(json!([{"unknown": {}}, {"bad": {}}, {"color": {}}, {"round_robin": {}}]));
    let channel = cluster.channel().policies(&policies.followed).connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, Some("color")).await;
    assert_eq!(caller.call_color("green").await.expect("served"), "green-1");
    // The policy rejects this configuration. The whole list is refused, and the previous policy stays active.
    with(json!([{"color": {"unmatched": "explode"}}, {"round_robin": {}}]));
    let refused = soon("the refusal", channel.wait_for(|status| status.refused.is_some())).await;
    assert_eq!((refused.policy.name.as_str(), refused.swaps), ("color", 0));
    assert_eq!(caller.call_color("green").await.expect("served"), "green-1");
    // The policy accepts this configuration.
    with(json!([{"color": {"keys": [{"attribute": "nothing"}], "unmatched": "any"}}]));
    soon("the change", channel.wait_for(|status| status.swaps == 1 && status.refused.is_none())).await;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        seen.insert(caller.call_color("green").await.expect("served"));
    }
    assert_eq!(seen.len(), 2);
    // No policy of the list is known. The previous one stays active, and the status has the reason.
    with(json!([{"unknown": {}}]));
    let refused = soon("the refusal", channel.wait_for(|status| status.refused.is_some())).await;
    assert_eq!(refused.refused.expect("a reason").to_string(), "there is no policy of the name unknown");
    // The policy is used as soon as its file exists.
    policies.put("unknown.wasm", &standard("round_robin"));
    soon("the policy", channel.wait_for(|status| status.policy.name == "unknown")).await;
    assert_eq!(caller.tally(10).await.into_values().collect::<Vec<_>>(), [5, 5]);
}

#[tokio::test]
async fn the_builders_service_config_counts_where_the_resolver_gives_none() {
    let cluster = Cluster::start(&["red-1", "green-1"]).await;
    let policies = Policies::with(&[("color.wasm", &standard("color"))]);
    let list = |name: &str| format!(r#"{{"loadBalancingConfig": [{{"{name}": {{}}}}]}}"#).parse();
    let config = list("color").expect("a config");
    let channel = cluster.channel().policies(&policies.followed).service_config(config).connect_lazy();
    let channel = channel.expect("a channel");
    let caller = Caller::ready(&channel, Some("color")).await;
    assert_eq!(caller.call_color("green").await.expect("served"), "green-1");
    let endpoints = || resolver::ResolverUpdate::endpoints(cluster.endpoints());
    cluster.resolver.update(endpoints().with_service_config(list("round_robin")));
    soon("the resolver's policy", channel.wait_for(|status| status.policy.name == "round_robin")).await;
    cluster.resolver.update(endpoints());
    soon("the builder's policy", channel.wait_for(|status| status.policy.name == "color")).await;
    assert_eq!(caller.call_color("red").await.expect("served"), "red-1");
    // No connection was re-created.
    assert_eq!((cluster.accepted(), channel.status().swaps), (2, 2));
}

/// The policy depends only on the current config, not on previous ones: channels with the same config behave alike.
#[tokio::test]
async fn a_service_config_without_its_previous_policy_selects_round_robin() {
    let cluster = Cluster::start(&["red-1", "green-1"]).await;
    let policies = Policies::with(&[("color.wasm", &standard("color"))]);
    let with = |config: serde_json::Value| {
        let config = hotpick::service_config::ServiceConfig::from_json(config);
        let endpoints = resolver::ResolverUpdate::endpoints(cluster.endpoints());
        cluster.resolver.update(endpoints.with_service_config(config));
    };
    with(json!({"loadBalancingConfig": [{"color": {}}]}));
    let channel = cluster.channel().policies(&policies.followed).connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, Some("color")).await;
    assert_eq!(caller.call_color("green").await.expect("served"), "green-1");
    with(json!({}));
    let is_round_robin = |status: &ChannelStatus| status.policy.name == "round_robin";
    soon("round robin", channel.wait_for(is_round_robin)).await;
    assert_eq!(caller.tally(10).await.into_values().collect::<Vec<_>>(), [5, 5]);
    // The policy is used again.
    with(json!({"loadBalancingConfig": [{"color": {}}]}));
    soon("color", channel.wait_for(|status| status.policy.name == "color")).await;
    assert_eq!(caller.call_color("green").await.expect("served"), "green-1");
    assert_eq!(cluster.accepted(), 2);
}

#[tokio::test]
async fn a_resolver_of_ones_own_is_used_by_its_scheme() {
    let cluster = Cluster::start(&["a"]).await;
    let address = cluster.backends[0].address();
    resolver::register("book", move |target: &Target| -> Result<Box<dyn Resolver>, TargetError> {
        match target.endpoint() {
            "echo" => Ok(Box::new(ManualResolver::new([Endpoint::new(address.into())]))),
            _ => Err(TargetError::invalid(target, "is not in the book")),
        }
    });
    let channel = Channel::builder("book:///echo").connect_lazy().expect("a channel");
    assert_eq!(Caller::ready(&channel, None).await.call().await.expect("served"), "a");
    let error = Channel::builder("book:///other").connect_lazy().expect_err("refused");
    assert_eq!(error.to_string(), "target \"book:///other\": is not in the book");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn srv_records_do_not_choose_whom_tls_trusts() {
    if !peers::available() {
        return;
    }
    let backend = Backend::start("a", "127.0.0.1:0".parse().expect("an address")).await.expect("a free port");
    let certificates = Certificates::new();
    let issue = |name: &str| {
        let (cert, key) = certificates.issue(name, name);
        ServerTls::from_files(cert, key, None).expect("TLS")
    };
    let (_good, good) = fronts::tls(backend.address(), issue("echo.test")).await;
    let (_bad, bad) = fronts::tls(backend.address(), issue("evil.test")).await;
    for (address, is_good) in [(good, true), (bad, false)] {
        let server =
            Dnsmasq::start(&[&format!("--srv-host=_grpc._tcp.echo.test,evil.test,{},1,1", address.port())]);
        server.set("evil.test", &["127.0.0.1"]);
        let channel = Channel::builder(format!("dns://{}/_grpc._tcp.echo.test", server.address()))
            .tls(ClientTls::new().ca_file(certificates.ca()))
            .connect_lazy()
            .expect("a channel");
        let answer = soon("an answer", Caller::of(&channel).call()).await;
        assert_eq!(answer.is_ok(), is_good, "{answer:?}");
    }
}
