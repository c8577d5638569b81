//! The end of a build: the component, sealed, and started as a channel would start it.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use hotpick::directory;
use hotpick::policy::{PolicyError, componentize_with, seal};

use super::script;

const WASI_STUB: &str = include_str!("wasi_stub.wat");

/// Returns a sealed component, after trying it out: it is loaded, started with this configuration (JSON), and picks. `wasm`
/// is a core module, or a component that the language's tool has built.
///
/// # Errors
///
/// The loader rejects the component, or a channel would not start it.
pub(super) fn component(
    name: &str,
    wasm: &[u8],
    language: &str,
    config: Option<&str>,
) -> anyhow::Result<Vec<u8>> {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    let stub = script::core_module("wasi-stub", WASI_STUB)?;
    let scratch = tempfile::tempdir().context("cannot create a temporary folder for the policy")?;
    let file = scratch.path().join(format!("{name}.wasm"));
    let sealed = || {
        let component = match is_component(wasm) {
            true => wasm.to_vec(),
            false => componentize_with(wasm, &[("wasi_snapshot_preview1", &stub)])?,
        };
        let component = seal(&component, &format!("{language}, by hotpick {VERSION}"))?;
        fs::write(&file, &component).map_err(|error| PolicyError::Read(error.to_string()))?;
        Ok::<_, PolicyError>(component)
    };
    let component = sealed().with_context(|| format!("policy {name:?}"))?;
    start(name, &file, config)?;
    Ok(component)
}

/// Endpoints of the trial.
const ENDPOINTS: u32 = 3;

fn start(name: &str, file: &Path, config: Option<&str>) -> anyhow::Result<()> {
    let mut options = crate::cache::cached();
    // The machine may be busy with the build, and this command be a debug build. `hotpick check` measures.
    for limit in [&mut options.limits.init, &mut options.limits.update, &mut options.limits.pick] {
        *limit *= 10;
    }
    let policy = directory::load(file, &options).with_context(|| format!("policy {name:?}"))?;
    match policy.check(config.unwrap_or("{}"), ENDPOINTS) {
        Ok(report) => {
            let has = |names: &[String], name: &str| names.iter().any(|its| its == name);
            // In interpreted languages everything is imported, used or not.
            let is_used = has(&report.imports, "timers") && !has(&report.imports, "connections");
            if is_used && !has(&report.optional_parts, "alarms") {
                eprintln!("policy {name:?} uses timers and does not export `alarms`: it is not told that they expire");
            }
            Ok(())
        }
        Err(error) if error.is_refusal() && config.is_none() => Err(error).with_context(|| {
            format!("policy {name:?}, without a configuration (--config JSON, or {name}.toml in the project, gives it one)")
        }),
        Err(error) => Err(error).with_context(|| format!("policy {name:?}")),
    }
}

/// Returns whether these bytes are a component. The version after the magic number is 1 in core modules.
fn is_component(wasm: &[u8]) -> bool {
    wasm.get(4..8).is_some_and(|version| version != [1, 0, 0, 0])
}
