//! The standard policies, as the components that are shipped.

mod behaviour;
mod pages;
mod trials;

/// All of them.
const POLICIES: [&str; 16] = [
    "bounded_hash",
    "canary",
    "color",
    "least_request",
    "maglev",
    "outlier",
    "p2c_ewma",
    "pick_first",
    "priority",
    "random",
    "ring_hash",
    "round_robin",
    "sticky",
    "subset",
    "weighted_round_robin",
    "zone",
];

/// The list is that of the folder.
#[test]
fn no_policy_is_left_out() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/dist");
    let files = std::fs::read_dir(folder).expect("a folder");
    let name = |file: std::fs::DirEntry| {
        file.file_name().into_string().ok()?.strip_suffix(".wasm").map(str::to_owned)
    };
    let mut names: Vec<_> = files.flatten().filter_map(name).collect();
    names.sort();
    assert_eq!(names, POLICIES);
}
