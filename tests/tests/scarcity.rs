//! A sidecar on a machine that runs out of something for a while, with policies swapped under load meanwhile: no RPC is
//! lost, and everything is as before when it is there again.

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

/// A user that nobody else here is: root has no limit of threads, and others' files have no leases.
const USER: u32 = 64_123;
/// For how long something is gone: `HOTPICK_SCARCITY` seconds.
const GONE: Duration = Duration::from_secs(2);

/// More than a host remembers in its memory.
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
            chown(&cache, Some(USER), Some(USER)).expect("given away");
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
        sidecar.has_in_force(&Wat::first()).await;
        sidecar
    }

    /// One policy after the other, each time another one.
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

    async fn has_in_force(&self, bytes: &[u8]) {
        let said = &digest(bytes)[..12];
        let last = |log: &str| {
            let line = log.lines().rev().find(|line| line.contains("policy active")).map(str::to_owned);
            line.is_some_and(|line| line.contains(said))
        };
        soon(&format!("{said} in force"), async {
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

    /// The soft limit of a resource, as `prlimit` names it. Gives what it was.
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

    /// Takes something away while policies are swapped, which the log then has a sign of, and gives it back; then the last
    /// one is in force soon.
    async fn without(&mut self, resource: &str, left: u64, sign: &str) {
        let load = Load::start(&self.caller, 4, 2);
        let before = self.limit(resource, &left.to_string());
        let begin = Instant::now();
        // On a busy machine it takes longer until it is missed.
        let most = Duration::from_secs(30);
        while begin.elapsed() < gone() || (begin.elapsed() < most && !self.log().contains(sign)) {
            self.put_next();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        self.limit(resource, &before);
        let back = Instant::now();
        let last = self.put_next();
        self.has_in_force(&last).await;
        let (took, log) = (back.elapsed(), self.log());
        assert!(took < Duration::from_secs(10), "{took:?} after {resource} was back: {log}");
        assert!(log.contains(sign), "{resource} was not missed: {log}");
        let (calls, failed) = load.stop().await;
        assert!(
            calls > 100 && failed.is_empty(),
            "{resource}: {} of {calls} failed: {failed:?}\n{log}",
            failed.len()
        );
        assert!(!log.contains("panicked"), "{resource}: {log}");
    }
}

/// A program, run by a user whom the limits hold.
fn as_user(program: &OsStr) -> Command {
    if !getuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups"]).arg(program);
    command
}

fn gone() -> Duration {
    let seconds = std::env::var("HOTPICK_SCARCITY").ok().and_then(|text| text.parse().ok());
    seconds.map_or(GONE, Duration::from_secs)
}

fn addresses(cluster: &Cluster) -> String {
    cluster.backends.iter().map(|backend| backend.address().to_string()).collect::<Vec<_>>().join(",")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_machine_lacks_for_a_while_loses_no_rpc_and_is_made_up_for() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let mut sidecar = Sidecar::start(&cluster).await;
    // The disk: no room for what is compiled, nor, soon, for the log.
    let log = fs::metadata(sidecar.folder.path().join("log")).expect("there").len();
    sidecar.without("fsize", log + 4096, "(os error 27)").await;
    // Threads, and processes: those that there are.
    sidecar.without("nproc", 1, "(os error 11)").await;
    // Descriptors: those that there are, and one.
    let open = sidecar.count("fd");
    sidecar.without("nofile", open + 1, "(os error 24)").await;
    // Address space: what there is, and what the allocator may need; an instance's memory is 4 GiB of it.
    let status = fs::read_to_string(sidecar.proc("status")).expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).expect("a size");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    sidecar.without("as", (kib << 10) + (64 << 20), "(os error 12)").await;
}
