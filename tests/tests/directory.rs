//! Real changes of a real directory, as tools and systems make them.

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

/// Waits until the directory has this version in force.
async fn in_force(directory: &PolicyDir, bytes: &[u8]) -> PolicyStatus {
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
    soon("the version in force", found).await
}

fn run(program: &str, arguments: &[&Path]) {
    let status = Command::new(program).args(arguments).status().expect(program);
    assert!(status.success(), "{program} {arguments:?}");
}

/// Kubernetes: `p.wasm` leads to `..data/p.wasm`, and `..data` is swapped.
#[tokio::test]
async fn a_config_map_is_swapped() {
    let policies = Policies::with(&[]);
    let root = policies.path();
    let edition = |name: &str, bytes: &[u8]| {
        fs::create_dir(root.join(name)).expect("made");
        fs::write(root.join(name).join("p.wasm"), bytes).expect("written");
        symlink(name, root.join("..data_tmp")).expect("linked");
        fs::rename(root.join("..data_tmp"), root.join("..data")).expect("swapped");
    };
    edition("..2026_01_01", &Wat::first());
    symlink("..data/p.wasm", root.join("p.wasm")).expect("linked");
    in_force(&policies.followed, &Wat::first()).await;
    edition("..2026_01_02", &standard("random"));
    let status = in_force(&policies.followed, &standard("random")).await;
    assert_eq!(status.loads, 2);
}

/// A file that is cut short at the end of a section is a component, and would be a policy that does less.
#[tokio::test]
async fn a_file_that_is_cut_short_changes_nothing() {
    let whole = standard("bounded_hash");
    let policies = Policies::with(&[("p.wasm", &Wat::first())]);
    in_force(&policies.followed, &Wat::first()).await;
    let of = |policies: &Policies| policies.followed.status().into_iter().find(|status| status.name == "p");
    fs::write(policies.path().join("p.wasm"), &whole[..whole.len() - 1]).expect("written");
    let rejected = |status: &PolicyStatus| status.rejected.as_ref().map(ToString::to_string);
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(5));
    let told = soon("a word on it", async {
        loop {
            ticks.tick().await;
            if let Some(said) = of(&policies).as_ref().and_then(rejected) {
                return said;
            }
        }
    });
    let length = whole.len();
    let said = told.await;
    assert!(said.starts_with("is cut short: its seal is for "), "{said} ({length} bytes)");
    // What was in force is in force.
    in_force(&policies.followed, &Wat::first()).await;
    fs::write(policies.path().join("p.wasm"), &whole).expect("written");
    let status = in_force(&policies.followed, &whole).await;
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
    in_force(&followed, &standard("random")).await;
    let refused = |status: &PolicyStatus| status.name == "q" && status.rejected.is_some();
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(5));
    soon("a refusal", async {
        while !followed.status().iter().any(refused) {
            ticks.tick().await;
        }
    })
    .await;
    let status = followed.status().into_iter().find(refused).expect("refused");
    let said = status.rejected.expect("refused").to_string();
    assert!(said.starts_with("has no seal, but this host requires one"), "{said}");
}

/// The path of the directory is a symlink, and it is swapped: no event tells of it.
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
    in_force(&followed, &Wat::first()).await;
    symlink("green", root.path().join("next")).expect("linked");
    fs::rename(root.path().join("next"), &path).expect("swapped");
    in_force(&followed, &standard("random")).await;
    // And what is done in the new one is seen, too.
    fs::write(root.path().join("green/p.wasm"), standard("round_robin")).expect("written");
    in_force(&followed, &standard("round_robin")).await;
}

#[tokio::test]
async fn a_directory_is_removed_and_made_again() {
    let root = tempfile::tempdir().expect("a directory");
    let path = root.path().join("policies.d");
    fs::create_dir(&path).expect("made");
    fs::write(path.join("p.wasm"), Wat::first()).expect("written");
    let followed = Policies::follow(&path);
    in_force(&followed, &Wat::first()).await;
    for bytes in [standard("random"), Wat::first()] {
        fs::remove_dir_all(&path).expect("removed");
        fs::create_dir(&path).expect("made");
        fs::write(path.join("p.wasm"), &bytes).expect("written");
        in_force(&followed, &bytes).await;
    }
}

