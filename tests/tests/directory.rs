//! Changes to a real policy directory, as made by common tools and systems.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use hotpick::PolicyDir;
use hotpick::directory::{PolicyDirOptions, PolicyStatus};
use hotpick::policy::digest;
use hotpick_tests::wat::Wat;
use hotpick_tests::{Policies, soon, standard};

/// Waits until this version of the policy `p` is active in the directory.
async fn wait_for_active(directory: &PolicyDir, bytes: &[u8]) -> PolicyStatus {
    let wanted = digest(bytes);
    let is = |status: &PolicyStatus| status.version.as_ref().is_some_and(|version| version.digest == wanted);
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(5));
    let found = async {
        loop {
            ticks.tick().await;
            if let Some(status) =
                directory.status().into_iter().find(|status| status.name == "p" && is(status))
            {
                return status;
            }
        }
    };
    soon("the version to be active", found).await
}

fn run(program: &str, arguments: &[&Path]) {
    let status = Command::new(program).args(arguments).status().expect(program);
    assert!(status.success(), "{program} {arguments:?}");
}

/// Kubernetes: `p.wasm` links to `..data/p.wasm`, and `..data` is swapped.
#[tokio::test]
async fn a_config_map_is_swapped() {
    let policies = Policies::with(&[]);
    let root = policies.path();
    let publish = |name: &str, bytes: &[u8]| {
        fs::create_dir(root.join(name)).expect("made");
        fs::write(root.join(name).join("p.wasm"), bytes).expect("written");
        symlink(name, root.join("..data_tmp")).expect("linked");
        fs::rename(root.join("..data_tmp"), root.join("..data")).expect("swapped");
    };
    publish("..2026_01_01", &Wat::first());
    symlink("..data/p.wasm", root.join("p.wasm")).expect("linked");
    wait_for_active(&policies.followed, &Wat::first()).await;
    publish("..2026_01_02", &standard("random"));
    let status = wait_for_active(&policies.followed, &standard("random")).await;
    assert_eq!(status.loads, 2);
}

/// A file that is truncated at the end of a section is still a valid component: it would be a policy with fewer parts.
#[tokio::test]
async fn a_file_that_is_cut_short_changes_nothing() {
    let whole = standard("bounded_hash");
    let policies = Policies::with(&[("p.wasm", &Wat::first())]);
    wait_for_active(&policies.followed, &Wat::first()).await;
    let find = |policies: &Policies| policies.followed.status().into_iter().find(|status| status.name == "p");
    fs::write(policies.path().join("p.wasm"), &whole[..whole.len() - 1]).expect("written");
    let rejected = |status: &PolicyStatus| status.rejected.as_ref().map(ToString::to_string);
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(5));
    let reason = soon("the rejection", async {
        loop {
            ticks.tick().await;
            if let Some(reason) = find(&policies).as_ref().and_then(rejected) {
                return reason;
            }
        }
    })
    .await;
    let length = whole.len();
    assert!(reason.starts_with("is cut short: its seal is for "), "{reason} ({length} bytes)");
    // The previous version stays active.
    wait_for_active(&policies.followed, &Wat::first()).await;
    fs::write(policies.path().join("p.wasm"), &whole).expect("written");
    let status = wait_for_active(&policies.followed, &whole).await;
    assert_eq!((status.loads, status.rejected), (2, None));
}

#[tokio::test]
async fn a_host_may_want_a_seal() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("p.wasm"), standard("random")).expect("written");
    fs::write(directory.path().join("q.wasm"), Wat::first()).expect("written");
    let mut options = PolicyDirOptions::default();
    options.require_seal = true;
    let followed = PolicyDir::open_with(directory.path(), options).expect("a directory");
    wait_for_active(&followed, &standard("random")).await;
    let rejected = |status: &PolicyStatus| status.name == "q" && status.rejected.is_some();
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(5));
    soon("the rejection", async {
        while !followed.status().iter().any(rejected) {
            ticks.tick().await;
        }
    })
    .await;
    let status = followed.status().into_iter().find(rejected).expect("rejected");
    let reason = status.rejected.expect("a reason").to_string();
    assert!(reason.starts_with("has no seal, but this host requires one"), "{reason}");
}

