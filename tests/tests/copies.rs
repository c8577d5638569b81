//! Copies of files in packages, which cannot contain files from outside of their folder.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns all pairs of an original and its copy.
fn copies() -> Vec<(PathBuf, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut all: Vec<_> = [
        ("wit/policy.wit", "host/wit/policy.wit"),
        ("wit/policy.wit", "guest-sdk/wit/policy.wit"),
        ("examples/policies/c/hotpick/hotpick.h", "examples/policies/cpp/hotpick/hotpick.h"),
        ("examples/policies/c/hotpick/hotpick.c", "examples/policies/cpp/hotpick/hotpick.c"),
        ("examples/policies/javascript/hotpick/index.js", "examples/policies/typescript/hotpick/index.js"),
        (
            "examples/policies/typescript/hotpick/index.d.ts",
            "examples/policies/javascript/hotpick/index.d.ts",
        ),
        ("examples/policies/rust/round_robin/src/lib.rs", "host/cli/templates/rust/lib.rs"),
    ]
    .map(|(original, copy)| (root.join(original), root.join(copy)))
    .into();
    // The templates of `hotpick new`.
    let templates = root.join("host/cli/templates");
    let mut folders = vec![templates.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let relative = path.strip_prefix(&templates).expect("a template").to_owned();
            if path.is_dir() {
                folders.push(path);
            } else if relative != Path::new("rust/lib.rs") && relative != Path::new("rust/sdk.toml") {
                all.push((root.join("examples/policies").join(relative), path));
            }
        }
    }
    all
}

/// `HOTPICK_WRITE_COPIES=1` writes the copies.
#[test]
fn copies_are_like_their_originals() {
    let is_writing = std::env::var_os("HOTPICK_WRITE_COPIES").is_some();
    let copies = copies();
    assert!(copies.len() > 30, "{} copies", copies.len());
    for (original, copy) in copies {
        let bytes = fs::read(&original).unwrap_or_else(|error| panic!("{original:?}: {error}"));
        if is_writing {
            fs::write(&copy, &bytes).expect("written");
        }
        assert!(fs::read(&copy).is_ok_and(|copied| copied == bytes), "{copy:?} differs from {original:?}");
    }
}

/// A checkout on Windows turns symbolic links into files that contain a path.
#[test]
fn no_file_is_a_symbolic_link() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let entry = entry.expect("an entry");
            let kind = entry.file_type().expect("a kind");
            let name = entry.file_name();
            if ["target", "node_modules", ".git"].iter().any(|skipped| name == *skipped) {
                continue;
            }
            assert!(!kind.is_symlink(), "{:?} is a symbolic link", entry.path());
            if kind.is_dir() {
                folders.push(entry.path());
            }
        }
    }
}

/// Checks the manifest that `hotpick new --lang rust` writes for the SDK.
#[test]
fn the_sdk_in_a_project_has_the_dependencies_of_the_sdk() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: &str| {
        let text = fs::read_to_string(root.join(path)).expect(path);
        text.parse::<toml::Table>().expect(path)
    };
    let (copy, sdk, workspace) =
        (read("host/cli/templates/rust/sdk.toml"), read("guest-sdk/Cargo.toml"), read("Cargo.toml"));
    let version = |table: &toml::Table, name: &str| {
        let dependency = table.get(name)?;
        let version = dependency.as_str().or_else(|| dependency.get("version")?.as_str());
        version.map(str::to_owned)
    };
    let table = |of: &toml::Table, key: &str| of[key].as_table().expect(key).clone();
    let (ours, theirs) = (table(&copy, "dependencies"), table(&sdk, "dependencies"));
    let shared = workspace["workspace"]["dependencies"].as_table().expect("dependencies");
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for name in theirs.keys() {
        let expected = version(&theirs, name).or_else(|| version(shared, name));
        assert_eq!(version(&ours, name), expected, "{name}");
    }
    assert_eq!(table(&copy, "features"), table(&sdk, "features"));
    assert_eq!(copy["package"]["rust-version"], sdk["package"]["rust-version"]);
    assert_eq!(copy["package"]["version"], workspace["workspace"]["package"]["version"]);
}
