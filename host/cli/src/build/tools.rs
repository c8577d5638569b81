//! The tools of other languages: where they are, and what to install if they are not there.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

/// A tool, as it is called on this machine.
#[derive(Debug)]
pub(super) struct Tool {
    name: &'static str,
    program: PathBuf,
    arguments: &'static [&'static str],
}

impl Tool {
    /// Looks for it in the project (where npm puts it), and on the PATH. `advice`: what to do if it is in neither.
    pub(super) fn find(name: &'static str, project: &Path, advice: &str) -> anyhow::Result<Self> {
        let own = project.join("node_modules/.bin").join(name);
        let program = [own].into_iter().chain(on_path(name)).find(|path| path.is_file());
        let program =
            program.with_context(|| format!("{name} is not here, which builds these policies: {advice}"))?;
        Ok(Self { name, program, arguments: &[] })
    }

    /// Zig, which Python has as a package, too.
    pub(super) fn zig(project: &Path) -> anyhow::Result<Self> {
        let advice = "install Zig 0.16 or later, for instance by `pip install ziglang`";
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

    /// Runs it in a folder. What it says is said only if it fails.
    pub(super) fn run<A: AsRef<OsStr>>(
        &self,
        folder: &Path,
        arguments: impl IntoIterator<Item = A>,
        environment: &[(&str, &str)],
    ) -> anyhow::Result<()> {
        let mut command = Command::new(&self.program);
        command.args(self.arguments).args(arguments).current_dir(folder).envs(environment.iter().copied());
        let output = command.output().with_context(|| format!("run {:?}", self.program))?;
        if !output.status.success() {
            // Some complain on one, some on the other.
            eprint!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            bail!("{} could not build the policy: see above", self.name);
        }
        Ok(())
    }
}

fn on_path(name: &str) -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(name)).collect::<Vec<_>>().into_iter()
}

/// The text of a path, for arguments that are one with something else.
pub(super) fn text(path: &Path) -> anyhow::Result<&str> {
    let text = path.to_str();
    ensure!(text.is_some(), "{path:?} is not UTF-8, which tools do not take");
    Ok(text.unwrap_or_default())
}
