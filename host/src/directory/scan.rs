//! Which files of a directory are policies, and their settings.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::files::Fingerprint;

/// The name of the policy that a file is of.
pub(super) fn stem(file: &str) -> &str {
    file.strip_suffix(".wasm").or(file.strip_suffix(".toml")).unwrap_or(file)
}

/// The policy files in a directory, by name, each with its fingerprint: what ends in `.wasm` or `.toml` and is not
/// an editor's, a tool's or a hidden file. What cannot be looked at (a dangling symlink) is not there.
pub(super) fn list(directory: &Path) -> io::Result<BTreeMap<String, Fingerprint>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        // A name that is not UTF-8 cannot be a policy's; shown, it names itself in the refusal.
        let name = entry.file_name().to_string_lossy().into_owned();
        if (name.ends_with(".wasm") || name.ends_with(".toml"))
            && !name.starts_with(['.', '_'])
            && let Some(fingerprint) = fingerprint(&entry)
        {
            files.insert(name, fingerprint);
        }
    }
    Ok(files)
}

/// Settings that cannot be looked at are there nevertheless: they may say that the policy is not to be used.
fn fingerprint(entry: &std::fs::DirEntry) -> Option<Fingerprint> {
    let path = entry.path();
    let is_settings = path.extension().is_some_and(|extension| extension == "toml");
    Fingerprint::at(&path).or_else(|| if is_settings { Fingerprint::of_link(&path) } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_files_are_passed_over() {
        let directory = tempfile::tempdir().expect("a directory");
        for name in
            ["a.wasm", ".a.wasm", "_a.wasm", "a.wasm~", "a.wasm.tmp", "a.toml", "a.wasm.swp", "B c.wasm"]
        {
            std::fs::write(directory.path().join(name), "x").expect("written");
        }
        std::fs::create_dir(directory.path().join("..data")).expect("made");
        let names: Vec<_> = list(directory.path()).expect("listed").into_keys().collect();
        assert_eq!(names, ["B c.wasm", "a.toml", "a.wasm"]);
    }
}
