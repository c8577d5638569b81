//! Policies in Rust: crates of a cargo workspace, all of them in one build.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use hotpick::policy::digest;

use super::manifest::{Built, Manifest};
use super::rustc::{self, Rustc};
use super::sources::{PolicyCrate, Workspace};
use super::{component, write};

/// The profile of policies: small, and the same bytes each time. Here, not in a manifest, so that a
/// crate anywhere is built like the standard policies.
const PROFILE: [&str; 5] = [
    "profile.release.opt-level='s'",
    "profile.release.lto=true",
    "profile.release.codegen-units=1",
    "profile.release.panic='abort'",
    "profile.release.strip=true",
];

/// Builds the policies in a folder, and writes down what of.
pub(super) fn build(folder: &Path, out: &Path) -> anyhow::Result<()> {
    let workspace = Workspace::read(folder)?;
    let rustc = Rustc::find(&workspace.target_directory)?;
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
    let status = cargo.status().context("run cargo")?;
    ensure!(status.success(), "cargo could not build the policies: see above");

    let mut manifest = Manifest::new(rustc.version.clone());
    for policy in &workspace.policies {
        let module =
            target_directory.join(rustc::TARGET).join("release").join(format!("{}.wasm", policy.name));
        let module = fs::read(&module).with_context(|| format!("read {module:?}"))?;
        let component = component(&policy.name, &module, "Rust")?;
        write(out, &policy.name, &component)?;
        let built = Built { sources: policy.digest.clone(), file: digest(&component) };
        manifest.policies.insert(policy.name.clone(), built);
    }
    manifest.write(out)
}

/// Fails if what was built is not what the sources in a folder would give.
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
        let bytes = fs::read(&file).with_context(|| format!("read {file:?}"))?;
        ensure!(built.file == digest(&bytes), stale(policy, "is not the file that was built"));
    }
    println!("{} policies in {} are what their sources give", workspace.policies.len(), out.display());
    Ok(())
}