/// In place, in pieces, with pauses that are longer than the quiet time: it is taken when it is whole, and
/// never before.
#[tokio::test]
async fn a_large_file_is_copied_slowly_over_another() {
    let policies = Policies::with(&[("p.wasm", &Wat::first())]);
    in_force(&policies.followed, &Wat::first()).await;
    let large = standard("color");
    let mut file = fs::File::create(policies.path().join("p.wasm")).expect("truncated");
    let (head, tail) = large.split_at(large.len() / 2);
    file.write_all(head).expect("written");
    file.sync_all().expect("synced");
    // Long enough for a look at what is there: another file comes and is loaded meanwhile.
    policies.put("q.wasm", &Wat::first());
    policies.wait_for("q", |status| status.version.is_some()).await;
    file.write_all(tail).expect("written");
    drop(file);
    let status = in_force(&policies.followed, &large).await;
    assert!(status.rejections.is_empty(), "half of it was never looked at: {:?}", status.rejections);
}

#[tokio::test]
async fn tools_that_replace_files_are_understood() {
    let policies = Policies::with(&[("p.wasm", &Wat::first())]);
    in_force(&policies.followed, &Wat::first()).await;
    let source = tempfile::tempdir().expect("a directory");
    let target = policies.path().join("p.wasm");
    let of = |name: &str| {
        let file = source.path().join(name);
        fs::write(&file, standard(name)).expect("written");
        file
    };
    // Unlinks, creates, writes.
    run("install", &[&of("random"), &target]);
    in_force(&policies.followed, &standard("random")).await;
    // Truncates, writes.
    run("cp", &[&of("round_robin"), &target]);
    in_force(&policies.followed, &standard("round_robin")).await;
    // From the same file system: renames.
    fs::copy(of("color"), policies.path().join("color.new")).expect("copied");
    run("mv", &[&policies.path().join("color.new"), &target]);
    in_force(&policies.followed, &standard("color")).await;
    // A hard link in place of the file: no one has written to it.
    fs::copy(of("random"), policies.path().join("random.tmp")).expect("copied");
    fs::remove_file(&target).expect("removed");
    fs::hard_link(policies.path().join("random.tmp"), &target).expect("linked");
    in_force(&policies.followed, &standard("random")).await;
    let status = policies.wait_for("p", |_| true).await;
    assert!(status.rejections.is_empty(), "{:?}", status.rejections);
}

/// Written through another name of the same file, in another directory: no event tells of it.
#[tokio::test]
async fn a_write_through_another_hard_link_is_found() {
    let policies = Policies::with(&[("p.wasm", &Wat::first())]);
    let followed = Policies::scan(policies.path());
    in_force(&followed, &Wat::first()).await;
    let elsewhere = tempfile::tempdir_in(policies.path().parent().expect("a parent")).expect("a directory");
    let other = elsewhere.path().join("other");
    fs::hard_link(policies.path().join("p.wasm"), &other).expect("linked");
    fs::write(&other, standard("random")).expect("written");
    in_force(&followed, &standard("random")).await;
}

#[tokio::test]
async fn temporary_files_of_editors_and_tools_are_passed_over() {
    let policies = Policies::with(&[("p.wasm", &Wat::first())]);
    in_force(&policies.followed, &Wat::first()).await;
    for name in
        ["p.wasm~", ".p.wasm.swp", "p.wasm.tmp", "p.wasm.part", ".#p.wasm", "_p.wasm", "p.wasm.new", "4913"]
    {
        policies.put(name, b"nothing to see here");
    }
    fs::create_dir(policies.path().join("old.d")).expect("made");
    fs::write(policies.path().join("old.d/z.wasm"), Wat::first()).expect("written");
    // vim: the backup is renamed, the file written anew.
    fs::rename(policies.path().join("p.wasm"), policies.path().join("p.wasm~")).expect("renamed");
    policies.put("p.wasm", &standard("random"));
    in_force(&policies.followed, &standard("random")).await;
    let names: Vec<_> = policies.followed.status().into_iter().map(|status| status.name).collect();
    assert_eq!(names, ["p"]);
}

/// The first is being compiled when it is removed, and still is when another one has its name, with settings that say which
/// bytes it must have.
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
    until("it to be forgotten", &|status| status.is_none()).await;
    let second = standard("random");
    fs::write(directory.join("p.toml"), format!("wasm-sha256 = {:?}\n", digest(&second))).expect("written");
    fs::write(directory.join("p.wasm"), &second).expect("written");
    until("the second to be compiled", &is_loading).await;
    fs::write(&gate, "").expect("opened");
    let status = until("a version", &|status| status.is_some_and(|p| p.version.is_some())).await;
    let status = status.expect("it is there");
    let version = status.version.expect("a version");
    assert_eq!((version.digest, version.generation, status.loads), (digest(&second), 1, 1));
}
