//! Programs that the tests run, their paths, and free ports.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use super::process::Process;

/// Installs the peers with `.ci/peers` if they are missing, and returns true. If the environment variable
/// `HOTPICK_NO_PEERS` is set, prints a message and returns false: the calling test is to be skipped.
///
/// # Panics
///
/// Panics if the peers cannot be installed.
#[must_use]
pub fn available() -> bool {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    if std::env::var_os("HOTPICK_NO_PEERS").is_some() {
        eprintln!("skipped: HOTPICK_NO_PEERS is set");
        return false;
    }
    INSTALLED.get_or_init(|| {
        let status = Command::new(root().join(".ci/peers")).status();
        assert!(
            status.is_ok_and(|status| status.success()),
            ".ci/peers cannot install dnsmasq, etcd, grpcio, grpc-js and Envoy: \
             install them, or set HOTPICK_NO_PEERS=1 to skip the tests that need them"
        );
    });
    true
}

/// Installs the proxies that a benchmark compares with hotpick's, if they are available: see `.ci/proxies`. Returns the
/// path of Envoy.
///
/// # Panics
///
/// Panics if the script fails.
#[must_use]
pub fn proxies() -> PathBuf {
    let status = Command::new(root().join(".ci/proxies")).status().expect("bash runs");
    assert!(status.success(), ".ci/proxies failed: see above");
    target().join("peers/envoy/envoy/_bin/envoy")
}

/// A reference balancer, grpcio or Envoy, for the endpoints of a test. See `python/references.py`.
#[derive(Debug)]
pub struct Reference {
    process: Process,
    input: ChildStdin,
}

impl Reference {
    /// Starts the balancer of a scenario.
    ///
    /// # Panics
    ///
    /// Panics if it does not start.
    #[must_use]
    pub fn start(scenario: &serde_json::Value) -> Self {
        let mut command = python_command("references.py");
        command.env("ENVOY", target().join("peers/envoy/envoy/_bin/envoy")).arg(scenario.to_string());
        let (mut process, input) = Process::start_with_input(&mut command);
        assert_eq!(process.line(), "ready");
        Self { process, input }
    }

    /// Sends a call for each value of `hash-key`, without it for `None`. Returns the name of the backend that answered
    /// each call, or the status of the call.
    ///
    /// # Panics
    ///
    /// Panics if the balancer has ended.
    pub fn calls(&mut self, keys: &[Option<&str>]) -> Vec<String> {
        let keys = serde_json::to_string(keys).expect("JSON");
        writeln!(self.input, "{keys}").expect("the balancer reads its input");
        let answer = self.process.line();
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{answer}: {error}"))
    }

    /// Sends `n` calls without `hash-key`.
    pub fn picks(&mut self, n: usize) -> Vec<String> {
        self.calls(&vec![None; n])
    }
}

/// Starts a Python program of this package's folder `python`, with grpcio.
#[must_use]
pub fn python(program: &str, arguments: &[&str]) -> Process {
    Process::start(python_command(program).args(arguments))
}

/// Returns the command of a Python program of this package's folder `python`, with grpcio.
#[must_use]
pub fn python_command(program: &str) -> Command {
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", target().join("peers/python")).env("PYTHONUNBUFFERED", "1");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(program));
    command
}

/// Returns the command of `collector.py`, which needs newer messages of OTLP than those that come with grpcio's messages of
/// xDS.
#[must_use]
pub fn collector_command() -> Command {
    let mut command = python_command("collector.py");
    command.env("PYTHONPATH", target().join("peers/otlp"));
    command
}

/// Returns the command of a Node program of this package's folder `node`, with grpc-js.
#[must_use]
pub fn node_command(program: &str) -> Command {
    let mut command = Command::new("node");
    command.env("NODE_PATH", target().join("peers/node/node_modules"));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("node").join(program));
    command
}

/// Returns the command of a program of this workspace: `hotpick`, or `examples/NAME`.
///
/// # Panics
///
/// Panics if the program has not been built.
#[must_use]
pub fn built(program: &str) -> Command {
    // The running test is in target/PROFILE/deps.
    let test = std::env::current_exe().expect("a path");
    let profile = test.parent().and_then(Path::parent).expect("a build's folder");
    let path = profile.join(program);
    assert!(path.exists(), "{path:?} does not exist: run `cargo test --workspace`, which builds it");
    Command::new(path)
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(crate) fn target() -> PathBuf {
    root().join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// Returns PATH with `/usr/sbin`, where Debian installs servers.
#[must_use]
pub fn with_sbin() -> String {
    format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default())
}

/// Returns a port that is free for UDP and TCP. It stays free, because it is outside the system's range of ephemeral
/// ports.
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

/// Waits until something listens on a TCP port.
///
/// # Panics
///
/// Panics if nothing listens within 30 s.
pub fn wait_for_port(port: u16) {
    wait_for(([127, 0, 0, 1], port).into());
}

pub(super) fn wait_for(address: SocketAddr) {
    let start = Instant::now();
    while std::net::TcpStream::connect(address).is_err() {
        assert!(start.elapsed() < Duration::from_secs(30), "nothing listens on {address} after 30 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}
