//! Operation of the proxy: its admin listener, its log, its compiler process, and its policy directory when inotify
//! events are lost or unavailable.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hotpick::Channel;
use hotpick::directory::{self, PolicyDirOptions};
use hotpick::policy::{Limits, digest};
use hotpick_tests::peers::{self, Process};
use hotpick_tests::wat::Wat;
use hotpick_tests::{Caller, Cluster, soon, standard};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A proxy with a policy directory and an admin listener.
struct Sidecar {
    process: Process,
    folder: tempfile::TempDir,
    listens: String,
    admin: String,
}

impl Sidecar {
    fn start(cluster: &Cluster, policies: &[(&str, &[u8])]) -> Self {
        Self::start_by(cluster, policies, |_| peers::built("hotpick"))
    }

    /// Starts the proxy by this command, with the arguments of `hotpick` appended.
    fn start_by(cluster: &Cluster, policies: &[(&str, &[u8])], command: impl Fn(&Path) -> Command) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("policies.d");
        std::fs::create_dir(&directory).expect("made");
        for (name, bytes) in policies {
            std::fs::write(directory.join(name), bytes).expect("written");
        }
        let backends = cluster.backends.iter().map(|backend| backend.address().to_string());
        let target = format!("static:///{}", backends.collect::<Vec<_>>().join(","));
        let mut command = command(folder.path());
        command.args(["proxy", "--listen", "127.0.0.1:0", "--policy", "p", "--admin", "127.0.0.1:0"]);
        command.arg("--target").arg(target).arg("--policies").arg(&directory);
        command.arg("--cache").arg(folder.path().join("cache"));
        command.stderr(std::fs::File::create(folder.path().join("log")).expect("a log"));
        let mut process = Process::start(&mut command);
        let address = |line: String, word: usize| {
            line.split(' ').nth(word).unwrap_or_else(|| panic!("{line}")).to_owned()
        };
        let listens = address(process.line(), 4);
        let admin = address(process.line(), 4);
        Self { process, folder, listens, admin }
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.directory().join(name), bytes).expect("written");
    }

    fn directory(&self) -> PathBuf {
        self.folder.path().join("policies.d")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).expect("a log")
    }

    /// Returns the status line and the body.
    async fn get(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.admin).await.expect("connected");
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        soon("an answer", stream.read_to_string(&mut answer)).await.expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
        (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
    }

    /// Waits until the status of the policy `p` fulfils the condition, and returns it.
    async fn wait_for(&self, condition: impl Fn(&Value) -> bool) -> Value {
        let found = async {
            loop {
                let (_, body) = self.get("/policies").await;
                let all: Value = serde_json::from_str(&body).expect("JSON");
                let policies = all["policies"].as_array().expect("a list").clone();
                if let Some(p) = policies.into_iter().find(|p| p["name"] == "p" && condition(p)) {
                    return p;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon("the policy in the proxy", found).await
    }

    async fn caller(&self) -> Caller {
        let channel =
            Channel::builder(format!("static:///{}", self.listens)).connect_lazy().expect("a channel");
        Caller::ready(&channel, None).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_listener_reports_policies_and_metrics() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let sidecar = Sidecar::start(&cluster, &[("p.wasm", &Wat::first())]);
    let good = digest(&Wat::first());
    let policy =
        sidecar.wait_for(|p| p["channels"].as_array().is_some_and(|channels| !channels.is_empty())).await;
    assert_eq!((&policy["state"], &policy["digest"]), (&"probation".into(), &good.clone().into()));
    sidecar.caller().await.tally(20).await;
    let policy = sidecar.wait_for(|p| p["picks"] == 20).await;
    assert!(policy["channels"][0]["pick_ns"].as_u64().is_some_and(|nanos| nanos > 0), "{policy}");
    assert!(policy["channels"][0]["memory"].as_u64().is_some_and(|bytes| bytes >= 65536), "{policy}");

    sidecar.put("p.wasm", b"junk");
    let policy = sidecar.wait_for(|p| p["state"] == "rejected").await;
    assert_eq!(policy["rejected"]["stage"], "parse");
    assert_eq!(policy["rejected"]["reason"], "is not WebAssembly");
    assert_eq!(policy["digest"], good);

    let (status, text) = sidecar.get("/metrics").await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    let target = format!("static:///{},{}", cluster.backends[0].address(), cluster.backends[1].address());
    for line in [
        "hotpick_policy_picks_total{policy=\"p\"} 20",
        "hotpick_policy_fallback_picks_total{policy=\"p\"} 0",
        "hotpick_policy_rejections_total{policy=\"p\",stage=\"parse\"} 1",
        "hotpick_policy_loads_total{policy=\"p\"} 1",
        "hotpick_policy_state{policy=\"p\",state=\"rejected\"} 1.0",
        "hotpick_policy_generation{policy=\"p\"} 1.0",
        "# TYPE grpc_subchannel_disconnections counter",
        &format!("grpc_subchannel_connection_attempts_succeeded_total{{grpc_target=\"{target}\"}} 2"),
        &format!("grpc_subchannel_connection_attempts_failed_total{{grpc_target=\"{target}\"}} 0"),
        &format!("grpc_subchannel_open_connections{{grpc_target=\"{target}\"}} 2.0"),
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line:?} in\n{text}");
    }
    cluster.backends[0].drain();
    let disconnected = async {
        loop {
            let (_, text) = sidecar.get("/metrics").await;
            let line = "grpc_disconnect_error=\"GOAWAY NO_ERROR\"} 1";
            if text.lines().any(|found| found.ends_with(line)) {
                return;
            }
        }
    };
    soon("a disconnection", disconnected).await;
    let (status, body) = sidecar.get("/nothing").await;
    assert_eq!(status, "HTTP/1.1 404 Not Found");
    assert!(body.starts_with("not found: use /, /channels, /policies, /metrics"), "{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_measure_what_they_want() {
    let cluster = Cluster::start(&["a"]).await;
    let sidecar = Sidecar::start(&cluster, &[("p.wasm", &hotpick_tests::probe())]);
    let caller = sidecar.caller().await;
    sidecar.wait_for(|p| p["channels"].as_array().is_some_and(|channels| !channels.is_empty())).await;
    let before = sidecar.wait_for(|_| true).await["picks"].as_u64().expect("a number");
    caller.tally(10).await;
    let counted = async {
        loop {
            let (_, text) = sidecar.get("/metrics").await;
            let line = text
                .lines()
                .find(|line| line.starts_with("hotpick_policy_probe_done_total{"))
                .map(str::to_owned);
            let line = line.unwrap_or_default();
            if line.ends_with(&format!(" {}", before + 10)) {
                return (line, text);
            }
        }
    };
    let (line, text) = soon("the policy's own counter", counted).await;
    assert!(line.contains("policy=\"p\",target=\"static:///"), "{line}");
    assert!(text.contains("# HELP hotpick_policy_probe_done RPCs that have ended\n"), "{text}");
    assert!(text.contains("hotpick_policy_probe_latency_bucket{le=\"+Inf\""), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_policy_prints_is_in_the_log_and_there_is_not_too_much_of_it() {
    let cluster = Cluster::start(&["a"]).await;
    let wasi = hotpick_tests::corpus::with_wasi();
    let sidecar = Sidecar::start(&cluster, &[("p.wasm", &wasi)]);
    sidecar.wait_for(|p| p["channels"].as_array().is_some_and(|channels| !channels.is_empty())).await;
    let lines = || {
        let log = sidecar.log();
        log.lines()
            .filter(|line| line.contains("hello from a policy") && line.contains("policy=\"p\""))
            .count()
    };
    assert_eq!(lines(), 1, "expected one line from `init` and none from the trial picks: {}", sidecar.log());
    let begin = std::time::Instant::now();
    sidecar.caller().await.tally(300).await;
    let seconds = usize::try_from(begin.elapsed().as_secs()).expect("a few");
    let most = 1 + 50 * (seconds + 2);
    assert!((2..=most).contains(&lines()), "{} lines in {seconds} s", lines());
}

/// The usual cause is a typing error in the name.
#[tokio::test]
async fn settings_that_belong_to_no_policy_are_logged() {
    let cluster = Cluster::start(&["a"]).await;
    let sidecar = Sidecar::start(&cluster, &[("p.wasm", &Wat::first()), ("q.toml", b"enabled = false")]);
    sidecar.put("p.wasm.toml", b"enabled = maybe");
    for message in [
        r#"settings of no policy: there is no policy file of that name, and nothing is disabled settings="q.toml""#,
        r#"settings of no policy: there is no policy file of that name, and the file has settings that cannot be used: "#,
    ] {
        soon(message, async {
            while !sidecar.log().contains(message) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

/// A compiler that exits, hangs, is killed or writes invalid output fails only the policy, not the host.
#[test]
fn whatever_becomes_of_the_compiler_it_is_another_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("p.wasm");
    std::fs::write(&file, standard("random")).expect("written");
    let compiled_by = |command: &[&str], limit: Duration| {
        let mut options = PolicyDirOptions::default();
        options.limits.compile = limit;
        options.compile.command = Some(command.iter().map(OsString::from).collect());
        directory::load(&file, &options)
            .map(drop)
            .map_err(|error| (error.stage().to_string(), error.to_string()))
    };
    let (long, short) = (Limits::default().compile, Duration::from_millis(200));
    for (command, limit, expected) in [
        (&["/nowhere/compiler"][..], long, "and is tried again: the compiler does not run: No such file"),
        (
            &["sh", "-c", "echo it hurts >&2; exit 3"],
            long,
            "the compiler ended with exit status: 3: it hurts",
        ),
        (&["sh", "-c", "kill -9 $$"], long, "the compiler ended with signal: 9"),
        (&["sh", "-c", "ulimit -t 1; while :; do :; done"], long, "the compiler ended with signal: "),
        (&["sleep", "60"], short, "cannot be compiled: it takes longer than 200ms"),
        (&["yes"], short, "cannot be compiled: it takes longer than 200ms"),
        (
            &["sh", "-c", "kill -15 $$"],
            long,
            "this moment, and is tried again: the compiler ended with signal: 15",
        ),
        (&["sh", "-c", "kill -6 $$"], long, "cannot be compiled: the compiler ended with signal: 6"),
        (&["cat"], long, "cannot be compiled: the compiler's output cannot be used: "),
        (&["true"], long, "cannot be compiled: the compiler's output cannot be used: "),
    ] {
        let (stage, reason) = compiled_by(command, limit).expect_err("the compiler fails");
        assert_eq!(stage, "compile", "{command:?}: {reason}");
        assert!(reason.contains(expected), "{command:?}: {reason}");
    }
    let hotpick = peers::built("hotpick").get_program().to_owned();
    let hotpick = hotpick.to_str().expect("a path in UTF-8");
    compiled_by(&[hotpick, "compile-policy"], long).expect("a policy");
    let (_, reason) =
        compiled_by(&[hotpick, "compile-policy", "--memory-mib", "20"], long).expect_err("too little memory");
    // Either a permanent or a temporary failure: the compiler cannot distinguish them when memory is short.
    assert!(reason.starts_with("cannot be compiled"), "{reason}");
}

/// More changes than the kernel queues events for, while the proxy is stopped and does not read them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_the_kernel_drops_are_made_up_for() {
    let cluster = Cluster::start(&["a"]).await;
    let sidecar = Sidecar::start(&cluster, &[("p.wasm", &Wat::first())]);
    sidecar.wait_for(|p| p["digest"] == digest(&Wat::first())).await;
    let most = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("Linux");
    let most: usize = most.trim().parse().expect("a number");
    sidecar.process.signal("STOP");
    for n in 0..most {
        let file = sidecar.directory().join(format!(".{}", n % 2));
        std::fs::write(file, b"").expect("written");
    }
    sidecar.put("p.wasm", &standard("random"));
    sidecar.process.signal("CONT");
    sidecar.wait_for(|p| p["digest"] == digest(&standard("random"))).await;
}

/// Without inotify, the proxy logs a warning and scans the directory every five seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_events_the_directory_is_scanned() {
    // A user namespace has its own inotify limit.
    let unshare = |_: &Path| {
        let mut command = Command::new("unshare");
        let script = "echo 0 > /proc/sys/user/max_inotify_instances && exec \"$@\"";
        command.args(["--user", "--map-root-user", "sh", "-c", script, "sh"]);
        command.arg(peers::built("hotpick").get_program());
        command
    };
    let allowed = Command::new("unshare").args(["--user", "--map-root-user", "true"]).status();
    if !allowed.is_ok_and(|status| status.success()) {
        eprintln!("not tested: user namespaces cannot be created here");
        return;
    }
    let cluster = Cluster::start(&["a"]).await;
    let sidecar = Sidecar::start_by(&cluster, &[("p.wasm", &Wat::first())], unshare);
    sidecar.wait_for(|p| p["digest"] == digest(&Wat::first())).await;
    assert!(
        sidecar.log().contains("no events for policies: the directory is scanned instead"),
        "{}",
        sidecar.log()
    );
    sidecar.put("p.wasm", &standard("random"));
    sidecar.wait_for(|p| p["digest"] == digest(&standard("random"))).await;
}
