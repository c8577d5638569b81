//! Policies in every language, from `hotpick new` and from `examples/policies`: they build with the language's tool,
//! pass the conformance run, and serve.

use std::path::Path;
use std::time::Duration;

use hotpick::directory;
use hotpick::policy::{ConformanceOptions, WasmPolicy};
use hotpick_tests::languages::{build, cached, examples, hotpick, said};
use hotpick_tests::{Caller, Cluster, Policies, standard};

use crate::tenant;

/// Timeout of a compilation. A policy that contains a language runtime takes seconds, or tens of seconds in a debug
/// build.
const LONG: Duration = Duration::from_secs(300);

fn load(file: &Path) -> WasmPolicy {
    directory::load(file, &cached()).unwrap_or_else(|error| panic!("{file:?}: {error}"))
}

/// Compiles a shipped policy, with which others are compared.
fn shipped(name: &str) -> WasmPolicy {
    WasmPolicy::compile(name, 0, &standard(name), Default::default()).expect("a policy")
}

fn conforms(file: &Path, like: &str) {
    let policy = load(file);
    let imports = policy.imports();
    assert!(!imports.contains(&"wasi".to_owned()), "{file:?} imports WASI: {imports:?}");
    let mut options = ConformanceOptions::default();
    // `.ci/conformance` does a million picks, ten million for Go, in a release build.
    options.picks = 100_000;
    options.like = Some(shipped(like));
    for check in policy.conformance(&options) {
        assert!(check.passed, "{file:?} {check:?}");
        if check.name == "configuration" {
            assert_eq!(check.detail, "accepted; 4 of 4 invalid ones refused with a reason", "{file:?}");
        }
    }
}

/// Creates a project, builds it and the examples of its language, and tests the policies.
async fn try_language(language: &'static str) {
    let folder = tempfile::tempdir().expect("a folder");
    let (mine, out) = (folder.path().join("mine"), folder.path().join("dist"));
    let new = hotpick().args(["new", "mine", "--lang", language, "--dir"]).arg(&mine).output();
    let new = new.expect("hotpick runs");
    assert!(new.status.success(), "{}", said(&new));
    if !build(&mine, &out) || !build(&examples(language), &out) {
        return;
    }
    // WAT has only one example.
    let others: &[_] = if language == "wat" { &[] } else { &[("color", "color"), ("tenant", "round_robin")] };
    for (name, like) in [("mine", "round_robin")].iter().chain(others) {
        let file = out.join(format!("{name}.wasm"));
        let checked = tokio::task::spawn_blocking(move || {
            conforms(&file, like);
            if file.ends_with("tenant.wasm") {
                tenant::refuses(&load(&file));
            }
        });
        checked.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    }
    if language == "wat" {
        serves(&out.join("mine.wasm")).await;
    } else {
        serves(&out.join("color.wasm")).await;
        tenant::serves(&std::fs::read(out.join("tenant.wasm")).expect("a component")).await;
    }
}

/// Serves with a policy from a directory: no RPC fails while it is compiled, and it distributes RPCs evenly.
async fn serves(file: &Path) {
    let cluster = Cluster::start(&["a", "b", "c"]).await;
    let policies = Policies::cached();
    let channel =
        cluster.channel().policies(&policies.followed).policy("mine").connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    policies.put("mine.wasm", &std::fs::read(file).expect("a component"));
    let active = channel.wait_for(|status| status.policy.name == "mine");
    let mut active = std::pin::pin!(tokio::time::timeout(LONG, active));
    loop {
        tokio::select! {
            biased;
            done = &mut active => break drop(done.expect("the policy becomes active")),
            answer = caller.call() => drop(answer.expect("no RPC fails")),
        }
    }
    let tally = caller.tally(30).await;
    assert_eq!(caller.status().faults, Default::default());
    assert_eq!(tally.into_values().collect::<Vec<_>>(), [10, 10, 10]);
}

macro_rules! languages {
    ($($name:ident),+) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            try_language(stringify!($name)).await;
        })+
    };
}

languages!(rust, c, cpp, zig, go, python, javascript, typescript, assemblyscript, wat);

#[test]
fn a_tool_that_is_missing_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    for (language, advice) in [
        ("c", "cannot find zig, which builds these policies: "),
        ("go", "cannot find go, which builds these policies: "),
        ("python", "cannot find componentize-py, which builds these policies: "),
        ("javascript", "cannot find componentize-qjs, which builds these policies: "),
        ("typescript", "cannot find tsc, which builds these policies: "),
        ("assemblyscript", "cannot find asc, which builds these policies: "),
    ] {
        let project = folder.path().join(language);
        let new = hotpick().args(["new", "mine", "--lang", language, "--dir"]).arg(&project).output();
        assert!(new.expect("hotpick runs").status.success());
        let output =
            hotpick().arg("build").arg(&project).env("PATH", folder.path()).output().expect("hotpick runs");
        let stderr = said(&output);
        let last = stderr.lines().last().unwrap_or_default();
        assert!(output.status.code() == Some(1) && last.contains(advice), "{stderr}");
        // What to install is in the project, in the version that is tested.
        let command =
            if project.join("package-lock.json").exists() { "npm ci" } else { "-r requirements.txt" };
        assert!(last.contains(command), "{last}");
    }
}

#[test]
fn a_project_is_not_written_over_another_nor_under_an_invalid_name() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("theirs"), "").expect("written");
    for (name, complaint) in [
        ("mine", "already exists and is not an empty folder: choose another with --dir"),
        ("My Policy", "cannot name a project: use at most 63 characters of a-z, 0-9 and '_'"),
        ("1st", "cannot name a project"),
    ] {
        let output = hotpick().args(["new", name, "--lang", "c", "--dir"]).arg(folder.path()).output();
        let output = output.expect("hotpick runs");
        let stderr = said(&output);
        assert!(output.status.code() == Some(1) && stderr.contains(complaint), "{stderr}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1);
}

/// The shipped policies pass the conformance run, too.
#[tokio::test(flavor = "multi_thread")]
async fn the_standard_policies_conform() {
    let checked = tokio::task::spawn_blocking(|| {
        for name in hotpick_tests::STANDARD {
            let mut options = ConformanceOptions::default();
            options.picks = 100_000;
            for check in shipped(name).conformance(&options) {
                assert!(check.passed, "{name} {check:?}");
            }
        }
    });
    checked.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
}
