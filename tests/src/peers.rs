//! Programs of others that the tests talk to: a DNS server, etcd, gRPC in Python, Envoy.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// A process that is killed when this is dropped.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts it. Its standard output can be [waited for](Self::line).
    ///
    /// # Panics
    ///
    /// It does not start.
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        Self(child.unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// Starts one that is told lines on its standard input.
    ///
    /// # Panics
    ///
    /// It does not start.
    #[must_use]
    pub fn start_told(command: &mut Command) -> (Self, ChildStdin) {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let input = child.stdin.take().expect("piped");
        (Self(child), input)
    }

    /// The CPU time of it and of the processes that it has started.
    ///
    /// # Panics
    ///
    /// This is not Linux.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        let own = self.0.id();
        let children = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children")).expect("Linux");
        let all = children.split_whitespace().filter_map(|child| child.parse().ok()).chain([own]);
        all.map(cpu_time).sum()
    }

    /// Waits for the next line that it prints.
    ///
    /// # Panics
    ///
    /// It ends without one.
    pub fn line(&mut self) -> String {
        let output = self.0.stdout.as_mut().expect("piped");
        let mut line = String::new();
        // A line at a time, and nothing more of what follows.
        let mut byte = [0];
        while std::io::Read::read(output, &mut byte).expect("readable") == 1 {
            if byte[0] == b'\n' {
                return line;
            }
            line.push(char::from(byte[0]));
        }
        panic!("the process ended and said no more than {line:?}: {:?}", self.0.wait());
    }

    /// The rest of what it prints, to the last line.
    ///
    /// # Panics
    ///
    /// It prints what is no text.
    pub fn rest(&mut self) -> Vec<String> {
        let output = self.0.stdout.as_mut().expect("piped");
        BufReader::new(output).lines().map(|line| line.expect("text")).collect()
    }

    /// Sends it SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends it a signal: `STOP`.
    ///
    /// # Panics
    ///
    /// There is no program `kill`.
    pub fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        let status = kill.args(["-s", name]).arg(self.0.id().to_string()).status().expect("kill runs");
        assert!(status.success(), "it is there to be told");
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// What it has in memory, in KiB.
    ///
    /// # Panics
    ///
    /// This is not Linux.
    #[must_use]
    pub fn resident(&self) -> u64 {
        crate::resident(&self.0.id().to_string())
    }

    /// Kills it, and waits until it is gone.
    ///
    /// # Panics
    ///
    /// It cannot be killed.
    pub fn kill(&mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("gone");
    }

    /// Waits for its end. The exit status, if it has one.
    ///
    /// # Panics
    ///
    /// It does not end within 30 s.
    pub fn end(&mut self) -> Option<i32> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().expect("a child") {
                return status.code();
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "the process does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether the peers are there; if not, `.ci/peers` installs them. False only if the environment variable
/// `HOTPICK_NO_PEERS` asks to do without: the test that asked says so and ends.
///
/// # Panics
///
/// They cannot be installed.
#[must_use]
pub fn available() -> bool {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    if std::env::var_os("HOTPICK_NO_PEERS").is_some() {
        eprintln!("not tested, because HOTPICK_NO_PEERS is set");
        return false;
    }
    INSTALLED.get_or_init(|| {
        let status = Command::new(root().join(".ci/peers")).status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "dnsmasq, etcd, grpcio and Envoy cannot be installed by .ci/peers: \
             install them, or set HOTPICK_NO_PEERS=1 to leave out the tests with them"
        );
    });
    true
}

/// A real DNS server on loopback, whose answers can be changed.
#[derive(Debug)]
pub struct Dnsmasq {
    directory: tempfile::TempDir,
    port: u16,
    process: Option<Process>,
}

impl Dnsmasq {
    /// Starts a server with this configuration, beside that of its hosts.
    #[must_use]
    pub fn start(records: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(directory.path().join("hosts")).expect("made");
        let mut server = Self { directory, port: free_port(), process: None };
        server.restart(records);
        server
    }

