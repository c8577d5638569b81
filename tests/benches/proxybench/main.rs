//! Compares `hotpick proxy` with nginx, HAProxy and Envoy as gRPC proxies of the same three backends.
//!
//! `cargo bench --workspace --bench proxybench` prints tables in Markdown and takes about three minutes; with
//! `-- haproxy relay` only those, hotpick and the row without a proxy. It installs missing proxies. Each proxy is a separate process with
//! one thread; the benchmark compares their CPU time. The proxies take turns. The last one, `relay.c`, says what HTTP/2 by
//! nghttp2 takes without all else.
//!
//! `-- load 127.0.0.1:8080 5000` sends 5,000 RPCs a second to what listens there, for 20 seconds: to profile one load.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hotpick_echo::{EchoClient, EchoRequest};
use hotpick_tests::bench::{self, Servers, closed_loop, micros, open_loop};
use hotpick_tests::peers::{self, Process};
use hotpick_tests::standard;
use hotpick_tests::table::{Table, median, ratio};
use tonic::transport::Channel;

const ROUNDS: usize = 7;
const TURN: Duration = Duration::from_secs(1);
const CALLERS: usize = 64;
/// Rate of the open loop, which starts RPCs whether or not the previous ones have ended.
const PER_SECOND: f64 = 5_000.0;
/// Rate of another open loop: about half of what nginx passes on at most, and a third of what hotpick does.
const HALF: f64 = 15_000.0;
/// Connections from the callers to the proxy.
const CONNECTIONS: usize = 4;

#[derive(Clone, Copy, Debug)]
enum Proxy {
    /// No proxy: the callers are connected to the backends.
    None,
    Hotpick(&'static str),
    Nginx,
    Haproxy,
    Envoy,
    /// The least that a relay on nghttp2 takes: `relay.c`.
    Relay,
}

const ALL: [Proxy; 8] = [
    Proxy::None,
    Proxy::Hotpick("round_robin"),
    Proxy::Hotpick("p2c_ewma"),
    Proxy::Hotpick("color"),
    Proxy::Nginx,
    Proxy::Haproxy,
    Proxy::Envoy,
    Proxy::Relay,
];

/// Measurements of a proxy.
#[derive(Default)]
struct Seen {
    per_second: Vec<f64>,
    /// CPU time per RPC (microseconds) in the closed loop.
    busy: Vec<f64>,
    /// CPU time per RPC (microseconds) in the open loop.
    calm: Vec<f64>,
    median: Vec<f64>,
    p99: Vec<f64>,
    /// p99 (microseconds) at 15,000 RPCs a second.
    half: Vec<f64>,
}

fn main() {
    if Servers::serve_if_asked() {
        return;
    }
    let chosen: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if let ["load", address, rate] = chosen.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        return send(address.parse().expect("an address"), rate.parse().expect("RPCs a second"));
    }
    let is_chosen = |proxy: &Proxy| {
        // The columns compare with these two.
        matches!(proxy, Proxy::None | Proxy::Hotpick("round_robin"))
            || chosen.is_empty()
            || chosen.iter().any(|part| proxy.name().to_lowercase().contains(&part.to_lowercase()))
    };
    let envoy = peers::proxies();
    let before = bench::load();
    let servers = Servers::start(3);
    let directory = tempfile::tempdir().expect("a directory");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mut running = Vec::new();
    for proxy in ALL.into_iter().filter(is_chosen) {
        let port = peers::free_port();
        let process = proxy.start(&envoy, directory.path(), port, &servers.addresses);
        let addresses = match process {
            None => servers.addresses.clone(),
            Some(_) => {
                peers::wait_for_port(port);
                vec![([127, 0, 0, 1], port).into()]
            }
        };
        let clients = runtime.block_on(connect(&addresses));
        let callers = Callers { clients: clients.into(), failed: Arc::default() };
        running.push((proxy, process, callers, Seen::default()));
    }
    let mut order: Vec<_> = (0..running.len()).collect();
    for _ in 0..ROUNDS {
        // What one leaves behind, in caches and in the kernel, must not always meet the same one.
        fastrand::shuffle(&mut order);
        for at in &order {
            let (_, process, callers, seen) = &mut running[*at];
            runtime.block_on(turn(process.as_ref(), callers, seen));
        }
    }
    let mut table = Table::new([
        "proxy",
        "RPC/s",
        "CPU per RPC",
        "CPU, hotpick / own",
        "at 5,000/s: CPU per RPC",
        "median",
        "p99",
        "at 15,000/s: p99",
        "more than with none",
        "failed",
    ]);
    let own = running[1].3.busy.clone();
    let direct = running[0].3.half.clone();
    for (proxy, process, callers, seen) in &running {
        let against = ratio(own.iter().zip(&seen.busy).map(|(own, theirs)| own / theirs), 2);
        let of_proxies = |text: String| if process.is_some() { text } else { String::new() };
        table.row([
            proxy.name(),
            format!("{:.0}", median(seen.per_second.clone())),
            of_proxies(format!("{:.1} us", median(seen.busy.clone()))),
            of_proxies(against),
            of_proxies(format!("{:.1} us", median(seen.calm.clone()))),
            format!("{:.0} us", median(seen.median.clone())),
            format!("{:.0} us", median(seen.p99.clone())),
            format!("{:.0} us", median(seen.half.clone())),
            of_proxies(format!(
                "{:.0} us",
                median(seen.half.iter().zip(&direct).map(|(own, none)| own - none))
            )),
            callers.failed.load(Ordering::Relaxed).to_string(),
        ]);
    }
    println!("{before} Afterwards: {}\n", bench::load());
    println!(
        "{CALLERS} callers on {CONNECTIONS} connections; CPU, hotpick / own: CPU per RPC of round_robin divided by that of the proxy\n\n{table}"
    );
}

