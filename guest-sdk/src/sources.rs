//! The SDK's own sources, for tools that put them into a project.

/// The files of the SDK: path in its folder, and content. There is no `Cargo.toml` among them.
pub const SOURCES: &[(&str, &str)] = &[
    ("src/answers.rs", include_str!("answers.rs")),
    ("src/bindings.rs", include_str!("bindings.rs")),
    ("src/call.rs", include_str!("call.rs")),
    ("src/component.rs", include_str!("component.rs")),
    ("src/config.rs", include_str!("config.rs")),
    ("src/config/kinds.rs", include_str!("config/kinds.rs")),
    ("src/config/making.rs", include_str!("config/making.rs")),
    ("src/connections.rs", include_str!("connections.rs")),
    ("src/env.rs", include_str!("env.rs")),
    ("src/fake.rs", include_str!("fake.rs")),
    ("src/group.rs", include_str!("group.rs")),
    ("src/json.rs", include_str!("json.rs")),
    ("src/key.rs", include_str!("key.rs")),
    ("src/lib.rs", include_str!("lib.rs")),
    ("src/map.rs", include_str!("map.rs")),
    ("src/metrics.rs", include_str!("metrics.rs")),
    ("src/parts.rs", include_str!("parts.rs")),
    ("src/random.rs", include_str!("random.rs")),
    ("src/recent.rs", include_str!("recent.rs")),
    ("src/ring.rs", include_str!("ring.rs")),
    ("src/set.rs", include_str!("set.rs")),
    ("src/sources.rs", include_str!("sources.rs")),
    ("src/states.rs", include_str!("states.rs")),
    ("src/stats.rs", include_str!("stats.rs")),
    ("src/stride.rs", include_str!("stride.rs")),
    ("src/testing.rs", include_str!("testing.rs")),
    ("src/testing/histories.rs", include_str!("testing/histories.rs")),
    ("src/testing/lazy.rs", include_str!("testing/lazy.rs")),
    ("src/testing/world.rs", include_str!("testing/world.rs")),
    ("src/timers.rs", include_str!("timers.rs")),
    ("wit/policy.wit", include_str!("../wit/policy.wit")),
];

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    #[test]
    fn no_source_is_missing() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (mut folders, mut found) = (vec![root.join("src")], vec!["wit/policy.wit".to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let relative = path.strip_prefix(root).map(PathBuf::from).expect("below the root");
                    found.push(relative.to_string_lossy().replace('\\', "/"));
                }
            }
        }
        found.sort();
        let mut listed: Vec<_> = SOURCES.iter().map(|(path, _)| (*path).to_owned()).collect();
        listed.sort();
        assert_eq!(listed, found);
    }
}
