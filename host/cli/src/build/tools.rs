//! Build tools of other languages: how they are found, and what to install if they are missing.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

/// A tool, and the command that starts it on this machine.
#[derive(Debug)]
pub(super) struct Tool {
    name: &'static str,
    program: PathBuf,
    arguments: &'static [&'static str],
}

impl Tool {
    /// Finds a tool in the project's `node_modules`, or on the PATH.
    ///
    /// # Errors
    ///
    /// The tool is in neither. The error ends with `advice`, which says how to install the tool.
    pub(super) fn find(name: &'static str, project: &Path, advice: &str) -> anyhow::Result<Self> {
        let own = project.join("node_modules/.bin").join(name);
        let program = [own].into_iter().chain(on_path(name)).find(|path| path.is_file());
        let program =
            program.with_context(|| format!("cannot find {name}, which builds these policies: {advice}"))?;
        Ok(Self { name, program, arguments: &[] })
    }

    /// Finds Zig: a program, or else the Python package `ziglang`.
    pub(super) fn zig(project: &Path) -> anyhow::Result<Self> {
        let advice = "install Zig 0.16 or later, for example with `pip install ziglang`";
        Self::find("zig", project, advice).or_else(|error| {
            let has_package = |python: &PathBuf| {
                let import = Command::new(python).args(["-c", "import ziglang"]).output();
                python.is_file() && import.is_ok_and(|output| output.status.success())
            };
            match on_path("python3").find(has_package) {
                Some(program) => Ok(Self { name: "zig", program, arguments: &["-m", "ziglang"] }),
                None => Err(error),
            }
        })
    }

    /// Runs the tool in a folder. Its output is printed only if it fails.
    pub(super) fn run<A: AsRef<OsStr>>(
        &self,
        folder: &Path,
        arguments: impl IntoIterator<Item = A>,
        environment: &[(&str, &str)],
    ) -> anyhow::Result<()> {
        let mut command = Command::new(&self.program);
        command.args(self.arguments).args(arguments).current_dir(folder).envs(environment.iter().copied());
        let output = command.output().with_context(|| format!("cannot run {:?}", self.program))?;
        if !output.status.success() {
            // Some tools print errors to stdout, others to stderr.
            eprint!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            bail!("{} failed to build the policy: see its output above", self.name);
        }
        Ok(())
    }
}

/// Returns the paths that a program of this name may have, in the order of PATH.
fn on_path(name: &str) -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(name)).collect::<Vec<_>>().into_iter()
}

/// Returns a path as text, to be used within an argument.
pub(super) fn text(path: &Path) -> anyhow::Result<&str> {
    let text = path.to_str();
    ensure!(text.is_some(), "path {path:?} is not valid UTF-8, which the build tools need: rename it");
    Ok(text.unwrap_or_default())
}
