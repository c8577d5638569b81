//! The cache of compiled policies in the user's cache directory.

use std::path::PathBuf;

use hotpick::directory::PolicyDirOptions;

/// Returns the directory `hotpick` in the user's cache directory, as the XDG base directory specification defines it:
/// below `XDG_CACHE_HOME`, or else below `~/.cache`. `None` if neither variable is an absolute path.
pub(crate) fn user_cache() -> Option<PathBuf> {
    let directory = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
    let absolute = |path: &PathBuf| path.is_absolute();
    let base = directory("XDG_CACHE_HOME").filter(absolute);
    let base = base.or_else(|| directory("HOME").filter(absolute).map(|home| home.join(".cache")))?;
    Some(base.join("hotpick"))
}

/// Returns the options with which `build` and `check` load policies. The cache makes repeated runs on a large policy
/// compile it only once.
pub(crate) fn cached() -> PolicyDirOptions {
    let mut options = PolicyDirOptions::default();
    options.compile.cache = user_cache();
    options
}
