//! `hotpick build`: builds components from the sources of policies, with the usual tool of each language.

mod language;
mod manifest;
mod output;
mod project;
mod rust;
mod rustc;
mod script;
mod sources;
mod toolchain;
mod tools;
mod trial;
mod watch;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use self::language::Compiler;
pub(crate) use self::language::Language;
use self::output::Output;
use self::project::{Project, Source};
pub(crate) use self::toolchain::{Arguments as ToolchainArguments, run as toolchain};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Folder with policies, as created by `hotpick new` (for Rust a crate or a folder of crates), or a folder of such
    /// folders; or a .wat file to build; or a .wasm file to seal.
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Output folder; by default `dist` in the folder of the policies, or the folder of the file.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Copy each policy that is built into this folder, too, such as the policy directory of a sidecar.
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// Configuration to try policies out with, instead of that in their settings (NAME.toml in the folders above or in the
    /// project).
    #[arg(long, value_name = "JSON")]
    config: Option<String>,
    /// Build again whenever a source is saved, until Ctrl-C. With --into, a sidecar picks with the policy at once.
    #[arg(long, conflicts_with = "check")]
    watch: bool,
    /// Build nothing: fail if a built policy is missing, was changed, or is older than its sources. Only for policies
    /// in Rust.
    #[arg(long)]
    check: bool,
    /// Longest time that a tool of a language may take for one policy [s]. Not for cargo.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    time_limit: u64,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    // Endpoints of the trial need a Tokio runtime, even simulated ones.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let _within = runtime.enter();
    end_tools_on_signals();
    if arguments.watch {
        return watch::run(arguments);
    }
    build(arguments)?;
    Ok(ExitCode::SUCCESS)
}

/// Ends this command on a signal, with the tools that it runs.
fn end_tools_on_signals() {
    let Ok(mut signals) = crate::signals::EndSignals::new() else { return };
    tokio::spawn(async move {
        signals.next().await;
        tools::kill_all();
        std::process::exit(130);
    });
}

/// Builds, or checks, everything in the path of the arguments.
fn build(arguments: &Arguments) -> anyhow::Result<()> {
    let path = &arguments.path;
    if path.extension().is_some_and(|extension| extension == "wat" || extension == "wasm") {
        ensure!(!arguments.check, "cannot check {path:?}: --check is only for policies in Rust");
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        return build_file(path, &output(arguments, folder.unwrap_or(Path::new("."))));
    }
    let path = &fs::canonicalize(path).with_context(|| format!("cannot open folder {path:?}"))?;
    let projects = Project::find(path)?;
    if arguments.check {
        return projects.iter().try_for_each(|project| check(project, arguments));
    }
    if arguments.out.is_some() || arguments.into.is_some() {
        have_names_of_their_own(&projects)?;
    }
    all(projects.iter().map(|project| build_project(project, arguments)))
}

/// Goes on after an error, so that one policy does not hold up others. Returns the last error, and prints those before.
fn all(results: impl Iterator<Item = anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut last = Ok(());
    for error in results.filter_map(Result::err) {
        if let Err(before) = std::mem::replace(&mut last, Err(error)) {
            eprintln!("hotpick: {before:#}");
        }
    }
    last
}

fn output(arguments: &Arguments, folder: &Path) -> Output {
    let out = arguments.out.clone().unwrap_or_else(|| folder.to_owned());
    Output::new(out, arguments.into.clone(), arguments.config.clone())
}

fn check(project: &Project, arguments: &Arguments) -> anyhow::Result<()> {
    let Project { folder, language } = project;
    ensure!(
        *language == Language::Rust,
        "cannot check {folder:?}: --check is only for policies in Rust, and these are in {language}"
    );
    let out = arguments.out.clone().unwrap_or_else(|| folder.join("dist"));
    rust::check(folder, &out)
}

fn build_project(project: &Project, arguments: &Arguments) -> anyhow::Result<()> {
    let Project { folder, language } = project;
    let output = output(arguments, &folder.join("dist"));
    if *language == Language::Rust {
        return rust::build(folder, &output);
    }
    let scratch = tempfile::tempdir().context("cannot create a temporary folder for the build")?;
    let compiler = Compiler::new(project, scratch.path(), Duration::from_secs(arguments.time_limit));
    let build = |source: &Source| {
        let name = &source.name;
        eprintln!("building {name} in {language}");
        let wasm = compiler.compile(source).with_context(|| format!("policy {name:?}"))?;
        let config = output.config(name, folder)?;
        output.write(name, &trial::component(name, &wasm, &language.to_string(), config.as_deref())?)
    };
    all(project.sources()?.iter().map(build))
}

/// Checks that projects that are built into one folder have no policies of the same name.
fn have_names_of_their_own(projects: &[Project]) -> anyhow::Result<()> {
    let mut all = BTreeMap::new();
    for project in projects.iter().filter(|project| project.language != Language::Rust) {
        for source in project.sources()? {
            let file = project.folder.join(&source.path);
            if let Some(other) = all.insert(source.name.clone(), file.clone()) {
                let name = source.name;
                bail!(
                    "{other:?} and {file:?} are both the policy {name:?}: build them into folders of their own"
                );
            }
        }
    }
    Ok(())
}

/// Builds a component from a `.wat` file, or seals a `.wasm` file that another tool has built.
fn build_file(path: &Path, output: &Output) -> anyhow::Result<()> {
    let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let what = if path.extension().is_some_and(|extension| extension == "wat") { "WAT" } else { "a file" };
    let config = output.config(name, path.parent().unwrap_or(Path::new(".")))?;
    output.write(name, &trial::component(name, &wat::parse_file(path)?, what, config.as_deref())?)
}
