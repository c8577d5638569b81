//! `hotpick new`: creates a project for a new policy in one of the supported languages.
//!
//! The templates are the round robins of `examples/policies`, which are tested there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, ensure};

use crate::build::Language;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Name of the policy: a-z, 0-9 and '_', starting with a letter.
    #[arg(value_name = "NAME")]
    name: String,
    /// Language of the policy.
    #[arg(long, value_enum)]
    lang: Language,
    /// Folder of the project, which is created; by default NAME.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Name of the policy in the templates.
const TEMPLATE: &str = "round_robin";

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { name, lang, dir } = arguments;
    let is_name = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.len() <= 63
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    ensure!(
        is_name,
        "{name:?} cannot name a project: use at most 63 characters of a-z, 0-9 and '_', starting with a letter"
    );
    // A policy of this name would hide the project's own package or crate.
    let is_free = !["hotpick", "hotpick_guest"].contains(&name.as_str());
    ensure!(is_free, "{name:?} is the name of the SDK in the project: choose another name");
    let project = dir.clone().unwrap_or_else(|| PathBuf::from(name));
    let is_free = !project.exists() || project.read_dir().is_ok_and(|mut entries| entries.next().is_none());
    ensure!(is_free, "{project:?} already exists and is not an empty folder: choose another with --dir");
    for (path, text) in files(*lang) {
        write(&project.join(path.replace(TEMPLATE, name)), &text.replace(TEMPLATE, name))?;
    }
    write(&project.join(".gitignore"), "dist/\nnode_modules/\n.venv/\ntarget/\n__pycache__/\n")?;
    if *lang == Language::Rust {
        write(&project.join("Cargo.toml"), &manifest(name))?;
        write(&project.join(SDK).join("Cargo.toml"), SDK_MANIFEST)?;
        for (path, text) in hotpick_guest::sources::SOURCES {
            write(&project.join(SDK).join(path), text)?;
        }
    }
    let shown = project.display();
    say!("created a round robin in {lang} in {shown}. Read {shown}/README.md. Next:");
    say!("  hotpick build {shown}");
    say!("  hotpick check --conformance {shown}/dist/{name}.wasm");
    say!("  cp {shown}/dist/{name}.wasm policies.d/");
    Ok(ExitCode::SUCCESS)
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| format!("cannot create {folder:?}"))?;
    fs::write(file, text).with_context(|| format!("cannot write {file:?}"))
}

/// Folder of the SDK in a project in Rust.
const SDK: &str = "hotpick-guest";

/// Returns the `Cargo.toml` of a policy crate, which depends on the SDK in the project.
fn manifest(name: &str) -> String {
    format!(
        "[package]\nname = {name:?}\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[lib]\ncrate-type = [\"cdylib\", \"rlib\"]\n\n\
         [dependencies]\nhotpick-guest = {{ path = {SDK:?} }}\n\n# Not a member of a workspace in a parent folder.\n[workspace]\n"
    )
}

/// The `Cargo.toml` of the SDK in a project: that of the published crate without the parts that only its own
/// development needs. A test compares the dependencies with the workspace's.
const SDK_MANIFEST: &str = include_str!("../templates/rust/sdk.toml");

/// Lists the files of a template: path in the project, and content.
macro_rules! template {
    ($folder:literal: $($path:literal),+) => {
        &[$(($path, include_str!(concat!("../templates/", $folder, "/", $path)))),+]
    };
}

fn files(language: Language) -> &'static [(&'static str, &'static str)] {
    match language {
        Language::Rust => &[
            ("src/lib.rs", include_str!("../templates/rust/lib.rs")),
            ("README.md", include_str!("../templates/rust/README.md")),
        ],
        Language::C => template!(
            "c": "src/round_robin.c", "hotpick/hotpick.h", "hotpick/hotpick.c", "requirements.txt", "README.md"
        ),
        Language::Cpp => template!(
            "cpp": "src/round_robin.cpp", "hotpick/hotpick.hpp", "hotpick/hotpick.h", "hotpick/hotpick.c",
            "requirements.txt", "README.md"
        ),
        Language::Zig => {
            template!("zig": "src/round_robin.zig", "hotpick/hotpick.zig", "requirements.txt", "README.md")
        }
        Language::Go => template!(
            "go": "round_robin/main.go", "hotpick/hotpick.go", "hotpick/abi.go", "hotpick/host.go", "hotpick/config.go",
            "hotpick/about/about.go", "hotpick/alarms/alarms.go", "hotpick/connectivity/connectivity.go",
            "hotpick/handover/handover.go", "hotpick/outcomes/outcomes.go", "hotpick/plans/plans.go", "go.mod",
            "requirements.txt", "README.md"
        ),
        Language::Python => template!(
            "python": "policies/round_robin.py", "hotpick/__init__.py", "pyproject.toml", "requirements.txt",
            "README.md"
        ),
        Language::JavaScript => template!(
            "javascript": "src/round_robin.js", "hotpick/index.js", "hotpick/index.d.ts", "package.json",
            "package-lock.json", "README.md"
        ),
        Language::TypeScript => template!(
            "typescript": "src/round_robin.ts", "hotpick/index.js", "hotpick/index.d.ts", "package.json",
            "package-lock.json", "tsconfig.json", "README.md"
        ),
        Language::AssemblyScript => template!(
            "assemblyscript": "assembly/round_robin.ts", "hotpick/index.ts", "hotpick/exports.ts",
            "hotpick/about.ts", "hotpick/alarms.ts", "hotpick/connectivity.ts", "hotpick/handover.ts",
            "hotpick/outcomes.ts", "hotpick/plans.ts", "hotpick/transform.js", "package.json", "package-lock.json",
            "asconfig.json", "README.md"
        ),
        Language::Wat => template!("wat": "round_robin.wat", "README.md"),
    }
}