    /// Starts it anew, with another configuration, on the same port.
    ///
    /// # Panics
    ///
    /// It does not answer.
    pub fn restart(&mut self, records: &[&str]) {
        self.process = None;
        let hosts = self.directory.path().join("hosts");
        let mut command = Command::new("dnsmasq");
        command.env("PATH", with_sbin()).args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
            "--listen-address=127.0.0.1",
            "--user=root",
            "--local-ttl=1",
            "--local=/test/",
            "--pid-file=",
        ]);
        command.arg(format!("--port={}", self.port)).arg(format!("--hostsdir={}", hosts.display()));
        command.args(records);
        self.process = Some(Process::start(command.stderr(Stdio::null())));
        // It listens on TCP, too.
        wait_for_port(self.port);
    }

    /// The addresses of a name, from now on (or half a second later).
    ///
    /// # Panics
    ///
    /// They cannot be written.
    pub fn set(&self, name: &str, addresses: &[&str]) {
        let lines: String = addresses.iter().map(|address| format!("{address} {name}\n")).collect();
        std::fs::write(self.directory.path().join("hosts").join(name), lines).expect("written");
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Stops it.
    pub fn stop(&mut self) {
        self.process = None;
    }
}

/// A real etcd: one member of a cluster, which may have no other.
#[derive(Debug)]
pub struct Etcd {
    directory: tempfile::TempDir,
    name: String,
    client: SocketAddr,
    peer: SocketAddr,
    /// `name=url,name=url`
    cluster: String,
    arguments: Vec<String>,
    process: Option<Process>,
    /// A host of its own.
    host: Option<Host>,
}

/// A network namespace with two links: by one it is reached from here, by the other from its like.
#[derive(Debug)]
struct Host {
    name: String,
}

/// Two bridges, for the two links of each host.
#[derive(Debug)]
pub struct Hosts;

const BRIDGES: [&str; 2] = ["hotpick-c", "hotpick-p"];

fn ip(arguments: &str) -> bool {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    output.is_ok_and(|output| output.status.success())
}

impl Hosts {
    /// None where they cannot be made: that takes root, and a system that lets it.
    fn start() -> Option<Self> {
        let hosts = Self;
        for (at, bridge) in BRIDGES.iter().enumerate() {
            let _ = ip(&format!("link del {bridge}"));
            let made = ip(&format!("link add {bridge} type bridge")) && ip(&format!("link set {bridge} up"));
            if !made || !ip(&format!("addr add 10.213.{at}.254/24 dev {bridge}")) {
                return None;
            }
        }
        Some(hosts)
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for bridge in BRIDGES {
            let _ = ip(&format!("link del {bridge}"));
        }
    }
}

impl Host {
    fn start(number: usize) -> Option<Self> {
        let host = Self { name: format!("hotpick-{number}") };
        let name = &host.name;
        let _ = ip(&format!("netns del {name}"));
        let mut made = ip(&format!("netns add {name}")) && ip(&format!("-n {name} link set lo up"));
        for (at, bridge) in BRIDGES.iter().enumerate() {
            let (outer, inner) = (format!("hp{number}o{at}"), format!("link{at}"));
            made &= ip(&format!("link add {outer} type veth peer name {inner} netns {name}"))
                && ip(&format!("link set {outer} master {bridge} up"))
                && ip(&format!("-n {name} addr add 10.213.{at}.{}/24 dev {inner}", number + 1))
                && ip(&format!("-n {name} link set {inner} up"));
        }
        made.then_some(host)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = ip(&format!("netns del {}", self.name));
    }
}

impl Etcd {
    /// Starts one with no data.
    ///
    /// # Panics
    ///
    /// It does not listen within 30 s.
    #[must_use]
    pub fn start() -> Self {
        Self::cluster(1).remove(0)
    }

