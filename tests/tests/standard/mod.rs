//! Tests of the standard policies as shipped.

mod behaviour;
mod pages;
mod trials;

use hotpick_tests::STANDARD;

/// `STANDARD` lists every file in `policies/dist`.
#[test]
fn no_policy_is_left_out() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/dist");
    let files = std::fs::read_dir(folder).expect("a folder");
    let name = |file: std::fs::DirEntry| {
        file.file_name().into_string().ok()?.strip_suffix(".wasm").map(str::to_owned)
    };
    let mut names: Vec<_> = files.flatten().filter_map(name).collect();
    names.sort();
    let mut known = STANDARD;
    known.sort_unstable();
    assert_eq!(names, known);
}
