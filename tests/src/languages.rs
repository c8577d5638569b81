//! The policies of `examples/policies`, built as their authors would.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use hotpick::directory::PolicyDirOptions;

use crate::peers::{built, root, target};

/// What `hotpick new --lang` takes, which are the folders of the examples, too; and `wat`.
pub const LANGUAGES: [&str; 10] =
    ["rust", "c", "cpp", "zig", "go", "python", "javascript", "typescript", "assemblyscript", "wat"];

/// Gets the tools of all languages, if they are not there.
///
/// # Panics
///
/// The script fails.
pub fn install() {
    let script = root().join(".ci/languages");
    let status = Command::new(script).stdout(std::process::Stdio::null()).status().expect("bash runs");
    assert!(status.success(), ".ci/languages failed: see above");
}

/// The command `hotpick`, with the tools that `.ci/languages` has got on its PATH.
#[must_use]
pub fn hotpick() -> Command {
    let tools = std::path::absolute(target().join("languages/bin")).expect("a path");
    let mut command = built("hotpick");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let paths = [tools.clone()].into_iter().chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(paths).expect("a path"));
    command.env("XDG_CACHE_HOME", cache());
    command.env("GOTOOLCHAIN", "local").env("GOPROXY", "off");
    // Of the crates in Rust, which are a workspace of their own wherever they are.
    command.env("CARGO_TARGET_DIR", std::path::absolute(target().join("languages/rust")).expect("a path"));
    let rustc = tools.join("hotpick-rustc");
    if rustc.exists() {
        command.env("HOTPICK_RUSTC", rustc);
    }
    command
}

/// Where the command and the tests keep what they have compiled, of which some takes tens of seconds.
pub(crate) fn cache() -> PathBuf {
    std::path::absolute(target().join("languages/cache")).expect("a path")
}

/// Options with that cache, and with time.
#[must_use]
pub fn cached() -> PolicyDirOptions {
    let mut options = PolicyDirOptions::default();
    options.compile.cache = Some(cache().join("hotpick"));
    // An interpreter under a debug build of the host, on a machine that runs other tests meanwhile.
    options.limits.pick *= 10;
    options.limits.update *= 10;
    options
}

/// The folder with the policies of a language.
#[must_use]
pub fn examples(language: &str) -> PathBuf {
    root().join("examples/policies").join(language)
}

/// Builds the policies of a project into a folder; false if a tool is missing, which is said, and is no fault unless
/// `HOTPICK_LANGUAGES` is `all`.
///
/// # Panics
///
/// They cannot be built.
#[must_use]
pub fn build(project: &Path, out: &Path) -> bool {
    let output = hotpick().arg("build").arg(project).arg("--out").arg(out).output().expect("hotpick runs");
    let said = said(&output);
    let is_missing = said.contains(", which builds these policies: ")
        || said.contains("no installed rustc has the target");
    if is_missing && std::env::var_os("HOTPICK_LANGUAGES").is_none_or(|which| which != "all") {
        eprintln!("skipped {}: {said} (.ci/languages gets all of them)", project.display());
        return false;
    }
    assert!(output.status.success(), "{}: {said}", project.display());
    true
}

/// What a command has said when it failed.
#[must_use]
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim_end().to_owned()
}
