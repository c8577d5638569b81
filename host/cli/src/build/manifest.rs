//! `manifest.toml` beside built policies: what they were built from, and by what.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

const FILE: &str = "manifest.toml";

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    /// What `rustc --version` says. Another compiler gives other bytes.
    compiler: String,
    pub(super) policies: BTreeMap<String, Built>,
}

/// Two SHA-256 digests.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Built {
    /// Of the policy's crate, the crates of the clone that it depends on, and the names and versions of
    /// the others.
    pub(super) sources: String,
    pub(super) file: String,
}

impl Manifest {
    pub(super) fn new(compiler: String) -> Self {
        Self { compiler, policies: BTreeMap::new() }
    }

    pub(super) fn read(folder: &Path) -> anyhow::Result<Self> {
        let file = folder.join(FILE);
        let text = fs::read_to_string(&file).with_context(|| format!("read {file:?}"))?;
        toml::from_str(&text).with_context(|| format!("read {file:?}"))
    }

    pub(super) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let file = folder.join(FILE);
        let text = format!("# Written by `hotpick build`.\n{}", toml::to_string(self)?);
        fs::write(&file, text).with_context(|| format!("write {file:?}"))
    }
}
