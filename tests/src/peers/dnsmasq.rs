//! dnsmasq as a DNS server.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use super::process::Process;
use super::tools::{free_port, wait_for_port, with_sbin};

/// A dnsmasq process on the loopback interface, with records that can be changed.
#[derive(Debug)]
pub struct Dnsmasq {
    directory: tempfile::TempDir,
    port: u16,
    process: Option<Process>,
}

impl Dnsmasq {
    /// Starts a server with these arguments in addition to those for its `hosts` directory.
    #[must_use]
    pub fn start(records: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(directory.path().join("hosts")).expect("created");
        let mut server = Self { directory, port: free_port(), process: None };
        server.restart(records);
        server
    }

    /// Restarts the server on the same port, with other arguments.
    ///
    /// # Panics
    ///
    /// Panics if it does not listen within 30 s.
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
        // dnsmasq listens on TCP as well as on UDP.
        wait_for_port(self.port);
    }

    /// Sets the addresses of a name. They take effect within half a second.
    ///
    /// # Panics
    ///
    /// Panics if the file cannot be written.
    pub fn set(&self, name: &str, addresses: &[&str]) {
        let lines: String = addresses.iter().map(|address| format!("{address} {name}\n")).collect();
        std::fs::write(self.directory.path().join("hosts").join(name), lines).expect("written");
    }

    /// Address that the server listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Stops the server.
    pub fn stop(&mut self) {
        self.process = None;
    }
}
