//! A search for a rustc that can compile to WebAssembly.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

pub(super) const TARGET: &str = "wasm32-unknown-unknown";

/// A rustc with the standard library for [`TARGET`].
#[derive(Debug)]
pub(super) struct Rustc {
    path: PathBuf,
    sysroot: PathBuf,
    pub(super) version: String,
}

impl Rustc {
    /// Returns the rustc in `HOTPICK_RUSTC` if this is set. Otherwise returns the first rustc that has the target: the
    /// one on the PATH, or the one that `.ci/wasm-toolchain` puts into the target directory.
    ///
    /// # Errors
    ///
    /// The rustc in `HOTPICK_RUSTC` does not have the target, or no rustc has it.
    pub(super) fn find(target_directory: &Path) -> anyhow::Result<Self> {
        if let Some(path) = std::env::var_os("HOTPICK_RUSTC") {
            let rustc = Self::with_target(Path::new(&path))?;
            return rustc.with_context(|| {
                format!("HOTPICK_RUSTC is {path:?}, which does not have the target {TARGET}")
            });
        }
        for path in [PathBuf::from("rustc"), target_directory.join("wasm-toolchain/rustc")] {
            if let Ok(Some(rustc)) = Self::with_target(&path) {
                return Ok(rustc);
            }
        }
        bail!(
            "no installed rustc has the target {TARGET}: run `rustup target add {TARGET}`, or on Debian without \
             rustup, `.ci/wasm-toolchain` in a clone of hotpick"
        );
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
