//! `hotpick build`: builds components from the sources of policies, with the usual tool of each language.

mod language;
mod manifest;
mod rust;
mod rustc;
mod script;
mod sources;
mod tools;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use hotpick::directory;
use hotpick::policy::{PolicyError, componentize_with, digest, seal};

pub(crate) use self::language::Language;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Folder with policies in one language, as created by `hotpick new` (for Rust a crate or a folder of crates); or a
    /// .wat file to build; or a .wasm file to seal.
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Output folder; by default `dist` in the folder of the policies, or the folder of the file.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Build nothing: fail if a built policy is missing, was changed, or is older than its sources. Only for policies
    /// in Rust.
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let path = &arguments.path;
    if path.extension().is_some_and(|extension| extension == "wat" || extension == "wasm") {
        ensure!(!arguments.check, "cannot check {path:?}: --check is only for policies in Rust");
        build_file(path, arguments.out.as_deref())?;
        return Ok(ExitCode::SUCCESS);
    }
    let path = &fs::canonicalize(path).with_context(|| format!("cannot open folder {path:?}"))?;
    let out = arguments.out.clone().unwrap_or_else(|| path.join("dist"));
    match (Language::of(path)?, arguments.check) {
        (Language::Rust, true) => rust::check(path, &out)?,
        (Language::Rust, false) => rust::build(path, &out)?,
        (language, true) => {
            anyhow::bail!(
                "cannot check {path:?}: --check is only for policies in Rust, and these are in {language}"
            )
        }
        (language, false) => {
            language.build(path, |name, wasm| {
                write(&out, name, &component(name, wasm, &language.to_string())?)
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds a component from a `.wat` file, or seals a `.wasm` file that another tool has built.
fn build_file(path: &Path, out: Option<&Path>) -> anyhow::Result<()> {
    let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let what = if path.extension().is_some_and(|extension| extension == "wat") { "WAT" } else { "a file" };
    let component = component(name, &wat::parse_file(path)?, what)?;
    let folder = out.or(path.parent()).unwrap_or(Path::new("."));
    write(folder, name, &component)
}

const WASI_STUB: &str = include_str!("wasi_stub.wat");

/// Returns a sealed component, after checking that the loader accepts it. `wasm` is a core module, or a component that
/// the language's tool has built.
fn component(name: &str, wasm: &[u8], language: &str) -> anyhow::Result<Vec<u8>> {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    let stub = script::core_module("wasi-stub", WASI_STUB)?;
    let scratch = tempfile::tempdir().context("cannot create a temporary folder for the policy")?;
    let file = scratch.path().join(format!("{name}.wasm"));
    let checked = || {
        let component = match is_component(wasm) {
            true => wasm.to_vec(),
            false => componentize_with(wasm, &[("wasi_snapshot_preview1", &stub)])?,
        };
        let component = seal(&component, &format!("{language}, by hotpick {VERSION}"))?;
        fs::write(&file, &component).map_err(|error| PolicyError::Read(error.to_string()))?;
        directory::load(&file, &crate::cache::cached())?;
        Ok::<_, PolicyError>(component)
    };
    checked().with_context(|| format!("policy {name:?}"))
}

/// Returns whether these bytes are a component. The version after the magic number is 1 in core modules.
fn is_component(wasm: &[u8]) -> bool {
    wasm.get(4..8).is_some_and(|version| version != [1, 0, 0, 0])
}

fn write(folder: &Path, name: &str, component: &[u8]) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {folder:?}"))?;
    let file = folder.join(format!("{name}.wasm"));
    // A policy directory that is being followed must not contain an incomplete file.
    let partial = folder.join(format!("{name}.wasm.part"));
    fs::write(&partial, component).with_context(|| format!("cannot write {partial:?}"))?;
    fs::rename(&partial, &file).with_context(|| format!("cannot write {file:?}"))?;
    println!("{} {} bytes, sha256 {}", file.display(), component.len(), &digest(component)[..12]);
    Ok(())
}
