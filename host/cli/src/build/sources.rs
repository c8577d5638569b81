//! The policy crates below a folder, and digests of their sources and dependencies.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::rustc::TARGET;

/// The cargo workspace that a folder belongs to, and the policies in the folder.
#[derive(Debug)]
pub(super) struct Workspace {
    pub(super) root: PathBuf,
    pub(super) target_directory: PathBuf,
    /// Sorted by name.
    pub(super) policies: Vec<PolicyCrate>,
}

/// A policy's crate: its library is a `cdylib`.
#[derive(Debug)]
pub(super) struct PolicyCrate {
    pub(super) package: String,
    /// Name of the library, which is the name of the policy.
    pub(super) name: String,
    /// Digest of the sources, see [`Metadata::digest`].
    pub(super) digest: String,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: BTreeSet<String>,
    resolve: Resolve,
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    source: Option<String>,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    crate_types: Vec<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

impl Workspace {
    pub(super) fn read(folder: &Path) -> anyhow::Result<Self> {
        let folder = fs::canonicalize(folder).with_context(|| format!("cannot open folder {folder:?}"))?;
        let output = Command::new("cargo")
            .args(["metadata", "--format-version", "1", "--filter-platform", TARGET])
            .current_dir(&folder)
            .output()
            .context("cannot run cargo")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "cannot read the cargo workspace of {folder:?}: {}",
            complaint.trim()
        );
        let metadata: Metadata =
            serde_json::from_slice(&output.stdout).context("cannot parse the output of cargo metadata")?;
        let mut policies = metadata
            .packages
            .iter()
            .filter(|package| metadata.workspace_members.contains(&package.id))
            .filter(|package| package.manifest_path.starts_with(&folder))
            .filter_map(|package| package.policy().map(|name| (package, name)))
            .map(|(package, name)| {
                let digest = metadata.digest(package)?;
                Ok(PolicyCrate { package: package.name.clone(), name: name.to_owned(), digest })
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        policies.sort_by(|a, b| a.name.cmp(&b.name));
        ensure!(
            !policies.is_empty(),
            "{folder:?} has no policy crate: set crate-type = [\"cdylib\"] for a library"
        );
        let Metadata { workspace_root: root, target_directory, .. } = metadata;
        Ok(Self { root, target_directory, policies })
    }
}

impl Package {
    fn policy(&self) -> Option<&str> {
        let is_policy = |target: &&Target| target.crate_types.iter().any(|kind| kind == "cdylib");
        self.targets.iter().find(is_policy).map(|target| target.name.as_str())
    }
}

impl Metadata {
    /// Returns the digest of a package's sources and dependencies: the files of local crates, and the names and
    /// versions of crates from a registry.
    fn digest(&self, policy: &Package) -> anyhow::Result<String> {
        let packages: BTreeMap<_, _> = self.packages.iter().map(|package| (&package.id, package)).collect();
        let nodes: BTreeMap<_, _> = self.resolve.nodes.iter().map(|node| (&node.id, node)).collect();
        let mut found = BTreeSet::new();
        let mut to_visit = vec![&policy.id];
        while let Some(id) = to_visit.pop() {
            if found.insert(id) {
                let dependencies = nodes.get(id).into_iter().flat_map(|node| &node.deps);
                to_visit.extend(
                    dependencies.filter(|dependency| dependency.is_built()).map(|dependency| &dependency.pkg),
                );
            }
        }
        // Sorted by name and not by id, because an id may contain a path of this machine.
        let mut closure: Vec<_> = found.iter().filter_map(|id| packages.get(*id)).collect();
        closure.sort_by_key(|package| (&package.name, &package.version));
        let mut hasher = Sha256::new();
        for package in closure {
            hasher.update(format!("{} {}\n", package.name, package.version));
            if package.source.is_none() {
                let folder = package.manifest_path.parent().unwrap_or(Path::new("."));
                hash_files(&mut hasher, folder, Path::new(""))?;
            }
        }
        Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl Dependency {
    /// Returns whether the policy is built with this dependency. Those only for tests do not count.
    fn is_built(&self) -> bool {
        self.dep_kinds.iter().any(|kind| kind.kind.as_deref() != Some("dev"))
    }
}

/// Adds the names and contents of the files below a folder, sorted by name. Follows symlinks; skips hidden files and
/// the output folders `target` and `dist`.
fn hash_files(hasher: &mut Sha256, root: &Path, below: &Path) -> anyhow::Result<()> {
    let folder = root.join(below);
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {folder:?}"))?;
    let mut names = entries.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>()?;
    names.sort();
    for name in names
        .iter()
        .filter(|name| *name != "target" && *name != "dist" && !name.to_string_lossy().starts_with('.'))
    {
        let below = below.join(name);
        let path = root.join(&below);
        if path.is_dir() {
            hash_files(hasher, root, &below)?;
        } else {
            let bytes = fs::read(&path).with_context(|| format!("cannot read {path:?}"))?;
            hasher.update(format!("{} {}\n", below.display(), bytes.len()));
            hasher.update(bytes);
        }
    }
    Ok(())
}
