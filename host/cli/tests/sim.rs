//! `hotpick sim`, as a user runs it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn hotpick(arguments: &[&str]) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut command = Command::new(env!("CARGO_BIN_EXE_hotpick"));
    command.args(arguments).current_dir(root).env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"));
    command.output().expect("hotpick runs")
}

/// Runs it with a scenario. Returns the table.
fn table(folder: &Path, scenario: &str, arguments: &[&str]) -> String {
    let file = folder.join("scenario.toml");
    fs::write(&file, scenario).expect("written");
    let file = file.to_str().expect("text");
    let output = hotpick(&[&["sim", "--scenario", file], arguments].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Returns a column of the row of a policy.
fn cell(table: &str, policy: &str, column: &str) -> f64 {
    let columns: Vec<_> = table.lines().next().unwrap_or_default().split("  ").map(str::trim).collect();
    let at = columns.iter().filter(|name| !name.is_empty()).position(|name| *name == column).expect(column);
    let row = table.lines().find(|line| line.contains(policy)).unwrap_or_else(|| panic!("{table}"));
    let cells: Vec<_> = row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    cells[at].trim_end_matches(" %").parse().unwrap_or(f64::NAN)
}

const P2C: &str = "policies/dist/p2c_ewma.wasm";
const MAGLEV: &str = "policies/dist/maglev.wasm";

#[test]
fn the_same_command_writes_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let scenario = "seconds = 3.0\nwarmup = 1.0\nattempts = 3\ndeadline_ms = 50.0\nclients = 3\nview = 8\n\
                    keys = { count = 100, skew = 1.0 }\n[servers]\nqueue = 20\nload_report = true\n\
                    [[events]]\nat = 0.5\naction = \"disconnect\"\ncount = 2\nseconds = 0.2\ntimes = 4\nevery = 0.5\n\
                    [[events]]\nat = 1.0\naction = \"slow\"\nfrom = 5\ncount = 3\nfactor = 10.0\n";
    let run = |number: u32| {
        let [html, csv] = ["html", "csv"].map(|kind| folder.path().join(format!("{number}.{kind}")));
        let [to_html, to_csv] = [&html, &csv].map(|file| file.to_str().expect("text").to_owned());
        let weighted = "policies/dist/weighted_round_robin.wasm";
        let arguments = [P2C, MAGLEV, weighted, "--html", &to_html, "--csv", &to_csv];
        let table = table(folder.path(), scenario, &arguments);
        (table, fs::read(html).expect("a page"), fs::read(csv).expect("a file"))
    };
    let first = run(1);
    assert_eq!(first, run(2));
    assert!(cell(&first.0, "p2c", "errors") < cell(&first.0, "p2c", "RPCs") / 10.0, "{}", first.0);
}

#[test]
fn bursts_closed_loops_and_times_from_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("times.txt"), "2.0\n2.0\n").expect("written");
    let servers = "[servers]\nslots = 1\ndistribution = \"file\"\ntimes = \"times.txt\"\n";
    // Each caller takes 2 ms of work and 0.5 ms of network in turn: 4 callers make 4 / 2.5 ms calls.
    let closed =
        format!("seconds = 5.0\nendpoints = 10\narrivals = {{ kind = \"closed\", callers = 4 }}\n{servers}");
    let text = table(folder.path(), &closed, &[P2C]);
    let rpcs = cell(&text, "p2c", "RPCs");
    assert!((rpcs / 8000.0 - 1.0).abs() < 0.03, "{text}");
    // Ten at once over ten endpoints by their load: none waits for another.
    let bursts = format!(
        "seconds = 5.0\nendpoints = 10\nrate = 100.0\narrivals = {{ kind = \"bursts\", size = 10 }}\n{servers}"
    );
    let text = table(folder.path(), &bursts, &["policies/dist/round_robin.wasm"]);
    assert!((cell(&text, "round_robin.wasm", "p50") - 2.5).abs() < 0.05, "{text}");
}

#[test]
fn the_schema_has_what_a_file_may_have() {
    let output = hotpick(&["sim", "--schema"]);
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let fields = schema["properties"].as_object().expect("fields");
    for field in ["seconds", "view", "arrivals", "servers", "keys", "events"] {
        assert!(fields.contains_key(field), "{schema:#}");
    }
    assert_eq!(schema["additionalProperties"], false);
}

/// Real servers answer as simulated ones do, as far as a busy machine lets them.
#[test]
fn real_servers_are_as_simulated() {
    let folder = tempfile::tempdir().expect("a folder");
    let scenario = "seconds = 3.0\nwarmup = 0.5\nendpoints = 4\nrate = 100.0\n[servers]\nmean_ms = 20.0\n";
    let text = table(folder.path(), scenario, &[P2C, "--real"]);
    assert!(text.contains("p2c_ewma.wasm, real") && text.contains("the simulation differs by"), "{text}");
    let (simulated, real) =
        (cell(&text, "p2c_ewma.wasm ", "RPCs"), cell(&text, "p2c_ewma.wasm, real", "RPCs"));
    assert!((simulated - real).abs() < 20.0, "{text}");
}
