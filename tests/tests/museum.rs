//! Components of past releases, which must load forever.

use hotpick::directory;
use hotpick::policy::ConformanceOptions;
use hotpick_tests::languages::{LANGUAGES, cached};
use hotpick_tests::museum::{bytes, folder};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_a_policy_is_a_policy() {
    let tried = tokio::task::spawn_blocking(|| {
        let written = tempfile::tempdir().expect("a folder");
        for release in
            std::fs::read_dir(folder()).expect("a museum").flatten().filter(|entry| entry.path().is_dir())
        {
            let mut languages = Vec::new();
            for exhibit in release.path().read_dir().expect("a release").flatten() {
                let language =
                    exhibit.file_name().to_string_lossy().split('.').next().expect("a name").to_owned();
                let file = written.path().join(format!("{language}.wasm"));
                std::fs::write(&file, bytes(&exhibit.path())).expect("written");
                let policy = directory::load(&file, &cached());
                let policy = policy.unwrap_or_else(|error| panic!("{:?} {error}", exhibit.path()));
                let mut options = ConformanceOptions::default();
                options.picks = 10_000;
                for check in policy.conformance(&options) {
                    assert!(check.passed, "{:?} {check:?}", exhibit.path());
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
