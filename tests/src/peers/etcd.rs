//! etcd processes, optionally in network namespaces.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::process::Process;
use super::tools::{free_port, wait_for};

/// One member of an etcd cluster of one or more members.
#[derive(Debug)]
pub struct Etcd {
    directory: tempfile::TempDir,
    name: String,
    client: SocketAddr,
    peer: SocketAddr,
    /// Members of the cluster: `name=url,name=url`.
    cluster: String,
    arguments: Vec<String>,
    process: Option<Process>,
    /// Network namespace of the member, if it has one.
    host: Option<Host>,
}

impl Etcd {
    /// Starts an empty cluster of one member.
    ///
    /// # Panics
    ///
    /// Panics if it does not listen within 30 s.
    #[must_use]
    pub fn start() -> Self {
        Self::cluster(1).remove(0)
    }

    /// Starts an empty cluster of `members` members.
    ///
    /// # Panics
    ///
    /// Panics if a member does not listen within 30 s.
    #[must_use]
    pub fn cluster(members: usize) -> Vec<Self> {
        Self::cluster_with(members, &[])
    }

    /// Starts an empty cluster of members with these arguments. If they include a certificate, the members serve
    /// clients over TLS.
    ///
    /// # Panics
    ///
    /// Panics if a member does not listen within 30 s.
    #[must_use]
    pub fn cluster_with(members: usize, arguments: &[&str]) -> Vec<Self> {
        let local = || SocketAddr::from(([127, 0, 0, 1], free_port()));
        Self::all((0..members).map(|_| (local(), local(), None)).collect(), arguments)
    }

    /// Starts a cluster of three members in separate network namespaces, which can be [cut off](Self::cut_off) from
    /// each other. Returns `None` if the namespaces cannot be created.
    ///
    /// # Panics
    ///
    /// Panics if a member does not listen within 30 s.
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
        // No member serves before a majority is running, so all are started before any is waited for.
        members.iter_mut().for_each(Self::spawn);
        members.iter().for_each(Self::wait);
        members
    }

    /// Disconnects the member from the other members, or reconnects it. Clients in this process can always reach it.
    ///
    /// # Panics
    ///
    /// Panics if the member has no network namespace.
    pub fn cut_off(&self, is_cut: bool) {
        let host = &self.host.as_ref().expect("a network namespace").name;
        assert!(
            ip(&format!("-n {host} link set link1 {}", if is_cut { "down" } else { "up" })),
            "ip link set fails"
        );
    }

    /// Kills the member, restarts it with its data and waits until it listens.
    pub fn restart(&mut self) {
        self.spawn();
        self.wait();
    }

    /// Kills the member and restarts it with its data, without waiting.
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

    /// Waits until the member listens for clients.
    pub fn wait(&self) {
        wait_for(self.client);
    }

    /// Kills the member.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Kills the member and deletes its data.
    ///
    /// # Panics
    ///
    /// Panics if the data cannot be deleted.
    pub fn lose(&mut self) {
        self.stop();
        std::fs::remove_dir_all(self.data()).expect("deleted");
    }

    /// Suspends the process with SIGSTOP until [`thaw`](Self::thaw).
    pub fn freeze(&self) {
        self.process.iter().for_each(|process| process.signal("STOP"));
    }

    /// Resumes the process after [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.process.iter().for_each(|process| process.signal("CONT"));
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Address for clients: `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        self.client.to_string()
    }
}

/// A network namespace with two links: `link0` to this process, `link1` to the other namespaces.
#[derive(Debug)]
struct Host {
    name: String,
}

/// The two bridges that connect the links of the namespaces.
#[derive(Debug)]
pub struct Hosts;

const BRIDGES: [&str; 2] = ["hotpick-c", "hotpick-p"];

fn ip(arguments: &str) -> bool {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    output.is_ok_and(|output| output.status.success())
}

impl Hosts {
    /// Creates the bridges. Returns `None` if that fails, for example without root privileges.
    fn start() -> Option<Self> {
        let hosts = Self;
        for (at, bridge) in BRIDGES.iter().enumerate() {
            let _ = ip(&format!("link del {bridge}"));
            let created =
                ip(&format!("link add {bridge} type bridge")) && ip(&format!("link set {bridge} up"));
            if !created || !ip(&format!("addr add 10.213.{at}.254/24 dev {bridge}")) {
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
        let mut created = ip(&format!("netns add {name}")) && ip(&format!("-n {name} link set lo up"));
        for (at, bridge) in BRIDGES.iter().enumerate() {
            let (outer, inner) = (format!("hp{number}o{at}"), format!("link{at}"));
            created &= ip(&format!("link add {outer} type veth peer name {inner} netns {name}"))
                && ip(&format!("link set {outer} master {bridge} up"))
                && ip(&format!("-n {name} addr add 10.213.{at}.{}/24 dev {inner}", number + 1))
                && ip(&format!("-n {name} link set {inner} up"));
        }
        created.then_some(host)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = ip(&format!("netns del {}", self.name));
    }
}
