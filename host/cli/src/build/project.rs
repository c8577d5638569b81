//! Projects: folders with policies in one language, and the policies in them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use hotpick::policy::is_policy_name;

use super::language::{Language, without_comments};

/// A folder with policies in one language.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Project {
    pub(super) folder: PathBuf,
    pub(super) language: Language,
}

/// A policy of a project in another language than Rust.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// Name of the policy.
    pub(super) name: String,
    /// Path of its file, or of its package, relative to the project.
    pub(super) path: PathBuf,
}

/// Files that say what a project's language is.
const MANIFESTS: [(&str, Language); 6] = [
    ("Cargo.toml", Language::Rust),
    ("go.mod", Language::Go),
    ("pyproject.toml", Language::Python),
    ("asconfig.json", Language::AssemblyScript),
    ("tsconfig.json", Language::TypeScript),
    ("package.json", Language::JavaScript),
];

/// Languages that are recognized by their files. Python is the last: its files are also the tools of other projects.
const BY_FILES: [Language; 5] = [Language::Zig, Language::Cpp, Language::C, Language::Wat, Language::Python];

/// Folders that contain no sources of policies.
pub(super) const SKIPPED: [&str; 6] =
    ["target", "dist", "node_modules", "hotpick", "hotpick-guest", "__pycache__"];

impl Project {
    /// Finds the projects in a folder: the folder itself, or else those among its subfolders.
    pub(super) fn find(folder: &Path) -> anyhow::Result<Vec<Self>> {
        ensure!(folder.is_dir(), "{folder:?} is not a folder");
        let own = language_of(folder);
        let is_project = |language| {
            language == Language::Rust || !sources(folder, language).unwrap_or_default().is_empty()
        };
        if let Some(language) = own.filter(|language| is_project(*language)) {
            return Ok(vec![Self { folder: folder.to_owned(), language }]);
        }
        // A manifest without policies may be that of tools for the folders below.
        let mut found = Vec::new();
        find_below(folder, DEEPEST, &mut found)?;
        if let Some(language) = own.filter(|_| found.is_empty()) {
            return Ok(vec![Self { folder: folder.to_owned(), language }]);
        }
        let is_in_workspace = || folder.ancestors().skip(1).any(|above| above.join("Cargo.toml").is_file());
        // The crates of a workspace are built together, in one build.
        if found.iter().all(|project| project.language == Language::Rust) && is_in_workspace() {
            return Ok(vec![Self { folder: folder.to_owned(), language: Language::Rust }]);
        }
        if found.is_empty() {
            bail!(no_policy(folder));
        }
        Ok(found)
    }

    /// Returns the policies of the project, sorted by name. A file without the mark of a policy is a part of others. Not for
    /// Rust, whose policies cargo knows.
    pub(super) fn sources(&self) -> anyhow::Result<Vec<Source>> {
        let Self { folder, language } = self;
        let mut sources = sources(folder, *language)?;
        sources.sort_by(|a, b| (&a.name, &a.path).cmp(&(&b.name, &b.path)));
        if let Some([a, b]) = sources.array_windows().find(|[a, b]| a.name == b.name) {
            bail!("{:?} and {:?} in {folder:?} are both the policy {:?}: rename one", a.path, b.path, a.name);
        }
        if sources.is_empty() {
            let (_, ending, mark) = language.files();
            let others = files(&place(folder, *language), ending)?;
            match others.first() {
                Some(file) => bail!(not_a_policy(file, *language, mark)),
                None => bail!("{folder:?} contains no policy in {language} (*.{ending})"),
            }
        }
        Ok(sources)
    }

    /// Returns the files of the project that belong to all of its policies: those without the mark of a policy.
    pub(super) fn helpers(&self) -> anyhow::Result<Vec<PathBuf>> {
        let (_, ending, _) = self.language.files();
        let mut helpers = files(&place(&self.folder, self.language), ending)?;
        helpers.retain(|file| !contains(file, self.language));
        Ok(helpers)
    }
}

/// Levels of folders in which projects are looked for.
const DEEPEST: u32 = 3;

fn find_below(folder: &Path, depth: u32, found: &mut Vec<Project>) -> anyhow::Result<()> {
    for path in subfolders(folder)? {
        match language_of(&path) {
            Some(language) => found.push(Project { folder: path, language }),
            None if depth > 1 => find_below(&path, depth - 1, found)?,
            None => {}
        }
    }
    Ok(())
}