/// The path of the directory is a symlink. Swapping it causes no event.
#[tokio::test]
async fn a_directory_is_swapped_by_a_symlink() {
    let root = tempfile::tempdir().expect("a directory");
    for (name, bytes) in [("blue", Wat::first()), ("green", standard("random"))] {
        fs::create_dir(root.path().join(name)).expect("made");
        fs::write(root.path().join(name).join("p.wasm"), bytes).expect("written");
    }
    let path = root.path().join("policies.d");
    symlink("blue", &path).expect("linked");
    let followed = Policies::follow(&path);
    wait_for_active(&followed, &Wat::first()).await;
    symlink("green", root.path().join("next")).expect("linked");
    fs::rename(root.path().join("next"), &path).expect("swapped");
    wait_for_active(&followed, &standard("random")).await;
    // Changes in the new directory are noticed too.
    fs::write(root.path().join("green/p.wasm"), standard("round_robin")).expect("written");
    wait_for_active(&followed, &standard("round_robin")).await;
}

#[tokio::test]
async fn a_directory_is_removed_and_made_again() {
    let root = tempfile::tempdir().expect("a directory");
    let path = root.path().join("policies.d");
    fs::create_dir(&path).expect("made");
    fs::write(path.join("p.wasm"), Wat::first()).expect("written");
    let followed = Policies::follow(&path);
    wait_for_active(&followed, &Wat::first()).await;
    for bytes in [standard("random"), Wat::first()] {
        fs::remove_dir_all(&path).expect("removed");
        fs::create_dir(&path).expect("made");
        fs::write(path.join("p.wasm"), &bytes).expect("written");
        wait_for_active(&followed, &bytes).await;
    }
}

/// The file is written in place, in two pieces, with a pause longer than the quiet time. It is loaded only when
/// complete.
#[tokio::test]
async fn a_large_file_is_copied_slowly_over_another() {
    let policies = Policies::with(&[("p.wasm", &Wat::first())]);
    wait_for_active(&policies.followed, &Wat::first()).await;
    let large = standard("color");
    let mut file = fs::File::create(policies.path().join("p.wasm")).expect("truncated");
    let (head, tail) = large.split_at(large.len() / 2);
    file.write_all(head).expect("written");
    file.sync_all().expect("synced");
    // Long enough for the directory to be read: another file is added and loaded in the meantime.
    policies.put("q.wasm", &Wat::first());
    policies.wait_for("q", |status| status.version.is_some()).await;
    file.write_all(tail).expect("written");
    drop(file);
    let status = wait_for_active(&policies.followed, &large).await;
    assert!(status.rejections.is_empty(), "the incomplete file was rejected: {:?}", status.rejections);
}

#[tokio::test]
async fn tools_that_replace_files_are_understood() {
    let policies = Policies::with(&[("p.wasm", &Wat::first())]);
    wait_for_active(&policies.followed, &Wat::first()).await;
    let source = tempfile::tempdir().expect("a directory");
    let target = policies.path().join("p.wasm");
    let source_of = |name: &str| {
        let file = source.path().join(name);
        fs::write(&file, standard(name)).expect("written");
        file
    };
    // `install` unlinks, creates and writes.
    run("install", &[&source_of("random"), &target]);
    wait_for_active(&policies.followed, &standard("random")).await;
    // `cp` truncates and writes.
    run("cp", &[&source_of("round_robin"), &target]);
    wait_for_active(&policies.followed, &standard("round_robin")).await;
    // `mv` within a file system renames.
    fs::copy(source_of("color"), policies.path().join("color.new")).expect("copied");
    run("mv", &[&policies.path().join("color.new"), &target]);
    wait_for_active(&policies.followed, &standard("color")).await;
    // A hard link replaces the file without a write to it.
    fs::copy(source_of("random"), policies.path().join("random.tmp")).expect("copied");
    fs::remove_file(&target).expect("removed");
    fs::hard_link(policies.path().join("random.tmp"), &target).expect("linked");
    wait_for_active(&policies.followed, &standard("random")).await;
    let status = policies.wait_for("p", |_| true).await;
    assert!(status.rejections.is_empty(), "{:?}", status.rejections);
}

