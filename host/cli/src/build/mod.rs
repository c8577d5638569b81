//! `hotpick build`: from a policy's sources to a component.

mod manifest;
mod rustc;
mod sources;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail, ensure};
use hotpick::policy::{Limits, WasmPolicy, componentize, digest};

use self::manifest::{Built, Manifest};
use self::rustc::Rustc;
use self::sources::{PolicyCrate, Workspace};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A policy crate, a folder of policy crates, or a .wat file.
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Where the components go; by default into `dist` in the folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Build nothing: fail if what was built is not what the sources would give.
    #[arg(long)]
    check: bool,
}

/// The profile of policies: small, and the same bytes each time. Here, not in a manifest, so that a
/// crate anywhere is built like the standard policies.
const PROFILE: [&str; 5] = [
    "profile.release.opt-level='s'",
    "profile.release.lto=true",
    "profile.release.codegen-units=1",
    "profile.release.panic='abort'",
    "profile.release.strip=true",
];

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let path = &arguments.path;
    if path.extension().is_some_and(|extension| extension == "wat") {
        ensure!(!arguments.check, "--check is for policy crates, not for {path:?}");
        build_wat(path, arguments.out.as_deref())?;
        return Ok(ExitCode::SUCCESS);
    }
    let workspace = Workspace::read(path)?;
    let out = arguments.out.clone().unwrap_or_else(|| path.join("dist"));
    if arguments.check { check(&workspace, &out) } else { build(&workspace, &out) }
}

fn build_wat(path: &Path, out: Option<&Path>) -> anyhow::Result<()> {
    let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let module = wat::parse_file(path)?;
    let component = component(name, &module)?;
    let folder = out.or(path.parent()).unwrap_or(Path::new("."));
    write(folder, name, &component)
}

/// The component of a core module, checked as the loader will.
fn component(name: &str, module: &[u8]) -> anyhow::Result<Vec<u8>> {
    let checked = || {
        let component = componentize(module)?;
        WasmPolicy::compile(name, 0, &component, Limits::default())?;
        Ok::<_, hotpick::policy::PolicyError>(component)
    };
    checked().with_context(|| format!("policy {name:?}"))
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

fn build(workspace: &Workspace, out: &Path) -> anyhow::Result<ExitCode> {
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
        let component = component(&policy.name, &module)?;
        write(out, &policy.name, &component)?;
        let built = Built { sources: policy.digest.clone(), file: digest(&component) };
        manifest.policies.insert(policy.name.clone(), built);
    }
    manifest.write(out)?;
    Ok(ExitCode::SUCCESS)
}

fn check(workspace: &Workspace, out: &Path) -> anyhow::Result<ExitCode> {
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
    Ok(ExitCode::SUCCESS)
}