fn no_policy(folder: &Path) -> String {
    // A file that would be one with the mark of a policy.
    for language in BY_FILES {
        let (_, ending, mark) = language.files();
        if let Some(file) =
            files(&place(folder, language), ending).ok().and_then(|files| files.into_iter().next())
        {
            return not_a_policy(&file, language, mark);
        }
    }
    format!(
        "no policy was found in {folder:?} or in its subfolders: create a project with `hotpick new NAME --lang LANGUAGE`"
    )
}

/// Says why a file is not a policy.
fn not_a_policy(file: &Path, language: Language, mark: &str) -> String {
    if contains(file, language) {
        return format!("{file:?} has a name that no policy can have: use a-z, 0-9, '_' and '-'");
    }
    format!("{file:?} is not a policy in {language}: it does not contain `{mark}`")
}

/// Returns the language of a project, by its manifest or by its files.
fn language_of(folder: &Path) -> Option<Language> {
    let by_manifest = MANIFESTS.iter().find(|(file, _)| folder.join(file).is_file());
    by_manifest.map(|(_, language)| *language).or_else(|| {
        let has = |language: &Language| sources(folder, *language).is_ok_and(|sources| !sources.is_empty());
        BY_FILES.into_iter().find(has)
    })
}

fn sources(folder: &Path, language: Language) -> anyhow::Result<Vec<Source>> {
    if language == Language::Go {
        return packages(folder);
    }
    let (_, ending, _) = language.files();
    let files = files(&place(folder, language), ending)?;
    let policies = files.into_iter().filter(|file| contains(file, language));
    let relative = |path: PathBuf| path.strip_prefix(folder).map(Path::to_owned).unwrap_or(path);
    Ok(policies.filter_map(|path| Some(Source { name: name_of(&path)?, path: relative(path) })).collect())
}

/// Returns the main packages of a Go module: that of the module itself, and those below.
fn packages(folder: &Path) -> anyhow::Result<Vec<Source>> {
    let mut found = Vec::new();
    let is_program = |path: &Path| {
        files(path, "go").is_ok_and(|files| files.iter().any(|file| contains(file, Language::Go)))
    };
    let mut folders = subfolders(folder)?;
    while let Some(path) = folders.pop() {
        if is_program(&path)
            && let Some(name) = name_of(&path)
        {
            found.push(Source { name, path: path.strip_prefix(folder)?.to_owned() });
        } else if path.strip_prefix(folder)?.components().count() < DEEPEST as usize {
            folders.extend(subfolders(&path)?);
        }
    }
    if is_program(folder)
        && let Some(name) = name_of(folder)
    {
        found.push(Source { name, path: PathBuf::from(".") });
    }
    Ok(found)
}

/// Returns the folder of a project's sources: the usual one of the language if it is there, otherwise the project's.
fn place(folder: &Path, language: Language) -> PathBuf {
    let (below, ..) = language.files();
    let usual = folder.join(below);
    if usual.is_dir() { usual } else { folder.to_owned() }
}

/// Returns the files of a folder with this extension, sorted.
fn files(folder: &Path, ending: &str) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {folder:?}"))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let is_plain = path.file_stem().is_some_and(|stem| !stem.to_string_lossy().contains('.'));
        if is_plain && path.extension().is_some_and(|its| its == ending) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn subfolders(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {folder:?}"))?;
    let mut folders = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let is_skipped =
            name.to_string_lossy().starts_with('.') || SKIPPED.iter().any(|skipped| name == *skipped);
        if !is_skipped && entry.path().is_dir() {
            folders.push(entry.path());
        }
    }
    folders.sort();
    Ok(folders)
}

/// Returns whether a file has the mark of a policy, apart from comments.
fn contains(file: &Path, language: Language) -> bool {
    let (_, _, mark) = language.files();
    let Ok(bytes) = fs::read(file) else { return false };
    let text = String::from_utf8_lossy(&bytes);
    // A generator, which is run and not built.
    let is_left_out = language == Language::Go && text.lines().any(|line| line.trim() == "//go:build ignore");
    let text = if language == Language::Wat { text.into_owned() } else { without_comments(language, &text) };
    !is_left_out && text.lines().any(|line| line.contains(mark) && !line.trim_start().starts_with("def "))
}