/// A write through a hard link in another directory causes no event.
#[tokio::test]
async fn a_write_through_another_hard_link_is_found() {
    let policies = Policies::with(&[("p.wasm", &Wat::first())]);
    let followed = Policies::scan(policies.path());
    wait_for_active(&followed, &Wat::first()).await;
    let elsewhere = tempfile::tempdir_in(policies.path().parent().expect("a parent")).expect("a directory");
    let other = elsewhere.path().join("other");
    fs::hard_link(policies.path().join("p.wasm"), &other).expect("linked");
    fs::write(&other, standard("random")).expect("written");
    wait_for_active(&followed, &standard("random")).await;
}

#[tokio::test]
async fn temporary_files_of_editors_and_tools_are_passed_over() {
    let policies = Policies::with(&[("p.wasm", &Wat::first())]);
    wait_for_active(&policies.followed, &Wat::first()).await;
    for name in
        ["p.wasm~", ".p.wasm.swp", "p.wasm.tmp", "p.wasm.part", ".#p.wasm", "_p.wasm", "p.wasm.new", "4913"]
    {
        policies.put(name, b"nothing to see here");
    }
    fs::create_dir(policies.path().join("old.d")).expect("made");
    fs::write(policies.path().join("old.d/z.wasm"), Wat::first()).expect("written");
    // vim renames the file to a backup and creates a new one.
    fs::rename(policies.path().join("p.wasm"), policies.path().join("p.wasm~")).expect("renamed");
    policies.put("p.wasm", &standard("random"));
    wait_for_active(&policies.followed, &standard("random")).await;
    let names: Vec<_> = policies.followed.status().into_iter().map(|status| status.name).collect();
    assert_eq!(names, ["p"]);
}

/// The first file is removed while it is compiled. It is still being compiled when a second file has its name, with
/// settings that require the digest of the second one.
#[tokio::test]
async fn what_is_made_of_a_file_that_is_gone_is_not_taken_for_the_one_that_has_its_name_now() {
    let root = tempfile::tempdir().expect("a directory");
    let (directory, gate) = (root.path().join("policies.d"), root.path().join("gate"));
    fs::create_dir(&directory).expect("made");
    let mut options = PolicyDirOptions::default();
    options.quiet = std::time::Duration::from_millis(20);
    let script = r#"while [ ! -e "$0" ]; do sleep 0.01; done; exec "$1" compile-policy"#;
    let hotpick = hotpick_tests::peers::built("hotpick").get_program().to_owned();
    options.compile.command =
        Some(vec!["sh".into(), "-c".into(), script.into(), gate.clone().into(), hotpick]);
    let followed = PolicyDir::open_with(&directory, options).expect("a directory");
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(5));
    let mut until = async |what: &str, condition: &dyn Fn(Option<&PolicyStatus>) -> bool| {
        let found = async {
            loop {
                ticks.tick().await;
                let status = followed.status().into_iter().find(|status| status.name == "p");
                if condition(status.as_ref()) {
                    return status;
                }
            }
        };
        soon(what, found).await
    };
    let is_loading = |status: Option<&PolicyStatus>| status.is_some_and(|p| p.state.to_string() == "loading");

    fs::write(directory.join("p.wasm"), Wat::first()).expect("written");
    until("the first to be compiled", &is_loading).await;
    fs::remove_file(directory.join("p.wasm")).expect("removed");
    until("the first to be removed", &|status| status.is_none()).await;
    let second = standard("random");
    fs::write(directory.join("p.toml"), format!("wasm-sha256 = {:?}\n", digest(&second))).expect("written");
    fs::write(directory.join("p.wasm"), &second).expect("written");
    until("the second to be compiled", &is_loading).await;
    fs::write(&gate, "").expect("opened");
    let status = until("a version", &|status| status.is_some_and(|p| p.version.is_some())).await;
    let status = status.expect("a status");
    let version = status.version.expect("a version");
    assert_eq!((version.digest, version.generation, status.loads), (digest(&second), 1, 1));
}
