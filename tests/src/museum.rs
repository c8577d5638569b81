//! The museum: components of past releases, in every language.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::languages::LANGUAGES;

/// Path of the museum, which has a folder for each release.
#[must_use]
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("museum")
}

/// Reads a component, and decompresses it unless its extension is `wasm`.
///
/// # Panics
///
/// Panics if the file cannot be read or decompressed.
#[must_use]
pub fn bytes(file: &Path) -> Vec<u8> {
    let bytes = std::fs::read(file).unwrap_or_else(|error| panic!("{file:?}: {error}"));
    if file.extension().is_some_and(|extension| extension == "wasm") {
        return bytes;
    }
    let mut whole = Vec::new();
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(&*bytes).expect("a zstd header");
    decoder.read_to_end(&mut whole).expect("valid zstd data");
    whole
}

/// Name of each language, and a policy written in it.
///
/// # Panics
///
/// Panics if a language has no policy in the museum.
#[must_use]
pub fn languages() -> Vec<(String, Vec<u8>)> {
    let release = folder().join("0.1.0");
    let of = |language: &str| {
        let files =
            std::fs::read_dir(&release).expect("a folder of the release").flatten().map(|entry| entry.path());
        let mut files = files.filter(|file| {
            file.file_name().is_some_and(|name| name.to_string_lossy().split('.').next() == Some(language))
        });
        files.next().unwrap_or_else(|| panic!("{release:?} has no policy in {language}"))
    };
    LANGUAGES.iter().map(|language| ((*language).to_owned(), bytes(&of(language)))).collect()
}
