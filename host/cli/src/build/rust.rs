//! Policies in Rust: crates of a cargo workspace, which are built together.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use hotpick::policy::digest;

use super::manifest::{Built, Manifest};
use super::output::Output;
use super::rustc::{self, Rustc};
use super::sources::{PolicyCrate, Workspace};
use super::trial::component;

/// Build profile of policies: optimized for size, and reproducible. The profile is set here and not in a manifest, so
/// that a crate anywhere is built like the standard policies.
const PROFILE: [&str; 5] = [
    "profile.release.opt-level='s'",
    "profile.release.lto=true",
    "profile.release.codegen-units=1",
    "profile.release.panic='abort'",
    "profile.release.strip=true",
];

/// Builds the policies in a folder, and writes their manifest.
pub(super) fn build(folder: &Path, output: &Output) -> anyhow::Result<()> {
    let workspace = Workspace::read(folder)?;
    let rustc = Rustc::find()?;
    let target_directory = workspace.target_directory.join("policies");
    let mut cargo = Command::new("cargo");
    cargo.arg("build").args(["--release", "--lib", "--target", rustc::TARGET]);
    for setting in PROFILE {
        cargo.args(["--config", setting]);
    }
    for policy in &workspace.policies {
        cargo.args(["--package", &policy.package]);
    }
    cargo.arg("--manifest-path").arg(workspace.root.join("Cargo.toml"));
    cargo.env("CARGO_TARGET_DIR", &target_directory);
    rustc.apply(&mut cargo, &workspace.root);
    let status = cargo.status().context("cannot run cargo")?;
    ensure!(status.success(), "cargo failed to build the policies: see its output above");

    let mut manifest = Manifest::new(rustc.version.clone());
    for policy in &workspace.policies {
        let module =
            target_directory.join(rustc::TARGET).join("release").join(format!("{}.wasm", policy.name));
        let module = fs::read(&module).with_context(|| format!("cannot read {module:?}"))?;
        let config = output.config(&policy.name, folder)?;
        let component = component(&policy.name, &module, "Rust", config.as_deref())?;
        output.write(&policy.name, &component)?;
        let built = Built { sources: policy.digest.clone(), file: digest(&component) };
        manifest.policies.insert(policy.name.clone(), built);
    }
    manifest.write(output.out())
}

/// Checks that the built policies match the sources in a folder and the manifest.
///
/// # Errors
///
/// A policy is not built, is older than its sources, or is not the file that was built.
pub(super) fn check(folder: &Path, out: &Path) -> anyhow::Result<()> {
    let workspace = Workspace::read(folder)?;
    let manifest = Manifest::read(out)?;
    let stale = |policy: &PolicyCrate, what: &str| {
        format!("policy {:?} in {out:?} {what}: run `hotpick build`", policy.name)
    };
    for policy in &workspace.policies {
        let Some(built) = manifest.policies.get(&policy.name) else {
            bail!(stale(policy, "is not built"));
        };
        ensure!(built.sources == policy.digest, stale(policy, "is older than its sources"));
        let file = out.join(format!("{}.wasm", policy.name));
        let bytes = fs::read(&file).with_context(|| format!("cannot read {file:?}"))?;
        ensure!(built.file == digest(&bytes), stale(policy, "is not the file that was built"));
    }
    say!("{} policies in {} are up to date", workspace.policies.len(), out.display());
    Ok(())
}
