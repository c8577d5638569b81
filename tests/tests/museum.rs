//! Components of past releases, which load for ever.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use hotpick::policy::ConformanceOptions;
use hotpick::policy_dir;
use hotpick_tests::languages::{LANGUAGES, cached};

fn museum() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("museum")
}

fn bytes(file: &Path) -> Vec<u8> {
    let bytes = std::fs::read(file).expect("a file");
    if file.extension().is_some_and(|extension| extension == "wasm") {
        return bytes;
    }
    let mut whole = Vec::new();
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(&*bytes).expect("compressed");
    decoder.read_to_end(&mut whole).expect("compressed");
    whole
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_a_policy_is_a_policy() {
    let tried = tokio::task::spawn_blocking(|| {
        let folder = tempfile::tempdir().expect("a folder");
        for release in
            std::fs::read_dir(museum()).expect("a museum").flatten().filter(|entry| entry.path().is_dir())
        {
            let mut languages = Vec::new();
            for exhibit in release.path().read_dir().expect("a release").flatten() {
                let language =
                    exhibit.file_name().to_string_lossy().split('.').next().expect("a name").to_owned();
                let file = folder.path().join(format!("{language}.wasm"));
                std::fs::write(&file, bytes(&exhibit.path())).expect("written");
                let policy = policy_dir::load(&file, &cached());
                let policy = policy.unwrap_or_else(|error| panic!("{:?} {error}", exhibit.path()));
                let mut options = ConformanceOptions::default();
                options.picks = 10_000;
                for seen in policy.conformance(&options) {
                    assert!(seen.result.is_ok(), "{:?} {seen:?}", exhibit.path());
                }
                languages.push(language);
            }
            for language in LANGUAGES {
                assert!(
                    languages.iter().any(|its| its == language),
                    "{:?} has no {language}",
                    release.path()
                );
            }
        }
    });
    tried.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
}