    /// Starts a cluster of so many.
    ///
    /// # Panics
    ///
    /// One does not listen within 30 s.
    #[must_use]
    pub fn cluster(members: usize) -> Vec<Self> {
        Self::cluster_with(members, &[])
    }

    /// Starts a cluster of members with these arguments. With a certificate among them they serve by TLS.
    ///
    /// # Panics
    ///
    /// One does not listen within 30 s.
    #[must_use]
    pub fn cluster_with(members: usize, arguments: &[&str]) -> Vec<Self> {
        let local = || SocketAddr::from(([127, 0, 0, 1], free_port()));
        Self::all((0..members).map(|_| (local(), local(), None)).collect(), arguments)
    }

    /// Starts a cluster of three on hosts of their own, which can be [cut off](Self::cut_off) from each other. None where
    /// these cannot be made.
    ///
    /// # Panics
    ///
    /// One does not listen within 30 s.
    #[must_use]
    pub fn cluster_on_hosts() -> Option<(Vec<Self>, Hosts)> {
        let hosts = Hosts::start()?;
        let mut places = Vec::new();
        for number in 0..3u8 {
            let address = |link, port| SocketAddr::from(([10, 213, link, number + 1], port));
            places.push((address(0, 2379), address(1, 2380), Some(Host::start(number.into())?)));
        }
        Some((Self::all(places, &[]), hosts))
    }

