//! Loading files when the machine lacks resources or another file is being compiled.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use hotpick::directory::{PolicyDirOptions, PolicyStatus};
use hotpick::policy::digest;
use hotpick::{Channel, PolicyDir};
use hotpick_tests::wat::Wat;
use hotpick_tests::{Cluster, peers, soon, standard};
use tempfile::TempDir;

/// A policy directory whose compiler is a shell script: `$0` is a folder for the script's files, `$1` the path of
/// `hotpick`, and standard input the file to compile.
struct Compiled {
    root: TempDir,
    followed: PolicyDir,
}

impl Compiled {
    fn by(script: &str) -> Self {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir(root.path().join("policies.d")).expect("made");
        fs::create_dir(root.path().join("own")).expect("made");
        let mut options = PolicyDirOptions::default();
        options.quiet = Duration::from_millis(20);
        let hotpick = peers::built("hotpick").get_program().to_owned();
        let own = root.path().join("own").into_os_string();
        let command: Vec<OsString> = vec!["sh".into(), "-c".into(), script.into(), own, hotpick];
        options.compile.command = Some(command);
        let followed = PolicyDir::open_with(root.path().join("policies.d"), options).expect("a directory");
        Self { root, followed }
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.root.path().join("policies.d").join(name), bytes).expect("written");
    }

    /// Returns whether the script has created this file.
    fn has(&self, name: &str) -> bool {
        self.root.path().join("own").join(name).exists()
    }

    async fn wait_for(&self, name: &str, condition: impl Fn(&PolicyStatus) -> bool) -> PolicyStatus {
        let found = async {
            loop {
                let status = self.followed.status().into_iter().find(|status| status.name == name);
                if let Some(status) = status.filter(&condition) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon(&format!("the status of {name}"), found).await
    }

    async fn until(&self, name: &str) {
        soon(name, async {
            while !self.has(name) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    async fn active(&self, name: &str, bytes: &[u8]) -> PolicyStatus {
        let wanted = digest(bytes);
        self.wait_for(name, |status| status.version.as_ref().is_some_and(|version| version.digest == wanted))
            .await
    }
}

/// Returns a policy that the script recognizes by its size. The policy always picks the first endpoint.
fn large(filler: u8) -> Vec<u8> {
    let mut bytes = Wat::first();
    // A custom section of 200 KiB, with a name of one byte.
    let size = 200 << 10;
    let leb = |value: usize| {
        [value & 0x7f | 0x80, value >> 7 & 0x7f | 0x80, value >> 14]
            .map(|byte| u8::try_from(byte).expect("seven bits"))
    };
    bytes.push(0);
    bytes.extend(leb(size + 2));
    bytes.extend([1, b'x']);
    bytes.extend(vec![filler; size]);
    bytes
}

/// Takes a minute to compile a large file, and creates the file `begun` first.
const SLOW_IF_LARGE: &str = r#"cat > "$0/in.$$"
if [ "$(stat -c %s "$0/in.$$")" -gt 100000 ]; then touch "$0/begun"; sleep 60; fi
exec "$1" compile-policy < "$0/in.$$""#;

#[tokio::test]
async fn a_newer_file_ends_the_compilation_of_an_older_one() {
    let directory = Compiled::by(SLOW_IF_LARGE);
    directory.put("p.wasm", &large(0));
    directory.until("begun").await;
    directory.put("p.wasm", &large(1));
    let begin = std::time::Instant::now();
    directory.put("p.wasm", &standard("random"));
    directory.active("p", &standard("random")).await;
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_file_that_a_channel_wants_comes_before_one_that_none_wants() {
    let cluster = Cluster::start(&["a"]).await;
    let directory = Compiled::by(SLOW_IF_LARGE);
    let channel =
        cluster.channel().policies(&directory.followed).policy("p").connect_lazy().expect("a channel");
    directory.put("a.wasm", &large(0));
    directory.until("begun").await;
    directory.put("p.wasm", &standard("random"));
    directory.active("p", &standard("random")).await;
    let active = |status: &hotpick::channel::ChannelStatus| status.policy.name == "p";
    soon("the policy", channel.wait_for(active)).await;
    // The other file is queued again.
    let other = directory.wait_for("a", |_| true).await;
    assert_eq!(other.state.to_string(), "loading");
}

/// A channel starts using one policy while another one, which no channel uses, is being compiled.
#[tokio::test]
async fn what_a_channel_begins_to_want_ends_what_nobody_wants() {
    let cluster = Cluster::start(&["a"]).await;
    let directory = Compiled::by(SLOW_IF_LARGE);
    directory.put("a.wasm", &large(0));
    directory.until("begun").await;
    directory.put("p.wasm", &standard("random"));
    directory.wait_for("p", |status| status.state.to_string() == "loading").await;
    let channel =
        cluster.channel().policies(&directory.followed).policy("p").connect_lazy().expect("a channel");
    let active = |status: &hotpick::channel::ChannelStatus| status.policy.name == "p";
    soon("the policy", channel.wait_for(active)).await;
}

/// The compiler is killed twice, as by the kernel when it is out of memory, and then succeeds.
#[tokio::test]
async fn a_killed_compiler_is_not_a_verdict_on_the_file() {
    let directory = Compiled::by(
        r#"if [ ! -e "$0/once" ]; then touch "$0/once"; kill -9 $$; fi
if [ ! -e "$0/twice" ]; then touch "$0/twice"; kill -9 $$; fi
exec "$1" compile-policy"#,
    );
    directory.put("p.wasm", &standard("random"));
    let rejected = directory.wait_for("p", |status| status.rejected.is_some()).await;
    let reason = rejected.rejected.expect("a reason").to_string();
    assert!(
        reason.starts_with("cannot be compiled at this moment, and is tried again: the compiler ended with"),
        "{reason}"
    );
    let status = directory.active("p", &standard("random")).await;
    assert!(status.rejected.is_none() && directory.has("twice"));
}

/// For a while there are no file descriptors for the compiler's pipes.
#[tokio::test]
async fn a_lack_of_descriptors_is_not_a_verdict_on_the_file() {
    use hotpick_tests::peers::Process;
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

    let cluster = Cluster::start(&["a"]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let directory = folder.path().join("policies.d");
    fs::create_dir(&directory).expect("made");
    fs::write(directory.join("p.wasm"), Wat::first()).expect("written");
    let mut command = peers::built("hotpick");
    let target = format!("static:///{}", cluster.backends[0].address());
    command.args(["proxy", "--listen", "127.0.0.1:0", "--policy", "p", "--target", &target, "--policies"]);
    command.arg(&directory).arg("--cache").arg(folder.path().join("cache"));
    let log = folder.path().join("log");
    command.stderr(fs::File::create(&log).expect("a log"));
    let mut process = Process::start(&mut command);
    let line = process.line();
    let listens = line.split(' ').nth(4).unwrap_or_else(|| panic!("{line}"));
    let channel = Channel::builder(format!("static:///{listens}")).connect_lazy().expect("a channel");
    let caller = hotpick_tests::Caller::ready(&channel, None).await;
    let logged = async |text: &str| {
        soon(text, async {
            while !fs::read_to_string(&log).expect("a log").contains(text) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    };
    logged("policy active").await;

    let pid = Pid::from_raw(i32::try_from(process.id()).expect("a number")).expect("a process");
    let limit = |current: u64, maximum| Rlimit { current: Some(current), maximum };
    let maximum = getrlimit(Resource::Nofile).maximum;
    let before =
        prlimit(Some(pid), Resource::Nofile, limit(limit_for(process.id(), 3), maximum)).expect("its limit");
    fs::write(directory.join("p.wasm"), standard("random")).expect("written");
    logged("policy rejected").await;
    caller.call().await.expect("served");
    prlimit(Some(pid), Resource::Nofile, before).expect("its limit");
    logged(&format!("policy active policy=p #2 {}", &digest(&standard("random"))[..12])).await;
    caller.call().await.expect("served");
}

/// Returns the limit of descriptors that lets a process open `more` further files.
fn limit_for(process: u32, more: u64) -> u64 {
    let open = fs::read_dir(Path::new("/proc").join(process.to_string()).join("fd")).expect("Linux");
    let numbers = open.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok());
    let open: std::collections::BTreeSet<_> = numbers.collect();
    let mut free = (0..).filter(|number| !open.contains(number));
    free.nth(usize::try_from(more).expect("a few")).expect("an endless range")
}
