//! Where programs are, ports, and the programs of this workspace and in Python.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use super::process::Process;

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

pub(super) fn wait_for(address: SocketAddr) {
    let begin = Instant::now();
    while std::net::TcpStream::connect(address).is_err() {
        assert!(begin.elapsed() < Duration::from_secs(30), "nothing listens on {address}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
