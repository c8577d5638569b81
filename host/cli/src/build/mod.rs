//! `hotpick build`: from a policy's sources to a component, by the ordinary tool of their language.

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
    /// A folder with policies in one language (as `hotpick new` makes them; for Rust a crate or a folder of crates), or
    /// a .wat file, or a .wasm file, which is sealed.
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Where the components go; by default into `dist` in the folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Build nothing: fail if what was built is not what the sources would give. For policies in Rust.
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let path = &arguments.path;
    if path.extension().is_some_and(|extension| extension == "wat" || extension == "wasm") {
        ensure!(!arguments.check, "--check is for policies in Rust, not for {path:?}");
        build_file(path, arguments.out.as_deref())?;
        return Ok(ExitCode::SUCCESS);
    }
    let path = &fs::canonicalize(path).with_context(|| format!("folder {path:?}"))?;
    let out = arguments.out.clone().unwrap_or_else(|| path.join("dist"));
    match (Language::of(path)?, arguments.check) {
        (Language::Rust, true) => rust::check(path, &out)?,
        (Language::Rust, false) => rust::build(path, &out)?,
        (language, true) => {
            anyhow::bail!("--check is for policies in Rust, and those in {path:?} are in {language}")
        }
        (language, false) => {
            language.build(path, |name, wasm| {
                write(&out, name, &component(name, wasm, &language.to_string())?)
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Text, or what another tool has made.
fn build_file(path: &Path, out: Option<&Path>) -> anyhow::Result<()> {
    let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let what = if path.extension().is_some_and(|extension| extension == "wat") { "WAT" } else { "a file" };
    let component = component(name, &wat::parse_file(path)?, what)?;
    let folder = out.or(path.parent()).unwrap_or(Path::new("."));
    write(folder, name, &component)
}

const WASI_STUB: &str = include_str!("wasi_stub.wat");

/// The component of a core module, or one that its language's tool has made; sealed, and checked as the loader will.
fn component(name: &str, wasm: &[u8], language: &str) -> anyhow::Result<Vec<u8>> {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    let stub = script::core_module("wasi-stub", WASI_STUB)?;
    let scratch = tempfile::tempdir().context("make a folder for the policy")?;
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

/// After the magic number comes a version: 1 of core modules.
fn is_component(wasm: &[u8]) -> bool {
    wasm.get(4..8).is_some_and(|version| version != [1, 0, 0, 0])
}

fn write(folder: &Path, name: &str, component: &[u8]) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("make {folder:?}"))?;
    let file = folder.join(format!("{name}.wasm"));
    // A directory that is being watched must not see half a file.
    let partial = folder.join(format!("{name}.wasm.part"));
    fs::write(&partial, component).with_context(|| format!("write {partial:?}"))?;
    fs::rename(&partial, &file).with_context(|| format!("write {file:?}"))?;
    println!("{} {} bytes, sha256 {}", file.display(), component.len(), &digest(component)[..12]);
    Ok(())
}
