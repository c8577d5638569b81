//! The live page, in headless Chromium.

use std::io::Write as _;
use std::path::Path;
use std::process::ChildStdin;

use hotpick_tests::peers::{self, Process};
use hotpick_tests::{Cluster, Load, standard};
use serde_json::{Value, json};

use super::{Sidecar, until};

/// A page in a browser.
struct Page {
    process: Process,
    input: ChildStdin,
}

impl Page {
    fn open(url: &str) -> Self {
        let (mut process, input) = Process::start_with_input(peers::node_command("page.cjs").arg(url));
        assert_eq!(process.line(), "open");
        Self { process, input }
    }

    /// Gives a command, and returns its answer. The page must not have errors.
    fn ask(&mut self, command: &Value) -> Value {
        writeln!(self.input, "{command}").expect("it reads");
        let mut answer: Value = serde_json::from_str(&self.process.line()).expect("JSON");
        assert_eq!(answer["errors"], json!([]), "{command}");
        answer["answer"].take()
    }

    /// Waits until the page shows this text.
    fn wait_for(&mut self, text: &str) {
        self.ask(&json!({ "wait": text }));
    }

    fn text(&mut self) -> String {
        self.ask(&json!({ "text": true })).as_str().expect("text").to_owned()
    }

    /// Takes a screenshot. Nothing may be wider than the window.
    fn screenshot(&mut self, (width, height): (u32, u32), dark: bool, file: &Path) {
        let wide = self.ask(&json!({ "size": [width, height], "dark": dark, "file": file }));
        assert!(wide.as_u64().is_some_and(|wide| wide <= width.into()), "{wide} of {width} pixels");
        let png = std::fs::read(file).expect("a screenshot");
        let number = |at: usize| u32::from_be_bytes([png[at], png[at + 1], png[at + 2], png[at + 3]]);
        assert_eq!((number(16), number(20)), (width, height));
        assert!(png.len() > 10_000, "{} bytes: an empty page?", png.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_shows_what_the_metrics_say_and_a_swap_as_it_happens() {
    if !peers::available() {
        return;
    }
    let cluster = Cluster::start(&["a", "b"]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let policy = folder.path().join("p.wasm");
    std::fs::write(&policy, standard("random")).expect("written");
    let more = format!("policies = {:?}\ncache = \"FOLDER/cache\"", folder.path());
    let sidecar = Sidecar::start(&cluster, &more, "policy = \"p\"");
    let is_active = async || sidecar.json("/channels").await["channels"][0]["policy"]["name"] == "p";
    until("the policy is active", is_active).await;
    let caller = sidecar.caller().await;
    // Some RPCs, and streams that stay open: numbers that do not change.
    caller.tally(30).await;
    let load = Load::start(&caller, 0, 3);
    let mut page = Page::open(&format!("http://{}/", sidecar.admin));
    for backend in &cluster.backends {
        page.wait_for(&backend.address().to_string());
    }
    page.wait_for("READY");
    page.wait_for("p #1");
    let in_flight = sidecar.json("/channels").await["channels"][0]["calls"]["in_flight"].clone();
    assert_eq!(in_flight, 3);
    page.wait_for("in flight 3 ");

    // What the page is told is what the metrics say.
    let picks = sidecar.metric("hotpick_policy_picks_total{policy=\"p\"}").await;
    let told = sidecar.json("/policies").await["policies"][0]["picks"].as_f64();
    assert!(picks.is_some_and(|picks| picks >= 33.0) && picks == told, "{picks:?}, {told:?}");

    std::fs::write(&policy, standard("round_robin")).expect("written");
    page.wait_for("p #2");
    page.wait_for("replaces p #1");
    std::fs::write(&policy, b"junk").expect("written");
    page.wait_for("is not WebAssembly");
    for (size, dark) in [((1280, 900), false), ((1280, 900), true), ((390, 844), false)] {
        page.screenshot(size, dark, &folder.path().join("page.png"));
    }
    let text = page.text();
    assert!(text.contains("rejected"), "{text}");
    let (_, failed) = load.stop().await;
    assert!(failed.is_empty(), "{failed:?}");
}

/// The first numbers are there within a moment, also of a thousand endpoints.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_endpoints_are_shown() {
    if !peers::available() {
        return;
    }
    // Ports at which nothing listens: each endpoint has a reason why it is not READY.
    let targets: Vec<_> =
        (0..1000).map(|number| format!("127.0.0.{}:{}", 1 + number % 250, 1 + number / 250)).collect();
    let file = tempfile::NamedTempFile::new().expect("a file");
    let endpoints: Vec<_> = targets.iter().map(|address| json!({ "address": address })).collect();
    std::fs::write(file.path(), json!({ "endpoints": endpoints }).to_string()).expect("written");
    let sidecar = Sidecar::to(&format!("file://{}", file.path().display()), "", "");
    until("all endpoints", async || {
        sidecar.json("/channels").await["channels"][0]["endpoints"]
            .as_array()
            .is_some_and(|all| all.len() == 1000)
    })
    .await;
    let mut page = Page::open(&format!("http://{}/", sidecar.admin));
    page.wait_for("TRANSIENT_FAILURE");
    assert!(page.text().contains("of 1000"), "{}", page.text());
    page.screenshot((1280, 900), false, &sidecar.path("page.png"));
}
