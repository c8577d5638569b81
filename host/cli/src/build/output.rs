//! Where built policies are written.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use hotpick::policy::digest;

/// The folders that built policies are written to.
#[derive(Debug)]
pub(super) struct Output {
    out: PathBuf,
    into: Option<PathBuf>,
    /// Configuration for the trial, instead of that in the settings of a policy.
    config: Option<String>,
}

impl Output {
    pub(super) const fn new(out: PathBuf, into: Option<PathBuf>, config: Option<String>) -> Self {
        Self { out, into, config }
    }

    /// Returns the configuration that a policy is tried out with (JSON). `None`: there is none, neither given nor in its
    /// settings where it will be used, is written, or comes from.
    pub(super) fn config(&self, name: &str, project: &Path) -> anyhow::Result<Option<String>> {
        if self.config.is_some() {
            return Ok(self.config.clone());
        }
        for folder in [self.into.as_deref(), Some(&self.out), Some(project)].into_iter().flatten() {
            let file = folder.join(format!("{name}.toml"));
            let Ok(text) = fs::read_to_string(&file) else { continue };
            let settings: toml::Table =
                toml::from_str(&text).with_context(|| format!("cannot read {file:?}"))?;
            if let Some(config) = settings.get("config") {
                return Ok(Some(serde_json::to_string(config)?));
            }
        }
        Ok(None)
    }

    /// Returns the folder that also has the manifest.
    pub(super) fn out(&self) -> &Path {
        &self.out
    }

    /// Writes a policy, and says so. A folder that has the same bytes already is left alone, so that those who follow it
    /// load nothing.
    pub(super) fn write(&self, name: &str, component: &[u8]) -> anyhow::Result<()> {
        for folder in [Some(&self.out), self.into.as_ref()].into_iter().flatten() {
            let file = write(folder, name, component)?;
            say!("{} {} bytes, sha256 {}", file.display(), component.len(), &digest(component)[..12]);
        }
        Ok(())
    }
}

fn write(folder: &Path, name: &str, component: &[u8]) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {folder:?}"))?;
    let file = folder.join(format!("{name}.wasm"));
    if fs::read(&file).is_ok_and(|there| there == component) {
        return Ok(file);
    }
    // A policy directory that is being followed must not contain an incomplete file.
    let partial = folder.join(format!("{name}.wasm.part"));
    fs::write(&partial, component).with_context(|| format!("cannot write {partial:?}"))?;
    fs::rename(&partial, &file).with_context(|| format!("cannot write {file:?}"))?;
    Ok(file)
}