    fn all(places: Vec<(SocketAddr, SocketAddr, Option<Host>)>, arguments: &[&str]) -> Vec<Self> {
        let named = places.iter().enumerate().map(|(at, (_, peer, _))| format!("m{at}=http://{peer}"));
        let cluster = named.collect::<Vec<_>>().join(",");
        let member = |(at, (client, peer, host))| Self {
            directory: tempfile::tempdir().expect("a directory"),
            name: format!("m{at}"),
            client,
            peer,
            cluster: cluster.clone(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            process: None,
            host,
        };
        let mut members: Vec<_> = places.into_iter().enumerate().map(member).collect();
        // None serves before a majority is there.
        members.iter_mut().for_each(Self::spawn);
        members.iter().for_each(Self::wait);
        members
    }

    /// The other members cannot be reached any more from its host, or can again; from here it can all the time.
    ///
    /// # Panics
    ///
    /// It has no host of its own.
    pub fn cut_off(&self, is_cut: bool) {
        let host = &self.host.as_ref().expect("a host of its own").name;
        assert!(ip(&format!("-n {host} link set link1 {}", if is_cut { "down" } else { "up" })), "a link");
    }

    /// Kills it and starts it again, with the data it has.
    pub fn restart(&mut self) {
        self.spawn();
        self.wait();
    }

    /// The same, without waiting until it serves.
    pub fn spawn(&mut self) {
        self.stop();
        let url = |address| format!("http://{address}");
        let tls = self.arguments.iter().any(|argument| argument.starts_with("--cert-file"));
        let client = if tls { url(self.client).replace("http", "https") } else { url(self.client) };
        let mut command = match &self.host {
            None => Command::new("etcd"),
            Some(host) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &host.name, "etcd"]);
                command
            }
        };
        command.arg("--data-dir").arg(self.data()).args(["--name", &self.name]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &url(self.peer)]);
        command.args(["--initial-advertise-peer-urls", &url(self.peer)]);
        command.args(["--initial-cluster", &self.cluster]).args(&self.arguments);
        command.env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH);
        self.process = Some(Process::start(command.stderr(Stdio::null())));
    }

    /// Waits until it serves.
    pub fn wait(&self) {
        wait_for(self.client);
    }

    /// Kills it.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Kills it, and takes its data away.
    ///
    /// # Panics
    ///
    /// They stay.
    pub fn lose(&mut self) {
        self.stop();
        std::fs::remove_dir_all(self.data()).expect("removed");
    }

    /// It neither answers nor ends, until it is [thawed](Self::thaw).
    pub fn freeze(&self) {
        self.process.iter().for_each(|process| process.signal("STOP"));
    }

    /// It goes on.
    pub fn thaw(&self) {
        self.process.iter().for_each(|process| process.signal("CONT"));
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Where it serves clients: `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        self.client.to_string()
    }
}

/// Of a process; nothing of one that has ended.
fn cpu_time(process: u32) -> Duration {
    // Of the second, which is what Linux has told programs since it began.
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // Its name may have spaces.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u32>().ok());
    TICK * ticks.sum::<u32>()
}

/// The proxies that a bench compares hotpick's with, if they are to be had: see `.ci/proxies`. Gives where Envoy is.
///
/// # Panics
///
/// The script fails.
#[must_use]
pub fn proxies() -> PathBuf {
    let status = Command::new(root().join(".ci/proxies")).status().expect("bash runs");
    assert!(status.success(), ".ci/proxies failed: see above");
    target().join("peers/envoy/envoy/_bin/envoy")
}

/// A balancer that was not written here, on the endpoints of a test: grpcio or Envoy. See `python/references.py`.
#[derive(Debug)]
pub struct Reference {
    process: Process,
    input: ChildStdin,
}

impl Reference {
    /// Starts one for a scenario.
    ///
    /// # Panics
    ///
    /// It does not start.
    #[must_use]
    pub fn start(scenario: &serde_json::Value) -> Self {
        let mut command = python_command("references.py");
        command.env("ENVOY", target().join("peers/envoy/envoy/_bin/envoy")).arg(scenario.to_string());
        let (mut process, input) = Process::start_told(&mut command);
        assert_eq!(process.line(), "ready");
        Self { process, input }
    }

    /// What answers calls with these values of `hash-key`: names of backends, or statuses.
    ///
    /// # Panics
    ///
    /// It has ended.
    pub fn calls(&mut self, keys: &[Option<&str>]) -> Vec<String> {
        let keys = serde_json::to_string(keys).expect("texts");
        writeln!(self.input, "{keys}").expect("it reads");
        let answer = self.process.line();
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{answer}: {error}"))
    }

    /// What answers so many calls without one.
    pub fn picks(&mut self, n: usize) -> Vec<String> {
        self.calls(&vec![None; n])
    }
}

/// A Python program of this package's folder `python`, with grpcio.
#[must_use]
pub fn python(program: &str, arguments: &[&str]) -> Process {
    Process::start(python_command(program).args(arguments))
}

/// The command of a Python program of this package's folder `python`.
#[must_use]
pub fn python_command(program: &str) -> Command {
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", target().join("peers/python")).env("PYTHONUNBUFFERED", "1");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(program));
    command
}

/// A program of this workspace: the command `hotpick`, or `examples/NAME`.
///
/// # Panics
///
/// It has not been built.
#[must_use]
pub fn built(program: &str) -> Command {
    // This test is in target/PROFILE/deps.
    let test = std::env::current_exe().expect("a path");
    let profile = test.parent().and_then(Path::parent).expect("a build's folder");
    let path = profile.join(program);
    assert!(path.exists(), "{path:?} is not there: run cargo test --workspace, which builds it");
    Command::new(path)
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(crate) fn target() -> PathBuf {
    root().join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// With the folder where Debian has servers, and only root looks.
#[must_use]
pub fn with_sbin() -> String {
    format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default())
}

/// A port that nothing listens on, for UDP and TCP; and nothing will, as it is none of those that the system
/// gives out by itself.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 10_000).expect("small");
    loop {
        let port = 12_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Waits until something listens there.
///
/// # Panics
///
/// Nothing does, for half a minute.
pub fn wait_for_port(port: u16) {
    wait_for(([127, 0, 0, 1], port).into());
}

fn wait_for(address: SocketAddr) {
    let begin = Instant::now();
    while std::net::TcpStream::connect(address).is_err() {
        assert!(begin.elapsed() < Duration::from_secs(30), "nothing listens on {address}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
