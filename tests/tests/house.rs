//! The structure of the host's sources: dependencies between files, and the size of files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

/// The rooms from bottom to top. A room uses only rooms below it.
const ROOMS: &[&str] = &[
    "setters",
    "text",
    "timeout",
    "headers",
    "backoff",
    "connectivity",
    "supervision",
    "activity",
    "net",
    "files",
    "workers",
    "waiting",
    "policy_version",
    "load_report",
    "retry",
    "service_config",
    "http2",
    "tls",
    "resolver",
    "subconn",
    "picker",
    "call",
    "transport",
    "lifecycle",
    "trace",
    "policy::limits",
    "policy::judge",
    "policy::compile",
    "policy::spec",
    "policy::instance",
    "policy::serve",
    "policy::wasm_policy",
    "policy::rollout",
    "policy::exercise",
    "policy",
    "directory",
    "balancer",
    "channel",
    "proxy",
    "etcd",
];

/// The largest file of logic, in lines without its tests.
const LARGEST: usize = 450;

/// One source file.
struct File {
    path: PathBuf,
    module: Vec<String>,
    /// Absolute paths that the file names, within the crate.
    names: BTreeSet<Vec<String>>,
    /// Re-exports: name to absolute path.
    exports: BTreeMap<String, Vec<String>>,
    /// Whether there are items other than modules and imports.
    has_logic: bool,
}

/// Collects the paths of a file that lead into the crate.
struct Names<'a> {
    module: &'a [String],
    found: BTreeSet<Vec<String>>,
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|argument| argument.is_ident("test"))
    })
}

/// Makes a path absolute. `None`: it leads out of the crate.
fn absolute(module: &[String], path: &[String]) -> Option<Vec<String>> {
    let (first, rest) = path.split_first()?;
    let mut base = match first.as_str() {
        "crate" => Vec::new(),
        "self" => module.to_vec(),
        "super" => module[..module.len().checked_sub(1)?].to_vec(),
        _ => return None,
    };
    for segment in rest {
        if segment == "super" {
            base.pop();
        } else {
            base.push(segment.clone());
        }
    }
    Some(base)
}

/// Collects all paths of an import tree, each with its local name.
fn leaves(tree: &syn::UseTree, prefix: &[String], out: &mut Vec<(Vec<String>, String)>) {
    let with = |name: &syn::Ident| [prefix, &[name.to_string()]].concat();
    match tree {
        syn::UseTree::Path(path) => leaves(&path.tree, &with(&path.ident), out),
        syn::UseTree::Name(name) if name.ident == "self" => {
            out.push((prefix.to_vec(), prefix.last().cloned().unwrap_or_default()));
        }
        syn::UseTree::Name(name) => out.push((with(&name.ident), name.ident.to_string())),
        syn::UseTree::Rename(rename) => out.push((with(&rename.ident), rename.rename.to_string())),
        syn::UseTree::Glob(_) => out.push((prefix.to_vec(), "*".to_owned())),
        syn::UseTree::Group(group) => group.items.iter().for_each(|item| leaves(item, prefix, out)),
    }
}

impl<'ast> Visit<'ast> for Names<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let mut all = Vec::new();
        leaves(&item.tree, &[], &mut all);
        self.found.extend(all.iter().filter_map(|(path, _)| absolute(self.module, path)));
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if segments.len() > 1 {
            self.found.extend(absolute(self.module, &segments));
        }
        visit::visit_path(self, path);
    }
}

impl File {
    fn read(root: &Path, path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).expect("a source file");
        let syntax = syn::parse_file(&text).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let relative = path.strip_prefix(root).expect("below the root").with_extension("");
        let mut module: Vec<_> = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        module.pop_if(|last| last == "mod" || last == "lib");
        let mut names = Names { module: &module, found: BTreeSet::new() };
        names.visit_file(&syntax);
        let names = names.found;
        let mut exports = BTreeMap::new();
        let mut has_logic = false;
        for item in &syntax.items {
            match item {
                syn::Item::Use(item) if !matches!(item.vis, syn::Visibility::Inherited) => {
                    let mut all = Vec::new();
                    leaves(&item.tree, &[], &mut all);
                    for (path, name) in all {
                        exports.extend(absolute(&module, &path).map(|path| (name, path)));
                    }
                }
                syn::Item::Use(_) | syn::Item::Mod(_) => {}
                _ => has_logic = true,
            }
        }
        Self { path, module, names, exports, has_logic }
    }

    fn is_folder(&self) -> bool {
        self.path.ends_with("mod.rs") || self.path.ends_with("lib.rs")
    }
}

/// The files of the host by module.
struct House(BTreeMap<Vec<String>, File>);

