//! Builds the policies of `examples/policies` as their authors would.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use hotpick::directory::PolicyDirOptions;

use crate::peers::{built, root, target};

/// Languages of `hotpick new --lang`, and `wat`. Each has a folder in `examples/policies`.
pub const LANGUAGES: [&str; 10] =
    ["rust", "c", "cpp", "zig", "go", "python", "javascript", "typescript", "assemblyscript", "wat"];

/// Installs the missing tools of all languages.
///
/// # Panics
///
/// Panics if `.ci/languages` fails.
pub fn install() {
    let script = root().join(".ci/languages");
    let status = Command::new(script).stdout(std::process::Stdio::null()).status().expect("bash runs");
    assert!(status.success(), ".ci/languages failed: see above");
}

/// The command `hotpick`, with the tools of `.ci/languages` on its PATH.
#[must_use]
pub fn hotpick() -> Command {
    let tools = std::path::absolute(target().join("languages/bin")).expect("a path");
    let mut command = built("hotpick");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let paths = [tools].into_iter().chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(paths).expect("a path"));
    command.env("XDG_CACHE_HOME", cache());
    command.env("GOTOOLCHAIN", "local").env("GOPROXY", "off");
    // Each crate of a policy in Rust is a separate workspace; they share this target directory.
    command.env("CARGO_TARGET_DIR", std::path::absolute(target().join("languages/rust")).expect("a path"));
    command
}

/// Compilation cache shared by the command and the tests, because some policies take tens of seconds to compile.
pub(crate) fn cache() -> PathBuf {
    std::path::absolute(target().join("languages/cache")).expect("a path")
}

/// Options with the shared compilation cache and longer time limits.
#[must_use]
pub fn cached() -> PolicyDirOptions {
    let mut options = PolicyDirOptions::default();
    options.compile.cache = Some(cache().join("hotpick"));
    // Interpreted policies are slow in a debug build, on a machine that runs other tests at the same time.
    options.limits.pick *= 10;
    options.limits.update *= 10;
    options
}

/// Folder with the policies of a language.
#[must_use]
pub fn examples(language: &str) -> PathBuf {
    root().join("examples/policies").join(language)
}

/// Builds the policies of a project into a folder. Returns false, and prints a message, if a tool is missing.
///
/// # Panics
///
/// Panics if the build fails, and if a tool is missing although `HOTPICK_LANGUAGES` is `all`.
#[must_use]
pub fn build(project: &Path, out: &Path) -> bool {
    let output = hotpick().arg("build").arg(project).arg("--out").arg(out).output().expect("hotpick runs");
    let message = said(&output);
    let is_missing = message.contains(", which builds these policies: ")
        || message.contains("no rustc on this machine can build policies");
    if is_missing && std::env::var_os("HOTPICK_LANGUAGES").is_none_or(|which| which != "all") {
        eprintln!("skipped {}: {message} (run .ci/languages to install all tools)", project.display());
        return false;
    }
    assert!(output.status.success(), "{}: {message}", project.display());
    true
}

/// Standard error of a command, without trailing white space.
#[must_use]
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim_end().to_owned()
}
