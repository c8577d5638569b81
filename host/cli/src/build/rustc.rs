//! A search for a rustc that can compile to WebAssembly.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use super::toolchain;

pub(super) const TARGET: &str = "wasm32-unknown-unknown";

/// A rustc with the standard library for [`TARGET`].
#[derive(Debug)]
pub(super) struct Rustc {
    path: PathBuf,
    sysroot: PathBuf,
    pub(super) version: String,
}

/// The oldest rustc that the SDK compiles with (1.MINOR).
const OLDEST: u32 = 88;

impl Rustc {
    /// Returns the rustc in `HOTPICK_RUSTC` if this is set. Otherwise returns the first one that has the target and is new
    /// enough: that on the PATH, or the one that `hotpick toolchain` has set up.
    ///
    /// # Errors
    ///
    /// There is none. The error says why each does not fit.
    pub(super) fn find() -> anyhow::Result<Self> {
        if let Some(path) = std::env::var_os("HOTPICK_RUSTC") {
            return Self::fitting(Path::new(&path)).with_context(|| format!("HOTPICK_RUSTC is {path:?}"));
        }
        let mut reasons = Vec::new();
        let own = toolchain::folder().map(|folder| folder.join("rustc")).filter(|rustc| rustc.exists());
        for path in [Some(PathBuf::from("rustc")), own].into_iter().flatten() {
            match Self::fitting(&path) {
                Ok(rustc) => return Ok(rustc),
                Err(reason) => reasons.push(format!("{reason:#}")),
            }
        }
        bail!(
            "no rustc on this machine can build policies ({}): run `hotpick toolchain`, which sets one up in a minute",
            reasons.join("; ")
        );
    }

    /// Returns this rustc.
    ///
    /// # Errors
    ///
    /// It does not have the target, or is too old.
    fn fitting(path: &Path) -> anyhow::Result<Self> {
        let rustc = Self::with_target(path)?;
        let shown = path.display();
        let rustc = rustc.with_context(|| format!("{shown} does not have the target {TARGET}"))?;
        let minor = minor(&rustc.version);
        let version = &rustc.version;
        ensure!(minor.is_none_or(|minor| minor >= OLDEST), "{shown} is {version}, older than 1.{OLDEST}");
        Ok(rustc)
    }

    /// Returns this rustc, or `None` if it does not have the target.
    fn with_target(path: &Path) -> anyhow::Result<Option<Self>> {
        let libraries = PathBuf::from(ask(path, &["--print", "target-libdir", "--target", TARGET])?);
        let has_std = libraries.read_dir().is_ok_and(|mut files| {
            files.any(|file| file.is_ok_and(|file| file.file_name().to_string_lossy().starts_with("libstd-")))
        });
        if !has_std {
            return Ok(None);
        }
        let sysroot = PathBuf::from(ask(path, &["--print", "sysroot"])?);
        Ok(Some(Self { path: path.to_owned(), sysroot, version: ask(path, &["--version"])? }))
    }

    /// Makes cargo use this rustc, and keeps paths of this machine out of the built files.
    pub(super) fn apply(&self, cargo: &mut Command, workspace: &Path) {
        cargo.env("RUSTC", &self.path);
        // A distribution's rustc may lack the linker. The rust-lld of another rustc works, too.
        if !rust_lld(&self.sysroot).is_some_and(|lld| lld.exists())
            && let Ok(sysroot) = ask(Path::new("rustc"), &["--print", "sysroot"])
            && let Some(lld) = rust_lld(Path::new(&sysroot))
        {
            cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", lld);
        }
        let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
        let mut flags = vec![format!("--remap-path-prefix={}=/policy", workspace.display())];
        // Each registry has its own folder.
        let registries = home.and_then(|home| home.join("registry/src").read_dir().ok());
        for registry in registries.into_iter().flatten().flatten() {
            flags.push(format!("--remap-path-prefix={}=/cargo", registry.path().display()));
        }
        flags.push(format!(
            "--remap-path-prefix={}=/rustc",
            self.sysroot.join("lib/rustlib/src/rust").display()
        ));
        cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    }
}

/// Returns the minor version of `rustc 1.MINOR.PATCH ...`.
fn minor(version: &str) -> Option<u32> {
    version.strip_prefix("rustc 1.")?.split('.').next()?.parse().ok()
}

fn rust_lld(sysroot: &Path) -> Option<PathBuf> {
    let host = ask(Path::new("rustc"), &["--print", "host-tuple"]).ok()?;
    Some(sysroot.join("lib/rustlib").join(host).join("bin/rust-lld"))
}

fn ask(rustc: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let output =
        Command::new(rustc).args(arguments).output().with_context(|| format!("cannot run {rustc:?}"))?;
    if !output.status.success() {
        bail!("{rustc:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sdk_needs_the_version_that_its_manifest_says() {
        let manifest = include_str!("../../templates/rust/sdk.toml");
        assert!(manifest.contains(&format!("rust-version = \"1.{OLDEST}\"")), "{manifest}");
        assert_eq!(minor("rustc 1.85.0 (4d91de4e4 2025-02-17)"), Some(85));
        assert_eq!(minor("rustc 2.0.0"), None);
    }
}
