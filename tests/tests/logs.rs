//! The log: spans name the channel, the subconn and the policy, so that one directive filters one channel.

use std::fs::{self, File};
use std::io;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hotpick_tests::wat::Wat;
use hotpick_tests::{Caller, Cluster, Policies, peers, soon};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The lines of a log.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A process that is killed when it is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn one_directive_filters_one_channel_with_its_subconns() {
    let folder = tempfile::tempdir().expect("a folder");
    let (config, log) = (folder.path().join("config.toml"), folder.path().join("log"));
    // Nothing listens on these ports, so the subconns of both channels log failures.
    let listener = |port: u16| {
        format!("[[listeners]]\nlisten = \"127.0.0.1:0\"\ntarget = \"static:///127.0.0.1:{port}\"\n")
    };
    fs::write(&config, listener(1) + &listener(2)).expect("written");
    let mut command = peers::built("hotpick");
    command.arg("proxy").arg("--config").arg(&config).stdout(Stdio::null());
    command.env("RUST_LOG", "off,hotpick[channel{target=static:///127.0.0.1:1}]=debug");
    let _process =
        Killed(command.stderr(File::create(&log).expect("a log")).spawn().expect("the sidecar starts"));
    // At the second failure in the first channel, the first one in the other channel is over.
    soon("two failures", async {
        while fs::read_to_string(&log).expect("a log").matches("subconn failed").count() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let log = fs::read_to_string(&log).expect("a log");
    let line = log.lines().find(|line| line.contains("subconn failed")).expect("a line");
    assert!(
        line.contains("channel{target=static:///127.0.0.1:1}:subconn{id=0 endpoint=127.0.0.1:1}"),
        "{line}"
    );
    assert!(!log.contains("127.0.0.1:2"), "{log}");
}

// On one thread, whose subscriber sees the tasks of the channel and the picks of its RPCs.
#[tokio::test]
async fn faults_and_health_checks_are_in_the_spans_of_their_channel() {
    let cluster = Cluster::start(&["a"]).await;
    let policies = Policies::with(&[("p.wasm", &Wat::every(1, "unreachable"))]);
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_env_filter(EnvFilter::new("off,hotpick[channel{target=static:///cluster}]=debug"))
        .with_writer(move || writer.clone())
        .finish();
    let _subscriber = subscriber.set_default();
    let config = r#"{"healthCheckConfig": {"serviceName": "echo"}}"#.parse().expect("a config");
    let builder = cluster
        .channel()
        .policies(&policies.followed)
        .policy("p")
        .service_config(config)
        .wait_for_ready(true);
    let channel = builder.connect_lazy().expect("a channel");
    Caller::ready(&channel, Some("p")).await.call().await.expect("the fallback picks");
    let lines = String::from_utf8(lines.0.lock().expect("no panic").clone()).expect("text");
    let line = |text: &str| {
        lines.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("{text}: {lines}"))
    };
    let health = line("server has no health service");
    assert!(health.contains("}:subconn{id=0 endpoint="), "{health}");
    let fault = line("policy failed");
    assert!(fault.contains("}:policy{version=p #1"), "{fault}");
}