impl House {
    fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/src");
        let mut files = BTreeMap::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let file = File::read(&root, path);
                    files.insert(file.module.clone(), file);
                }
            }
        }
        assert!(files.len() > 100, "only {} files found", files.len());
        Self(files)
    }

    /// Follows re-exports to the file that defines what a path names.
    fn resolve(&self, path: &[String]) -> &File {
        let mut path = path.to_vec();
        loop {
            let length = (0..=path.len()).rev().find(|length| self.0.contains_key(&path[..*length]));
            let file = &self.0[&path[..length.unwrap_or_default()]];
            let Some(name) = path.get(file.module.len()).filter(|_| file.is_folder()) else { return file };
            let Some(target) = file.exports.get(name).filter(|target| **target != path) else { return file };
            path.clone_from(target);
        }
    }

    /// Returns the files that each file uses, without `mod.rs` files, which only re-export.
    fn dependencies(&self) -> BTreeMap<&[String], BTreeSet<&[String]>> {
        let mut dependencies = BTreeMap::new();
        for file in self.0.values().filter(|file| !file.is_folder()) {
            let used = file.names.iter().map(|path| self.resolve(path));
            let used = used.filter(|used| used.module != file.module && !used.is_folder());
            dependencies.insert(&file.module[..], used.map(|used| &used.module[..]).collect());
        }
        dependencies
    }
}

fn shown(module: &[String]) -> String {
    module.join("::")
}

/// Returns a cycle that is reachable from `from`, if there is one.
fn cycle<'a>(
    dependencies: &BTreeMap<&'a [String], BTreeSet<&'a [String]>>,
    from: &'a [String],
    path: &mut Vec<&'a [String]>,
    done: &mut BTreeSet<&'a [String]>,
) -> Option<String> {
    if let Some(at) = path.iter().position(|module| *module == from) {
        return Some(path[at..].iter().map(|module| shown(module)).collect::<Vec<_>>().join(" -> "));
    }
    if done.contains(from) {
        return None;
    }
    path.push(from);
    let next = dependencies.get(from).into_iter().flatten();
    let found = next.copied().find_map(|next| cycle(dependencies, next, path, done));
    path.pop();
    done.insert(from);
    found
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let house = House::read();
    let dependencies = house.dependencies();
    let count = dependencies.values().map(BTreeSet::len).sum::<usize>();
    assert!(count > 300, "only {count} dependencies found");
    let mut done = BTreeSet::new();
    let cycles: Vec<_> = dependencies
        .keys()
        .filter_map(|from| cycle(&dependencies, from, &mut Vec::new(), &mut done))
        .collect();
    assert!(cycles.is_empty(), "cycles of files:\n{}", cycles.join("\n"));
}

/// Returns the room of a module: the longest match.
fn room(module: &[String]) -> Option<usize> {
    let name = shown(module);
    let is_in = |room: &str| name == room || name.starts_with(&format!("{room}::"));
    let rooms = ROOMS.iter().enumerate().filter(|(_, room)| is_in(room));
    rooms.max_by_key(|(_, room)| room.len()).map(|(at, _)| at)
}

#[test]
fn rooms_use_only_the_rooms_below_them() {
    let house = House::read();
    let mut upwards = Vec::new();
    for file in house.0.values().filter(|file| !file.is_folder()) {
        let ours = room(&file.module).unwrap_or_else(|| panic!("{:?} does not belong to a room", file.path));
        for path in &file.names {
            let used = house.resolve(path);
            let Some(theirs) = room(&used.module) else { continue };
            if theirs > ours {
                upwards.push(format!("{} uses {}", shown(&file.module), shown(path)));
            }
        }
    }
    assert!(upwards.is_empty(), "uses of higher rooms:\n{}", upwards.join("\n"));
}

#[test]
fn folders_only_explain_and_re_export() {
    let house = House::read();
    let with_logic: Vec<_> = house
        .0
        .values()
        .filter(|file| file.path.ends_with("mod.rs") && file.has_logic)
        .map(|file| shown(&file.module))
        // Its functions list the imports for the linker.
        .filter(|name| name != "policy::instance::imports")
        .collect();
    assert!(with_logic.is_empty(), "mod.rs with logic: {with_logic:?}");
}

#[test]
fn the_engine_of_policies_sees_no_connections() {
    let house = House::read();
    let transport = room(&["transport".to_owned()]);
    for (module, used) in house.dependencies() {
        if module[0] == "policy" || module[0] == "lifecycle" || module[0] == "picker" {
            for used in used {
                assert_ne!(room(used), transport, "{} uses {}", shown(module), shown(used));
                assert_ne!(used[0], "http2", "{} uses {}", shown(module), shown(used));
            }
        }
    }
}

/// Counts the lines before the first module of tests.
fn logic(text: &str) -> usize {
    let lines: Vec<_> = text.lines().collect();
    let is_tests = |pair: &[&str]| pair[0] == "#[cfg(test)]" && pair[1].ends_with('{');
    lines.windows(2).position(is_tests).unwrap_or(lines.len())
}

#[test]
fn no_file_of_logic_is_too_large() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut folders: Vec<_> =
        ["host/src", "host/cli/src", "guest-sdk/src", "policies", "examples", "tests/src"]
            .map(|folder| root.join(folder))
            .into();
    let (mut seen, mut large) = (0, Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_symlink() || path.ends_with("target") || path.ends_with("node_modules") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                seen += 1;
                let lines = logic(&fs::read_to_string(&path).expect("text"));
                if lines > LARGEST {
                    large.push(format!("{} has {lines} lines", path.display()));
                }
            }
        }
    }
    assert!(seen > 250, "only {seen} files found");
    assert!(large.is_empty(), "files of more than {LARGEST} lines of logic:\n{}", large.join("\n"));
}
