//! A real etcd, on hosts of its own where these can be made.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::process::Process;
use super::tools::{free_port, wait_for};

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