/// Sends RPCs at a rate to a proxy of someone else's.
fn send(address: SocketAddr, per_second: f64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let callers = Callers { clients: connect(&[address]).await.into(), failed: Arc::default() };
        let failed = Arc::clone(&callers.failed);
        let call = move |caller| callers.clone().call(caller);
        open_loop(per_second, TURN, call.clone()).await;
        let latencies = open_loop(per_second, TURN * 20, call).await;
        let [median, p99] = [0.5, 0.99].map(|part| micros(&latencies, part));
        let (rpcs, failed) = (latencies.len(), failed.load(Ordering::Relaxed));
        println!("{rpcs} RPCs, {failed} failed, median {median:.0} us, p99 {p99:.0} us");
    });
}

async fn connect(addresses: &[SocketAddr]) -> Vec<EchoClient<Channel>> {
    let mut clients = Vec::new();
    for address in addresses.iter().cycle().take(CONNECTIONS) {
        let endpoint = Channel::from_shared(format!("http://{address}")).expect("a URI");
        clients.push(EchoClient::new(endpoint.connect().await.expect("the proxy listens")));
    }
    clients
}

/// Sends RPCs, and counts those that fail.
#[derive(Clone)]
struct Callers {
    clients: Arc<[EchoClient<Channel>]>,
    failed: Arc<AtomicU64>,
}

