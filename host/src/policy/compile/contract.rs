//! Names of the interfaces of the contract, `wit/policy.wit`, and of WASI as far as the host provides it.

use super::error::PolicyError;

/// The contract between the host and policies: the text of `wit/policy.wit`, for tools that build policies.
pub const CONTRACT: &str = include_str!("../../../wit/policy.wit");
/// Package of the contract: the prefix of its interfaces' names.
pub(crate) const PACKAGE: &str = "hotpick:policy/";
/// Version of the contract: any `0.1.x` fits.
pub(crate) const VERSION: &str = "0.1";
/// Interfaces that every policy exports.
pub(crate) const REQUIRED: [&str; 3] = ["lifecycle", "endpoints", "picker"];
/// Interfaces that a policy may export.
pub(crate) const OPTIONAL: [&str; 6] = ["plans", "outcomes", "connectivity", "alarms", "handover", "about"];
/// Interfaces that a policy may import, beside the types.
pub(crate) const CAPABILITIES: [&str; 6] = ["env", "stats", "call", "metrics", "timers", "connections"];
/// Interfaces without functions.
const TYPES: [&str; 1] = ["types"];
/// The capability that stands for all of WASI.
pub(crate) const WASI: &str = "wasi";
/// Interfaces of WASI 0.2 that language runtimes need. None of them reaches the machine.
const WASI_INTERFACES: [&str; 18] = [
    "cli/environment",
    "cli/exit",
    "cli/stderr",
    "cli/stdin",
    "cli/stdout",
    "cli/terminal-input",
    "cli/terminal-output",
    "cli/terminal-stderr",
    "cli/terminal-stdin",
    "cli/terminal-stdout",
    "clocks/monotonic-clock",
    "clocks/wall-clock",
    "filesystem/preopens",
    "filesystem/types",
    "io/error",
    "io/poll",
    "io/streams",
    "random/random",
];
/// Interfaces of WASI 0.2 for insecure randomness, which some language runtimes import.
const WASI_INSECURE: [&str; 2] = ["random/insecure", "random/insecure-seed"];

/// The shape of a component, by the names of its imports and exports.
#[derive(Debug, Default)]
pub(crate) struct Shape {
    /// Imported capabilities, each once.
    pub(crate) capabilities: Vec<String>,
    /// Short names of the exported optional interfaces.
    pub(crate) optional: Vec<String>,
    /// Other exports, which the host ignores.
    pub(crate) ignored: Vec<String>,
}

impl Shape {
    /// Returns the shape of a component with these imports and exports, or the reason why it cannot be a policy.
    pub(crate) fn of(imports: &[String], exports: &[String]) -> Result<Self, PolicyError> {
        let mut shape = Self::default();
        for name in imports {
            let capability = if name.starts_with("wasi:") { wasi(name)? } else { import(name)? };
            if let Some(capability) = capability
                && !shape.capabilities.contains(&capability)
            {
                shape.capabilities.push(capability);
            }
        }
        shape.capabilities.sort();
        let mut missing = REQUIRED.to_vec();
        for name in exports {
            if !name.starts_with(PACKAGE) {
                shape.ignored.push(name.clone());
                continue;
            }
            let short = fits(name)?;
            if OPTIONAL.contains(&short) {
                shape.optional.push(short.to_owned());
            } else if missing.contains(&short) {
                missing.retain(|required| *required != short);
            } else {
                shape.ignored.push(name.clone());
            }
        }
        shape.optional.sort();
        match missing.first() {
            None => Ok(shape),
            Some(first) => Err(PolicyError::MissingExport(format!("{PACKAGE}{first}@{VERSION}"))),
        }
    }
}

/// Returns the capability that an import of the contract stands for. `None`: the interface has only types.
fn import(name: &str) -> Result<Option<String>, PolicyError> {
    let short = fits(name)?;
    if TYPES.contains(&short) {
        Ok(None)
    } else if CAPABILITIES.contains(&short) {
        Ok(Some(short.to_owned()))
    } else {
        Err(PolicyError::UnknownImport(format!("{PACKAGE}{short}")))
    }
}

fn wasi(name: &str) -> Result<Option<String>, PolicyError> {
    let (interface, version) = name["wasi:".len()..].split_once('@').unwrap_or((name, ""));
    let known = WASI_INTERFACES.contains(&interface) || WASI_INSECURE.contains(&interface);
    if known && version.starts_with("0.2.") {
        Ok(Some(WASI.to_owned()))
    } else {
        Err(PolicyError::UnknownImport(name.to_owned()))
    }
}

/// Returns the short name of an interface of the contract, such as `env` of `hotpick:policy/env@0.1.0`.
fn fits(name: &str) -> Result<&str, PolicyError> {
    let short = name.strip_prefix(PACKAGE).ok_or_else(|| PolicyError::UnknownImport(name.to_owned()))?;
    let (short, version) = short.split_once('@').unwrap_or((short, ""));
    match version.strip_prefix(VERSION).and_then(|rest| rest.strip_prefix('.')) {
        Some(patch) if !patch.is_empty() && patch.chars().all(|c| c.is_ascii_digit()) => Ok(short),
        _ => Err(PolicyError::WrongVersion { name: name.to_owned(), spoken: VERSION }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(imports: &[&str], exports: &[&str]) -> Result<Shape, String> {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut all = names(exports);
        all.extend(REQUIRED.map(|name| format!("{PACKAGE}{name}@0.1.0")));
        Shape::of(&names(imports), &all).map_err(|error| error.to_string())
    }

    #[test]
    fn what_a_component_may_do_is_what_it_imports() {
        let imports = [
            "hotpick:policy/types@0.1.0",
            "hotpick:policy/stats@0.1.3",
            "wasi:cli/stdout@0.2.6",
            "wasi:io/streams@0.2.0",
            "hotpick:policy/call@0.1.0",
        ];
        let shape = shape(&imports, &["hotpick:policy/handover@0.1.0", "run"]).expect("a policy");
        assert_eq!(shape.capabilities, ["call", "stats", "wasi"]);
        assert_eq!((shape.optional, shape.ignored), (vec!["handover".to_owned()], vec!["run".to_owned()]));
    }

    #[test]
    fn what_is_not_there_is_refused_by_its_name() {
        for (name, sentence) in [
            ("wasi:sockets/tcp@0.2.0", "imports wasi:sockets/tcp@0.2.0, which this host does not provide"),
            ("wasi:http/outgoing-handler@0.2.0", "imports wasi:http/outgoing-handler@0.2.0, which"),
            ("wasi:cli/stdout@0.3.0", "imports wasi:cli/stdout@0.3.0, which"),
            ("wasi:cli", "imports wasi:cli, which"),
            ("host", "imports host, which"),
            ("hotpick:policy/clairvoyance@0.1.0", "imports hotpick:policy/clairvoyance, which"),
            ("hotpick:policy/env@0.2.0", "uses hotpick:policy/env@0.2.0, but this host speaks 0.1.x"),
            ("hotpick:policy/env@0.1.0-rc1", "uses hotpick:policy/env@0.1.0-rc1, but"),
            ("hotpick:policy/env", "uses hotpick:policy/env, but"),
        ] {
            let said = shape(&[name], &[]).expect_err(name);
            assert!(said.starts_with(sentence), "{name}: {said}");
        }
    }
}
