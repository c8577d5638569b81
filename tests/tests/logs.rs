//! The log: spans name the channel, the subconn and the policy, so that one directive filters one channel.

use std::fs::{self, File};
use std::process::{Child, Stdio};
use std::time::Duration;

use hotpick_tests::{peers, soon};

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
