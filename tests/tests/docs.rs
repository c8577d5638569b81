//! The documentation: its commands run, its files parse, and its links have targets. Its programs are doctests
//! (`tests/src/lib.rs`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use hotpick_tests::peers;

/// A fenced code block of a page.
struct Block {
    file: PathBuf,
    line: usize,
    language: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the root")
}

/// Returns all pages: those of the root, of `docs` and of the packages.
fn pages() -> Vec<PathBuf> {
    let root = root();
    let mut pages = Vec::new();
    let mut folders = vec![root.join("docs")];
    for folder in ["", "host", "host/cli", "guest-sdk", "policies/dist", "examples/echo"] {
        let entries = fs::read_dir(root.join(folder)).expect("a folder");
        pages.extend(entries.map(|entry| entry.expect("an entry").path()).filter(|path| is_page(path)));
    }
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if is_page(&path) {
                pages.push(path);
            }
        }
    }
    assert!(pages.len() > 40, "{} pages", pages.len());
    pages
}

fn is_page(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "md")
}

fn blocks() -> Vec<Block> {
    let mut blocks = Vec::new();
    for file in pages() {
        let text = fs::read_to_string(&file).expect("text");
        let mut open: Option<Block> = None;
        for (number, line) in text.lines().enumerate() {
            match (line.trim_start().strip_prefix("```"), &mut open) {
                (Some(language), None) => {
                    let language = language.split(',').next().unwrap_or_default().to_owned();
                    open =
                        Some(Block { file: file.clone(), line: number + 1, language, text: String::new() });
                }
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (None, Some(block)) => {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{file:?} ends within a block");
    }
    blocks
}

/// Commands of the README that only CI runs: one runs this test, the other takes as long as all tests.
const OF_CI: [&str; 2] = ["cargo run --release -- demo", "cargo test --workspace"];

#[test]
fn commands_run() {
    let hotpick = PathBuf::from(peers::built("hotpick").get_program());
    let bin = hotpick.parent().expect("a folder");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let mut run = 0;
    let is_of_ci = |line: &str| OF_CI.iter().any(|command| line.starts_with(command));
    let all = blocks();
    let shell = all.iter().filter(|block| block.language == "sh" && !block.text.lines().all(is_of_ci));
    // The blocks of a page are one session.
    let mut pages: BTreeMap<_, String> = BTreeMap::new();
    for block in shell {
        pages.entry(&block.file).or_default().push_str(&block.text);
    }
    for (file, text) in pages {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = folder.path().join("cache");
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", &text]).current_dir(folder.path());
        let output = command.env("PATH", &path).env("XDG_CACHE_HOME", cache).output().expect("bash");
        let stderr = String::from_utf8_lossy(&output.stderr);
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{file:?}: {stdout}{stderr}");
        run += 1;
    }
    assert!(run >= 3, "the blocks of {run} pages were run");
}

/// Commands of transcripts (`$ ...`) other than `hotpick`.
const OTHERS: [&str; 7] = ["cargo", "cp", "curl", "head", "mkdir", "mv", "rustup"];

/// Transcripts need servers, toolchains or a person. `hotpick` must at least know their commands and arguments, and
/// projects are created.
#[test]
fn transcripts_have_commands_that_exist() {
    let hotpick = peers::built("hotpick").get_program().to_owned();
    let mut known = 0;
    for block in blocks().iter().filter(|block| block.language == "console") {
        let folder = tempfile::tempdir().expect("a folder");
        for line in block.text.lines().filter_map(|line| line.strip_prefix("$ ")) {
            let (program, arguments) = line.split_once(' ').unwrap_or((line, ""));
            if program != "hotpick" {
                assert!(OTHERS.contains(&program), "{:?}: {line}", block.file);
                continue;
            }
            let run = |more: &str| {
                let (arguments, _) = arguments.split_once(" #").unwrap_or((arguments, ""));
                let mut shell = Command::new("bash");
                shell.args(["-c", &format!("\"$HOTPICK\" {arguments} {more}")]).env("HOTPICK", &hotpick);
                let output = shell.current_dir(folder.path()).output().expect("bash");
                let stderr = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{:?}: {line}: {stderr}", block.file);
            };
            // The command reads its arguments in order: an unknown one before `--help` is an error.
            run("--help");
            if arguments.starts_with("new ") {
                run("");
            }
            known += 1;
        }
    }
    assert!(known > 10, "{known} commands");
}

#[test]
fn files_parse() {
    let (mut toml, mut json) = (0, 0);
    for Block { file, line, language, text } in blocks() {
        match language.as_str() {
            "toml" => {
                let parsed = text.parse::<toml::Table>();
                assert!(parsed.is_ok(), "{file:?}:{line}: {}", parsed.expect_err("malformed"));
                toml += 1;
            }
            "json" => {
                let parsed = serde_json::from_str::<serde_json::Value>(&text);
                assert!(parsed.is_ok(), "{file:?}:{line}: {}", parsed.expect_err("malformed"));
                json += 1;
            }
            _ => {}
        }
    }
    assert!(toml >= 4 && json >= 15, "{toml} blocks of TOML and {json} of JSON");
}

/// Returns the anchor of a heading, like GitHub and mdBook.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Beginnings of links to files of this repository.
const REPOSITORY: [&str; 2] =
    ["https://github.com/hotpick/hotpick/blob/main/", "https://github.com/hotpick/hotpick/tree/main/"];

/// Returns whether a relative link leads out of a folder.
fn leaves(file: &Path, target: &str, folder: &Path) -> bool {
    let to = file.with_file_name("").join(target.split('#').next().unwrap_or_default());
    !target.contains("://") && to.canonicalize().is_ok_and(|to| !to.starts_with(folder))
}

#[test]
fn links_lead_somewhere() {
    let (mut links, docs) = (0, root().join("docs"));
    for file in pages() {
        let text = fs::read_to_string(&file).expect("text");
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap_or_default();
            // A page of the book cannot have a relative path to a file outside of the book.
            let of_repository = REPOSITORY.iter().find_map(|url| target.strip_prefix(url));
            if let Some(path) = of_repository {
                assert!(root().join(path).exists(), "{file:?} links to {target}, which does not exist");
                continue;
            }
            assert!(
                !(file.starts_with(&docs) && leaves(&file, target, &docs)),
                "{file:?} links out of the book"
            );
            if target.contains("://") || target.contains(' ') || target.is_empty() {
                continue;
            }
            let (path, fragment) = target.split_once('#').unwrap_or((target, ""));
            let to = if path.is_empty() { file.clone() } else { file.with_file_name("").join(path) };
            assert!(to.exists(), "{file:?} links to {target}, which does not exist");
            if !fragment.is_empty() && is_page(&to) {
                let page = fs::read_to_string(&to).expect("text");
                let exists = page.lines().any(|line| line.starts_with('#') && anchor(line) == fragment)
                    || page.contains(&format!("id=\"{fragment}\""));
                assert!(exists, "{file:?} links to {target}, but the heading does not exist");
            }
            links += 1;
        }
    }
    assert!(links > 100, "{links} links");
}

/// Every page of the book is in its table of contents.
#[test]
fn the_table_of_contents_is_complete() {
    let docs = root().join("docs");
    let summary = fs::read_to_string(docs.join("SUMMARY.md")).expect("a summary");
    for page in pages().iter().filter_map(|page| page.strip_prefix(&docs).ok()) {
        let is_listed = summary.contains(&format!("({})", page.display()));
        assert!(is_listed || page == Path::new("SUMMARY.md"), "{page:?} is not in SUMMARY.md");
    }
}
