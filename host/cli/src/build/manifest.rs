//! `manifest.toml` beside built policies: digests of their sources and files, and the compiler.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

const FILE: &str = "manifest.toml";

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    /// Output of `rustc --version`. Another compiler produces other bytes.
    compiler: String,
    pub(super) policies: BTreeMap<String, Built>,
}

/// SHA-256 digests of a built policy.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Built {
    /// Digest of the policy's crate, of the local crates that it depends on, and of the names and versions of its other
    /// dependencies.
    pub(super) sources: String,
    /// Digest of the component.
    pub(super) file: String,
}

impl Manifest {
    pub(super) fn new(compiler: String) -> Self {
        Self { compiler, policies: BTreeMap::new() }
    }

    pub(super) fn read(folder: &Path) -> anyhow::Result<Self> {
        let file = folder.join(FILE);
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file:?}"))?;
        toml::from_str(&text).with_context(|| format!("cannot read {file:?}"))
    }

    pub(super) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let file = folder.join(FILE);
        let text = format!("# Written by `hotpick build`.\n{}", toml::to_string(self)?);
        fs::write(&file, text).with_context(|| format!("cannot write {file:?}"))
    }
}
