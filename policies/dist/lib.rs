//! hotpick's standard policies, built as WebAssembly components.
//!
//! Each is a file for a policy directory: write `color` to `policies.d/color.wasm`, and channels that use the
//! directory pick by it.
//!
//! ```
//! # fn main() -> std::io::Result<()> {
//! # let directory = std::env::temp_dir().join("hotpick-policies-example");
//! # std::fs::create_dir_all(&directory)?;
//! let color = hotpick_policies::get("color").ok_or(std::io::ErrorKind::NotFound)?;
//! std::fs::write(directory.join("color.wasm"), color)?;
//! # std::fs::remove_dir_all(&directory)
//! # }
//! ```

/// All policies, by name: the content of each `.wasm` file.
pub const ALL: &[(&str, &[u8])] = &[
    ("bounded_hash", include_bytes!("bounded_hash.wasm")),
    ("canary", include_bytes!("canary.wasm")),
    ("color", include_bytes!("color.wasm")),
    ("least_request", include_bytes!("least_request.wasm")),
    ("maglev", include_bytes!("maglev.wasm")),
    ("outlier", include_bytes!("outlier.wasm")),
    ("p2c_ewma", include_bytes!("p2c_ewma.wasm")),
    ("pick_first", include_bytes!("pick_first.wasm")),
    ("priority", include_bytes!("priority.wasm")),
    ("random", include_bytes!("random.wasm")),
    ("ring_hash", include_bytes!("ring_hash.wasm")),
    ("round_robin", include_bytes!("round_robin.wasm")),
    ("sticky", include_bytes!("sticky.wasm")),
    ("subset", include_bytes!("subset.wasm")),
    ("weighted_round_robin", include_bytes!("weighted_round_robin.wasm")),
    ("zone", include_bytes!("zone.wasm")),
];

/// Returns the `.wasm` file of the policy of this name.
#[must_use]
pub fn get(name: &str) -> Option<&'static [u8]> {
    ALL.iter().find(|(known, _)| *known == name).map(|(_, file)| *file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_of_the_folder_are_here() {
        let folder = std::fs::read_dir(env!("CARGO_MANIFEST_DIR")).expect("the folder");
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
            name.strip_suffix(".wasm").map(str::to_owned)
        };
        let mut names: Vec<_> = folder.filter_map(name).collect();
        names.sort();
        assert_eq!(names, ALL.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        assert!(get("color").is_some_and(|file| file.starts_with(b"\0asm")) && get("Color").is_none());
    }
}
