//! What the people on call see of a sidecar: metrics, traces, the access log, health, and the admin listener.

mod admin;
mod control;
mod log;
mod otlp;
mod page;
mod probes;
mod prometheus;

use std::path::PathBuf;
use std::time::Duration;

use hotpick::Channel;
use hotpick_tests::peers::{self, Process};
use hotpick_tests::{Caller, Cluster, soon};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A sidecar with an admin listener and one listener for clients.
struct Sidecar {
    process: Process,
    folder: tempfile::TempDir,
    listens: String,
    admin: String,
}

impl Sidecar {
    /// Starts a sidecar for these backends. `more` is TOML at the top of the configuration, `listener` in the listener.
    fn start(cluster: &Cluster, more: &str, listener: &str) -> Self {
        let backends = cluster.backends.iter().map(|backend| backend.address().to_string());
        Self::to(&format!("static:///{}", backends.collect::<Vec<_>>().join(",")), more, listener)
    }

    fn to(target: &str, more: &str, listener: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let admin = if more.contains("[admin]") { "" } else { "admin = \"127.0.0.1:0\"" };
        let config = format!(
            "{admin}\n{more}\n[[listeners]]\nlisten = \"127.0.0.1:0\"\ntarget = \"{target}\"\n{listener}\n"
        )
        .replace("FOLDER", folder.path().to_str().expect("text"));
        let file = folder.path().join("proxy.toml");
        std::fs::write(&file, config).expect("written");
        let mut command = peers::built("hotpick");
        command.arg("proxy").arg("--config").arg(&file);
        command.stderr(std::fs::File::create(folder.path().join("stderr")).expect("a log"));
        let mut process = Process::start(&mut command);
        let address = |line: String| line.split(' ').nth(4).unwrap_or_else(|| panic!("{line}")).to_owned();
        let listens = address(process.line());
        let admin = address(process.line());
        Self { process, folder, listens, admin }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn stderr(&self) -> String {
        std::fs::read_to_string(self.path("stderr")).expect("a log")
    }

    async fn caller(&self) -> Caller {
        let channel =
            Channel::builder(format!("static:///{}", self.listens)).connect_lazy().expect("a channel");
        Caller::ready(&channel, None).await
    }

    /// Starts a request. Returns the connection, from which the answer can be read.
    async fn ask(&self, path: &str, headers: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.admin).await.expect("connected");
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        stream
    }

    /// Returns the status code and the body.
    async fn get(&self, path: &str) -> (u16, String) {
        self.get_with(path, "").await
    }

    async fn get_with(&self, path: &str, headers: &str) -> (u16, String) {
        let mut stream = self.ask(path, headers).await;
        let mut answer = String::new();
        soon("an answer", stream.read_to_string(&mut answer)).await.expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, body.to_owned())
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path).await.1).expect("JSON")
    }

    /// Returns the value of a metric: of the line that begins with this text.
    async fn metric(&self, line: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics").await;
        let found = text.lines().find(|found| found.starts_with(line))?;
        found.rsplit(' ').next()?.parse().ok()
    }
}

/// Waits until the condition holds, looking again after a moment.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            // Another process changes: nothing here can be waited for.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(what, waiting).await;
}
