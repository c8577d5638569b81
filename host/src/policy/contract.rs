//! The names of the contract, `wit/policy.wit`.

use super::PolicyError;

/// The package, as it begins the names of its interfaces.
pub(super) const PACKAGE: &str = "hotpick:policy/";
/// The version of the contract: `0.1.x` fits whatever x is.
pub(super) const VERSION: &str = "0.1";
/// What every policy exports.
pub(super) const REQUIRED: [&str; 3] = ["lifecycle", "endpoints", "picker"];
/// What a policy may export.
pub(super) const OPTIONAL: [&str; 6] = ["plans", "outcomes", "connectivity", "alarms", "handover", "about"];
/// What this host provides for a policy to import.
pub(super) const PROVIDED: [&str; 3] = ["types", "env", "call"];

/// The short name of an interface of the contract: `env` of `hotpick:policy/env@0.1.0`.
pub(super) fn fits(name: &str) -> Result<String, PolicyError> {
    let short = name.strip_prefix(PACKAGE).ok_or_else(|| PolicyError::UnknownImport(name.to_owned()))?;
    let (short, version) = short.split_once('@').unwrap_or((short, ""));
    match version.strip_prefix(VERSION).and_then(|rest| rest.strip_prefix('.')) {
        Some(patch) if patch.chars().all(|c| c.is_ascii_digit()) => Ok(short.to_owned()),
        _ => Err(PolicyError::WrongVersion { name: name.to_owned(), spoken: VERSION }),
    }
}
