//! Which version of which policy.

use std::fmt;

/// Name and version of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PolicyVersion {
    /// The policy's name.
    pub name: String,
    /// Incremented at each change of the policy's code; 0 for a built-in policy.
    pub generation: u64,
    /// SHA-256 of the code, in hexadecimal; empty for a built-in policy.
    pub digest: String,
}

impl PolicyVersion {
    /// Creates a version of its parts.
    #[must_use]
    pub fn new(name: impl Into<String>, generation: u64, digest: impl Into<String>) -> Self {
        Self { name: name.into(), generation, digest: digest.into() }
    }
}

/// Prints as `color #3 a1b2c3d4e5f6`.
impl fmt::Display for PolicyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match self.digest.get(..12) {
            Some(digest) => write!(f, " #{} {digest}", self.generation),
            None => f.write_str(" (built in)"),
        }
    }
}

/// Returns whether a policy can have this name: `[a-z0-9][a-z0-9_-]{0,62}`.
#[must_use]
pub fn is_policy_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=63).contains(&name.len())
        && name.starts_with(plain)
        && name.chars().all(|c| plain(c) || c == '_' || c == '-')
}