/// Returns the name of the policy in a file or a folder: `MyPolicy.c` is `my_policy`. `None`: no name of a policy.
fn name_of(path: &Path) -> Option<String> {
    let stem = if path.is_dir() { path.file_name() } else { path.file_stem() }?.to_str()?;
    let mut name = String::new();
    let mut was_lower = false;
    for c in stem.chars() {
        if c.is_ascii_uppercase() && was_lower {
            name.push('_');
        }
        was_lower = c.is_ascii_lowercase() || c.is_ascii_digit();
        name.push(if c == ' ' { '_' } else { c.to_ascii_lowercase() });
    }
    is_policy_name(&name).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, text).expect("written");
        }
        folder
    }

    fn found(files: &[(&str, &str)]) -> Vec<(String, Vec<String>)> {
        let folder = folder(files);
        let projects = Project::find(folder.path()).expect("projects");
        let names = |project: &Project| {
            let sources = project.sources().expect("sources");
            sources.into_iter().map(|source| source.name).collect()
        };
        projects.iter().map(|project| (project.language.to_string(), names(project))).collect()
    }

    fn one(language: &str, names: &[&str]) -> Vec<(String, Vec<String>)> {
        vec![(language.to_owned(), names.iter().map(|name| (*name).to_owned()).collect())]
    }

    #[test]
    fn ordinary_layouts_are_found() {
        assert_eq!(found(&[("src/MyPolicy.c", "policy_init"), ("src/util.c", "")]), one("C", &["my_policy"]));
        assert_eq!(found(&[("mine.c", "policy_init")]), one("C", &["mine"]));
        assert_eq!(found(&[("src/mine.cpp", "HOTPICK_POLICY(Mine)")]), one("C++", &["mine"]));
        assert_eq!(
            found(&[("go.mod", ""), ("a/main.go", "package main"), ("hotpick/hotpick.go", "package main")]),
            one("Go", &["a"])
        );
        assert_eq!(found(&[("policies/mine.py", "hotpick.export(Mine)")]), one("Python", &["mine"]));
        assert_eq!(
            found(&[("mine.py", "hotpick.export(Mine)"), ("helper.py", "")]),
            one("Python", &["mine"])
        );
        assert_eq!(
            found(&[("package.json", ""), ("src/mine.js", "= policy(Mine)"), ("src/help.js", "")]),
            one("JavaScript", &["mine"])
        );
    }

    #[test]
    fn a_program_at_the_root_has_the_name_of_the_folder() {
        let folder = folder(&[("Mine/go.mod", ""), ("Mine/main.go", "package main")]);
        let projects = Project::find(&folder.path().join("Mine")).expect("projects");
        let sources = projects[0].sources().expect("sources");
        assert_eq!(sources, [Source { name: "mine".to_owned(), path: PathBuf::from(".") }]);
    }

    #[test]
    fn projects_in_several_languages_are_found() {
        let all = found(&[
            ("a/go.mod", ""),
            ("a/main.go", "package main"),
            ("b/src/mine.c", "policy_init"),
            ("docs/text.md", ""),
        ]);
        assert_eq!(all, [one("Go", &["a"]), one("C", &["mine"])].concat());
        let crates = folder(&[("a/Cargo.toml", ""), ("b/Cargo.toml", "")]);
        let languages: Vec<_> = Project::find(crates.path())
            .expect("projects")
            .into_iter()
            .map(|project| project.language)
            .collect();
        assert_eq!(languages, [Language::Rust, Language::Rust]);
    }

    #[test]
    fn what_is_no_policy_is_said() {
        let empty = folder(&[]);
        let said = Project::find(empty.path()).expect_err("none").to_string();
        assert!(said.contains("no policy was found"), "{said}");
        let unmarked = folder(&[("package.json", ""), ("src/mine.js", "")]);
        let said = Project::find(unmarked.path()).expect("one")[0].sources().expect_err("none").to_string();
        assert!(said.contains("mine.js\" is not a policy in JavaScript"), "{said}");
        let twice = folder(&[("src/my_policy.c", "policy_init"), ("src/MyPolicy.c", "policy_init")]);
        let said = Project::find(twice.path()).expect("one")[0].sources().expect_err("two").to_string();
        assert!(said.contains("are both the policy \"my_policy\""), "{said}");
    }
}
