//! A sidecar runs out of a resource for a while, with policies swapped under load. No RPC is lost, and the sidecar
//! recovers when the resource is available again.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hotpick::Channel;
use hotpick::policy::digest;
use hotpick_tests::peers::{self, Process};
use hotpick_tests::wat::Wat;
use hotpick_tests::{Caller, Cluster, Load, soon, standard};
use rustix::process::getuid;
use tempfile::TempDir;

/// A user without other processes: root has no limit of threads, and leases need a file of the same user.
const USER: u32 = 64_123;
/// Default time for which a resource is missing. `HOTPICK_SCARCITY` (seconds) overrides it.
const SHORTAGE: Duration = Duration::from_secs(2);

/// More policies than a host caches in memory.
const NAMES: [&str; 12] = [
    "random",
    "round_robin",
    "least_request",
    "p2c_ewma",
    "maglev",
    "ring_hash",
    "zone",
    "subset",
    "outlier",
    "sticky",
    "bounded_hash",
    "weighted_round_robin",
];

struct Sidecar {
    process: Process,
    folder: TempDir,
    caller: Caller,
    puts: usize,
}

impl Sidecar {
    async fn start(cluster: &Cluster) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (directory, cache) = (folder.path().join("policies.d"), folder.path().join("cache"));
        for made in [&directory, &cache] {
            fs::create_dir(made).expect("made");
        }
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("set");
        fs::set_permissions(&cache, fs::Permissions::from_mode(0o700)).expect("set");
        if getuid().is_root() {
            chown(&cache, Some(USER), Some(USER)).expect("owner changed");
        }
        let mut command = as_user(peers::built("hotpick").get_program());
        let target = format!("static:///{}", addresses(cluster));
        command.args([
            "proxy",
            "--listen",
            "127.0.0.1:0",
            "--policy",
            "p",
            "--target",
            &target,
            "--policies",
        ]);
        command.arg(&directory).arg("--cache").arg(&cache).env_remove("RUST_MIN_STACK");
        command.stderr(fs::File::create(folder.path().join("log")).expect("a log"));
        fs::write(directory.join("p.wasm"), Wat::first()).expect("written");
        let mut process = Process::start(&mut command);
        let line = process.line();
        let listens = line.split(' ').nth(4).unwrap_or_else(|| panic!("{line}"));
        let channel = Channel::builder(format!("static:///{listens}")).connect_lazy().expect("a channel");
        let caller = Caller::ready(&channel, None).await;
        let sidecar = Self { process, folder, caller, puts: 0 };
        sidecar.wait_active(&Wat::first()).await;
        sidecar
    }

    /// Replaces the policy with the next one of `NAMES`. Returns its bytes.
    fn put_next(&mut self) -> Vec<u8> {
        let bytes = standard(NAMES[self.puts % NAMES.len()]);
        self.puts += 1;
        let (partial, file) = (self.folder.path().join("next"), self.folder.path().join("policies.d/p.wasm"));
        fs::write(&partial, &bytes).expect("written");
        fs::rename(partial, file).expect("renamed");
        bytes
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).expect("a log")
    }

    async fn wait_active(&self, bytes: &[u8]) {
        let digest = &digest(bytes)[..12];
        let last = |log: &str| {
            let line = log.lines().rev().find(|line| line.contains("policy active")).map(str::to_owned);
            line.is_some_and(|line| line.contains(digest))
        };
        soon(&format!("policy {digest} to become active"), async {
            while !last(&self.log()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    fn proc(&self, what: &str) -> PathBuf {
        Path::new("/proc").join(self.process.id().to_string()).join(what)
    }

    fn count(&self, what: &str) -> u64 {
        fs::read_dir(self.proc(what)).expect("Linux").count() as u64
    }

    /// Sets the soft limit of a resource, named as in `prlimit`. Returns the previous limit.
    fn limit(&self, resource: &str, to: &str) -> String {
        let prlimit = |options: &[String]| {
            let mut command = as_user("prlimit".as_ref());
            let output = command.arg(format!("--pid={}", self.process.id())).args(options).output();
            let output = output.expect("prlimit, of util-linux, runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).expect("text").trim().to_owned()
        };
        let shown = ["--raw", "--noheadings", "--output=SOFT"].map(str::to_owned);
        let before = prlimit(&[&shown[..], &[format!("--{resource}")]].concat());
        prlimit(&[format!("--{resource}={to}:")]);
        before
    }

    /// Limits a resource while policies are swapped under load, until `sign` is in the log. Then restores the limit and
    /// checks that the last policy becomes active and that no RPC has failed.
    async fn without(&mut self, resource: &str, left: u64, sign: &str) {
        let load = Load::start(&self.caller, 4, 2);
        let before = self.limit(resource, &left.to_string());
        let begin = Instant::now();
        // On a busy machine it takes longer until the shortage has an effect.
        let timeout = Duration::from_secs(30);
        while begin.elapsed() < shortage() || (begin.elapsed() < timeout && !self.log().contains(sign)) {
            self.put_next();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        self.limit(resource, &before);
        let restored = Instant::now();
        let last = self.put_next();
        self.wait_active(&last).await;
        let (took, log) = (restored.elapsed(), self.log());
        assert!(took < Duration::from_secs(10), "active {took:?} after {resource} was restored: {log}");
        assert!(log.contains(sign), "the lack of {resource} had no effect: {log}");
        let (calls, failed) = load.stop().await;
        assert!(
            calls > 100 && failed.is_empty(),
            "{resource}: {} of {calls} failed: {failed:?}\n{log}",
            failed.len()
        );
        assert!(!log.contains("panicked"), "{resource}: {log}");
    }
}

/// Returns a command that runs as a user to whom the limits apply.
fn as_user(program: &OsStr) -> Command {
    if !getuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups"]).arg(program);
    command
}

fn shortage() -> Duration {
    let seconds = std::env::var("HOTPICK_SCARCITY").ok().and_then(|text| text.parse().ok());
    seconds.map_or(SHORTAGE, Duration::from_secs)
}

fn addresses(cluster: &Cluster) -> String {
    cluster.backends.iter().map(|backend| backend.address().to_string()).collect::<Vec<_>>().join(",")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_machine_lacks_for_a_while_loses_no_rpc_and_is_made_up_for() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let mut sidecar = Sidecar::start(&cluster).await;
    // Disk: no space for compiled code, and soon not for the log.
    let log = fs::metadata(sidecar.folder.path().join("log")).expect("a log").len();
    sidecar.without("fsize", log + 4096, "(os error 27)").await;
    // Threads and processes: only the existing ones.
    sidecar.without("nproc", 1, "(os error 11)").await;
    // File descriptors: the open ones and one more.
    let open = sidecar.count("fd");
    sidecar.without("nofile", open + 1, "(os error 24)").await;
    // Address space: what is mapped, and 64 MiB for the allocator. The memory of an instance needs 4 GiB.
    let status = fs::read_to_string(sidecar.proc("status")).expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).expect("a size");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    sidecar.without("as", (kib << 10) + (64 << 20), "(os error 12)").await;
}