impl Callers {
    async fn call(self, caller: usize) {
        let mut client = self.clients[caller % CONNECTIONS].clone();
        let mut request = tonic::Request::new(EchoRequest::new("hello"));
        request.metadata_mut().insert("color", tonic::metadata::MetadataValue::from_static("red"));
        // A peer that fails some has its row, with their number.
        if client.unary(request).await.is_err() {
            self.failed.fetch_add(1, Ordering::Relaxed);
            // A peer that fails all of them at once must not keep the machine busy.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn turn(process: Option<&Process>, callers: &Callers, seen: &mut Seen) {
    let callers = callers.clone();
    let call = move |caller| callers.clone().call(caller);
    let cpu_time = || process.map(Process::cpu_time).unwrap_or_default();
    let mut marks = Vec::new();
    let (rpcs, took) = closed_loop(CALLERS, TURN, call.clone(), || marks.push(cpu_time())).await;
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    let rpcs = rpcs as f64;
    seen.per_second.push(rpcs / took.as_secs_f64());
    seen.busy.push((marks[1] - marks[0]).as_secs_f64() * 1e6 / rpcs);
    let before = cpu_time();
    let latencies = open_loop(PER_SECOND, TURN, call.clone()).await;
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    let rpcs = latencies.len() as f64;
    seen.calm.push((cpu_time() - before).as_secs_f64() * 1e6 / rpcs);
    seen.median.push(micros(&latencies, 0.5));
    seen.p99.push(micros(&latencies, 0.99));
    seen.half.push(micros(&open_loop(HALF, TURN, call).await, 0.99));
}

impl Proxy {
    fn name(self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Hotpick(policy) => format!("hotpick, {policy}.wasm"),
            Self::Nginx => "nginx".to_owned(),
            Self::Haproxy => "HAProxy".to_owned(),
            Self::Envoy => "Envoy".to_owned(),
            Self::Relay => "a bare relay on nghttp2".to_owned(),
        }
    }

    /// Starts the proxy with one thread, if it is one.
    fn start(self, envoy: &Path, directory: &Path, port: u16, backends: &[SocketAddr]) -> Option<Process> {
        let file = |name: &str, text: String| {
            let path = directory.join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        let command = match self {
            Self::None => return None,
            Self::Hotpick(policy) => {
                let policies = directory.join(format!("{policy}.d"));
                std::fs::create_dir(&policies).expect("made");
                std::fs::write(policies.join(format!("{policy}.wasm")), standard(policy)).expect("written");
                let endpoints = backends.iter().fold(String::from("endpoints = ["), |mut text, backend| {
                    let _ =
                        write!(text, "{{ address = \"{backend}\", attributes = {{ color = \"red\" }} }}, ");
                    text
                });
                let endpoints = file(&format!("{policy}.toml"), format!("{endpoints}]"));
                let mut command = peers::built("hotpick");
                command.arg("proxy").arg("--listen").arg(format!("127.0.0.1:{port}"));
                command.arg("--target").arg(format!("file://{}", endpoints.display()));
                command.arg("--policies").arg(policies).args(["--policy", policy]);
                command.env("TOKIO_WORKER_THREADS", "1");
                command
            }
            Self::Nginx => {
                let servers = backends.iter().fold(String::new(), |mut text, backend| {
                    let _ = writeln!(text, "server {backend};");
                    text
                });
                let dir = directory.display();
                let config = file("nginx.conf", format!(
                    "daemon off; master_process off; pid {dir}/nginx.pid; error_log stderr crit;
                    events {{ worker_connections 4096; }}
                    http {{
                        access_log off; client_body_temp_path {dir}/body; keepalive_requests 1000000000;
                        http2_max_concurrent_streams 1024;
                        proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
                        upstream backends {{ {servers} keepalive 256; keepalive_requests 1000000000; }}
                        server {{ listen 127.0.0.1:{port} http2; location / {{ grpc_pass grpc://backends; }} }}
                    }}"
                ));
                let mut command = Command::new("nginx");
                command.arg("-c").arg(config).arg("-p").arg(directory);
                command
            }
            Self::Haproxy => {
                let servers = backends.iter().enumerate().fold(String::new(), |mut text, (at, backend)| {
                    let _ = writeln!(text, "    server s{at} {backend} proto h2");
                    text
                });
                let config = file(
                    "haproxy.cfg",
                    format!(
                        "global\n    nbthread 1\n    maxconn 4096\ndefaults\n    mode http\n    timeout connect 5s\n    timeout client 60s\n    timeout server 60s\nfrontend f\n    bind 127.0.0.1:{port} proto h2\n    default_backend b\nbackend b\n    balance roundrobin\n    http-reuse always\n{servers}"
                    ),
                );
                let mut command = Command::new("haproxy");
                command.arg("-db").arg("-f").arg(config);
                command
            }
            Self::Envoy => {
                let endpoints = backends.iter().fold(String::new(), |mut text, backend| {
                    let (ip, port) = (backend.ip(), backend.port());
                    let _ = writeln!(text, "          - endpoint: {{ address: {{ socket_address: {{ address: {ip}, port_value: {port} }} }} }}");
                    text
                });
                let config = file(
                    "envoy.yaml",
                    ENVOY.replace("PORT", &port.to_string()).replace("ENDPOINTS", &endpoints),
                );
                let mut command = Command::new(envoy);
                command
                    .args(["--concurrency", "1", "--use-dynamic-base-id", "--log-level", "error", "-c"])
                    .arg(config);
                command
            }
            Self::Relay => {
                let program = directory.join("relay");
                let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/proxybench/relay.c");
                let compiled =
                    Command::new("cc").args(["-O2", source, "-lnghttp2", "-o"]).arg(&program).status();
                assert!(compiled.expect("a C compiler").success(), "{source} does not compile");
                let mut command = Command::new(program);
                command.arg(port.to_string()).args(backends.iter().map(|backend| backend.port().to_string()));
                command
            }
        };
        // Ends with this process, however that ends.
        let mut guarded = Command::new("setpriv");
        guarded.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
        guarded.env("PATH", peers::with_sbin()).stderr(Stdio::inherit());
        for (name, value) in command.get_envs() {
            guarded.env(name, value.unwrap_or_default());
        }
        Some(Process::start(&mut guarded))
    }
}

/// Envoy's configuration: a listener and a cluster on HTTP/2, round robin, no access log.
const ENVOY: &str = "static_resources:
  listeners:
  - address: { socket_address: { address: 127.0.0.1, port_value: PORT } }
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          codec_type: HTTP2
          route_config:
            virtual_hosts:
            - { name: all, domains: [\"*\"], routes: [{ match: { prefix: / }, route: { cluster: backends } }] }
          http_filters:
          - name: envoy.filters.http.router
            typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
  clusters:
  - name: backends
    type: STATIC
    lb_policy: ROUND_ROBIN
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: { http2_protocol_options: {} }
    load_assignment:
      cluster_name: backends
      endpoints:
      - lb_endpoints:
ENDPOINTS
";
