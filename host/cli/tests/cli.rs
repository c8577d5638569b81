//! The command, as a user runs it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn hotpick(arguments: &[&str]) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    Command::new(env!("CARGO_BIN_EXE_hotpick"))
        .args(arguments)
        .current_dir(root)
        .env_remove("HOTPICK_RUSTC")
        .env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"))
        .output()
        .expect("hotpick runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What is said when it fails: one line, and exit status 1.
fn complaint(arguments: &[&str]) -> String {
    let output = hotpick(arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    let text = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[test]
fn the_demo_loses_no_rpc() {
    let output = hotpick(&["demo", "--seconds", "5", "--callers", "4", "--plain"]);
    let said = stdout(&output);
    assert!(output.status.success(), "{said}");
    for part in [
        "policy active #2",
        "active.wasm is cut short: ",
        "policy active #3",
        "policy active #4",
        "policy active #5",
        " 0 failed; 4 policy swaps; 4 dials to 4 backends",
    ] {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
}

#[test]
fn the_committed_policies_are_what_their_sources_give() {
    for folder in ["policies", "tests/probe"] {
        let output = hotpick(&["build", folder, "--check"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_policy_that_has_changed_since_it_was_built_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies/dist");
    for file in fs::read_dir(root).expect("built policies").flatten() {
        fs::copy(file.path(), folder.path().join(file.file_name())).expect("copied");
    }
    let out = folder.path().to_str().expect("a path in UTF-8");
    assert!(hotpick(&["build", "policies", "--check", "--out", out]).status.success());

    fs::write(folder.path().join("color.wasm"), "other").expect("written");
    let said = complaint(&["build", "policies", "--check", "--out", out]);
    assert!(said.contains("\"color\"") && said.contains("is not the file that was built"), "{said}");

    let manifest = folder.path().join("manifest.toml");
    let text = fs::read_to_string(&manifest).expect("a manifest");
    fs::write(&manifest, text.replacen("sources = \"", "sources = \"0", 1)).expect("written");
    let said = complaint(&["build", "policies", "--check", "--out", out]);
    assert!(said.contains("is older than its sources"), "{said}");
}

#[test]
fn a_policy_in_text_is_built() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("mine.wat");
    fs::write(&file, include_str!("../templates/wat/round_robin.wat")).expect("written");
    let output = hotpick(&["build", file.to_str().expect("a path in UTF-8")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let component = fs::read(folder.path().join("mine.wasm")).expect("a component");
    assert!(stdout(&output).contains(&format!("{} bytes", component.len())));
}

#[test]
fn a_policy_that_a_channel_would_reject_is_not_built() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("traps.wat");
    fs::write(&file, include_str!("../src/demo/traps.wat")).expect("written");
    let said = complaint(&["build", file.to_str().expect("a path in UTF-8")]);
    assert!(said.starts_with("hotpick: policy \"traps\": failed its trial picks: trapped: "), "{said}");
    assert!(!folder.path().join("traps.wasm").exists());
}

#[test]
fn bad_input_is_answered_with_one_sentence() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("a path in UTF-8").to_owned();

    let said = complaint(&["build", &path("nowhere")]);
    assert!(said.contains("nowhere") && said.contains("No such file"), "{said}");

    fs::write(path("p.wat"), "(module)").expect("written");
    let said = complaint(&["build", &path("p.wat")]);
    assert!(said.starts_with("hotpick: policy \"p\": cannot be converted to a component: "), "{said}");

    fs::write(path("Bad Name.wat"), include_str!("../src/demo/traps.wat")).expect("written");
    let said = complaint(&["build", &path("Bad Name.wat")]);
    assert!(said.contains("is not a policy name"), "{said}");

    let said = complaint(&["build", "guest-sdk"]);
    assert!(said.contains("has no policy crate"), "{said}");
}

#[test]
fn a_policy_that_is_checked_says_what_it_is_and_may_do() {
    let output = hotpick(&["check", "policies/dist/color.wasm", "tests/probe/dist/probe.wasm"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = stdout(&output);
    for line in [
        "policies/dist/color.wasm",
        "  imports    call, env, stats, timers",
        "  metadata   color",
        "  affinity   color",
        "  summary    Uses every part of the contract.",
        "  parts      about, alarms, connectivity, handover, outcomes",
    ] {
        assert!(said.lines().any(|said| said == line), "no {line:?} in\n{said}");
    }
    assert!(said.lines().any(|line| line.starts_with("  pick       ") && line.ends_with(" ns")), "{said}");
}

#[test]
fn a_check_is_for_programs_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let bad = folder.path().join("bad.wasm");
    fs::write(&bad, "junk").expect("written");
    let bad = bad.to_str().expect("a path in UTF-8");
    let output = hotpick(&["check", "--json", "policies/dist/random.wasm", bad]);
    assert_eq!(output.status.code(), Some(1));
    let said: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    let good = &said[0];
    assert_eq!((&good["ok"], &good["imports"]), (&true.into(), &serde_json::json!(["call", "env"])));
    for number in ["size", "memory", "pick_ns"] {
        assert!(good[number].as_u64().is_some_and(|number| number > 0), "{number}: {good}");
    }
    let refused =
        serde_json::json!({"file": bad, "ok": false, "stage": "parse", "reason": "is not WebAssembly"});
    assert_eq!(said[1], refused);
    let flags = ["check", "--json", "--conformance", "--picks", "1000", "policies/dist/random.wasm", bad];
    let said: serde_json::Value = serde_json::from_str(&stdout(&hotpick(&flags))).expect("JSON");
    assert_eq!((&said[0]["ok"], &said[0]["conformance"][0]["name"]), (&true.into(), &"configuration".into()));
    assert_eq!(said[1], refused);
}

#[test]
fn a_check_names_the_stage_and_the_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("written");
        path.to_str().expect("a path in UTF-8").to_owned()
    };
    let color = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies/dist/color.wasm"));
    let color = color.expect("a built policy");
    let good = write("color.wasm", &color);
    let said = complaint(&["check", &good, "--config", r#"{"colour": "red"}"#]);
    assert!(
        said.contains("color.wasm: init: refused its configuration: ") && said.contains("colour"),
        "{said}"
    );
    let half = write("half.wasm", &color[..color.len() / 2]);
    let said = complaint(&["check", &half]);
    assert!(said.contains("half.wasm: parse: is cut short: "), "{said}");
    let said = complaint(&["check", "nowhere.wasm"]);
    assert!(said.contains("nowhere.wasm: file: cannot be read: No such file"), "{said}");
    // The settings beside it count, as in a directory.
    write("color.toml", b"[grants]\ncapabilities = ['env']\n");
    let said = complaint(&["check", &good]);
    assert!(
        said.contains("grants: imports the capability \"call\", which its settings do not grant"),
        "{said}"
    );
}
