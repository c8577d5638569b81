//! `hotpick toolchain`: sets up a rustc that can build policies, where there is none.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, ensure};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Use Debian's packages even if rustup is installed.
    #[arg(long)]
    debian: bool,
}

/// Unpacks Debian's rustc into a folder, and builds its standard library for WebAssembly.
const SCRIPT: &str = include_str!("toolchain.sh");

/// Returns the folder of the rustc that this command sets up: `hotpick/wasm-toolchain` in the user's data directory, as
/// the XDG base directory specification defines it. `None` if the machine says no such directory.
pub(super) fn folder() -> Option<PathBuf> {
    let directory =
        |variable: &str| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let base =
        directory("XDG_DATA_HOME").or_else(|| directory("HOME").map(|home| home.join(".local/share")))?;
    Some(base.join("hotpick/wasm-toolchain"))
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if let Ok(rustc) = super::rustc::Rustc::find() {
        say!("{} can build policies: nothing to do", rustc.version);
        return Ok(ExitCode::SUCCESS);
    }
    if !arguments.debian && add_by_rustup()? {
        say!("added the target {} by rustup", super::rustc::TARGET);
        return Ok(ExitCode::SUCCESS);
    }
    let folder = folder().context(
        "neither XDG_DATA_HOME nor HOME is set: set one of them, so that the toolchain has a folder",
    )?;
    let status = Command::new("bash")
        .args(["-c", SCRIPT, "hotpick toolchain"])
        .arg(&folder)
        .status()
        .context("cannot run bash, which unpacks Debian's rustc")?;
    ensure!(status.success(), "no toolchain was set up: see the output above");
    Ok(ExitCode::SUCCESS)
}

/// Adds the target to rustup's toolchain. Returns false if rustup is missing or fails.
fn add_by_rustup() -> anyhow::Result<bool> {
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add", super::rustc::TARGET]);
    match rustup.status() {
        Ok(status) if status.success() => Ok(true),
        Ok(_) => {
            eprintln!("rustup could not add the target: using Debian's packages instead");
            Ok(false)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).context("cannot run rustup"),
    }
}
