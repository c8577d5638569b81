//! Lists the files of a directory that are policies or settings.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::files::Fingerprint;

/// Returns the name of the policy that a file belongs to.
pub(super) fn stem(file: &str) -> &str {
    file.strip_suffix(".wasm").or(file.strip_suffix(".toml")).unwrap_or(file)
}

/// Lists the policy files of a directory by name, each with its fingerprint. Their names end in `.wasm` or `.toml`.
/// Hidden files, and temporary files of editors and tools, are skipped. A `.wasm` file that cannot be inspected (a
/// dangling symlink) is treated as absent.
pub(super) fn list(directory: &Path) -> io::Result<BTreeMap<String, Fingerprint>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        // A name that is not UTF-8 is not a policy name. Its lossy form appears in the error.
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

/// Returns the fingerprint of a file. Settings that cannot be inspected count as present: they may disable the policy.
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
