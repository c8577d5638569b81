//! A rustc that can make WebAssembly.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

pub(super) const TARGET: &str = "wasm32-unknown-unknown";

/// A rustc whose sysroot has the target.
#[derive(Debug)]
pub(super) struct Rustc {
    path: PathBuf,
    sysroot: PathBuf,
    pub(super) version: String,
}

impl Rustc {
    /// The first that has the target of: `HOTPICK_RUSTC`; the rustc on the path; the one that
    /// `.ci/wasm-toolchain` makes in the target directory.
    pub(super) fn find(target_directory: &Path) -> anyhow::Result<Self> {
        if let Some(path) = std::env::var_os("HOTPICK_RUSTC") {
            let rustc = Self::with_target(Path::new(&path))?;
            return rustc.with_context(|| format!("HOTPICK_RUSTC is {path:?}, which has no target {TARGET}"));
        }
        for path in [PathBuf::from("rustc"), target_directory.join("wasm-toolchain/rustc")] {
            if let Ok(Some(rustc)) = Self::with_target(&path) {
                return Ok(rustc);
            }
        }
        bail!(
            "no rustc here has the target {TARGET}: run `rustup target add {TARGET}`, or on Debian, in a clone \
             of hotpick, `.ci/wasm-toolchain`"
        );
    }

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

    /// Has cargo use this rustc, and leave no path of this machine in what it builds.
    pub(super) fn apply(&self, cargo: &mut Command, workspace: &Path) {
        cargo.env("RUSTC", &self.path);
        // A distribution's rustc may come without the linker; any rust-lld will do.
        if !rust_lld(&self.sysroot).is_some_and(|lld| lld.exists())
            && let Ok(sysroot) = ask(Path::new("rustc"), &["--print", "sysroot"])
            && let Some(lld) = rust_lld(Path::new(&sysroot))
        {
            cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", lld);
        }
        let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
        let mut flags = vec![format!("--remap-path-prefix={}=/policy", workspace.display())];
        // One folder for each registry, named after it.
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
    let output = Command::new(rustc).args(arguments).output().with_context(|| format!("run {rustc:?}"))?;
    if !output.status.success() {
        bail!("{rustc:?} says: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
