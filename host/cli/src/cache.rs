//! Where compiled policies are kept, so that they need not be compiled again.

use std::path::PathBuf;

use hotpick::directory::PolicyDirOptions;

/// As the XDG base directory specification has it.
pub(crate) fn user_cache() -> Option<PathBuf> {
    let directory = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
    let absolute = |path: &PathBuf| path.is_absolute();
    let base = directory("XDG_CACHE_HOME").filter(absolute);
    let base = base.or_else(|| directory("HOME").filter(absolute).map(|home| home.join(".cache")))?;
    Some(base.join("hotpick"))
}

/// How policies are loaded by who builds or checks them: a large one is compiled once, however often it is looked at.
pub(crate) fn cached() -> PolicyDirOptions {
    let mut options = PolicyDirOptions::default();
    options.compile.cache = user_cache();
    options
}
