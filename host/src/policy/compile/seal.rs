//! The seal of a policy's file: a section at its start with the length and the digest of the rest.
//!
//! A component that is cut short at the end of a section is still a valid component, and perhaps a policy without some
//! optional part: it would be accepted, and behave differently. `hotpick build` therefore puts a custom section first,
//! with the length and the SHA-256 of everything after it. The seal is not a signature: whoever may write the file may
//! write the seal. To pin the contents of a file, set `wasm-sha256` in the settings.

use serde::{Deserialize, Serialize};

use super::contract::{PACKAGE, Shape, VERSION};
use super::digest::digest;
use super::error::PolicyError;
use super::scan::scan;
use super::sections::{HEADER, section};
use crate::policy::limits::Limits;

/// Name of the section.
const NAME: &str = "hotpick:seal";

/// The statement of a policy's builder about its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Seal {
    /// Version of the contract that the policy was built for, such as `0.1.0`.
    pub contract: String,
    /// SDK or tool that built the policy.
    pub sdk: String,
    /// Optional parts of the contract that the policy has.
    pub parts: Vec<String>,
    /// Number of bytes after the seal.
    length: usize,
    /// SHA-256 of the bytes after the seal, in hexadecimal.
    sha256: String,
}

/// Seals a component, and replaces a seal that it already has. `sdk` names the SDK or tool that built it.
///
/// # Errors
///
/// If the imports and exports are not those of a policy, or the component is shorter than its present seal says.
pub fn seal(component: &[u8], sdk: &str) -> Result<Vec<u8>, PolicyError> {
    let (header, rest) = component.split_at_checked(HEADER).ok_or(PolicyError::NotWasm)?;
    // A new seal must not make a truncated file look complete. A changed file may be sealed again.
    if let Err(error @ PolicyError::CutShort { .. }) = verify(component) {
        return Err(error);
    }
    let rest = Sealed::of(component).map_or(rest, |sealed| sealed.rest);
    let outline = scan(component, &Limits::caps())?;
    let shape = Shape::of(&outline.imports, &outline.exports)?;
    let contract = outline.exports.iter().filter(|name| name.starts_with(PACKAGE));
    let contract = contract.filter_map(|name| name.split_once('@')).map(|(_, version)| version).next();
    let seal = Seal {
        contract: contract.unwrap_or_default().to_owned(),
        sdk: sdk.to_owned(),
        parts: shape.optional,
        length: rest.len(),
        sha256: digest(rest),
    };
    let text = serde_json::to_vec(&seal).map_err(|error| PolicyError::Encode(error.to_string()))?;
    let mut body = Vec::new();
    leb128(NAME.len(), &mut body);
    body.extend_from_slice(NAME.as_bytes());
    body.extend_from_slice(&text);
    let mut sealed = header.to_vec();
    sealed.push(0);
    leb128(body.len(), &mut sealed);
    sealed.extend_from_slice(&body);
    sealed.extend_from_slice(rest);
    Ok(sealed)
}

/// Returns the seal of a file, after checking that the file matches it. `None`: the file has no seal.
///
/// # Errors
///
/// If the file does not match its seal.
pub(crate) fn verify(bytes: &[u8]) -> Result<Option<Seal>, PolicyError> {
    let Some(Sealed { text, rest }) = Sealed::of(bytes) else {
        // A seal that is not the first section is invalid: it does not cover the sections before it.
        return if has_seal(bytes) { Err(PolicyError::Seal) } else { Ok(None) };
    };
    let seal: Seal = serde_json::from_slice(text).map_err(|_| PolicyError::Seal)?;
    if rest.len() < seal.length {
        return Err(PolicyError::CutShort { there: rest.len(), sealed: seal.length });
    }
    // A file that is too long is invalid, and need not be hashed.
    if rest.len() > seal.length || digest(rest) != seal.sha256 {
        return Err(PolicyError::Seal);
    }
    Ok(Some(seal))
}

/// Returns whether a seal is among the sections of a file.
fn has_seal(bytes: &[u8]) -> bool {
    let mut rest = bytes.get(HEADER..).unwrap_or_default();
    while let Some((_, name, after)) = section(rest) {
        if name == NAME.as_bytes() {
            return true;
        }
        rest = after;
    }
    false
}

impl Seal {
    /// Rejects a file whose contract version or optional parts differ from its seal.
    pub(crate) fn check(&self, shape: &Shape) -> Result<(), PolicyError> {
        let is_ours = self.contract.strip_prefix(VERSION).is_some_and(|rest| rest.starts_with('.'));
        if is_ours && self.parts == shape.optional { Ok(()) } else { Err(PolicyError::Seal) }
    }
}

struct Sealed<'a> {
    text: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Sealed<'a> {
    /// Splits a file whose first section is a seal. `None`: the first section is another one.
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let (first, name, rest) = section(bytes.get(HEADER..)?)?;
        if name != NAME.as_bytes() {
            return None;
        }
        // The text directly follows the name.
        let at = first.windows(NAME.len()).position(|window| window == NAME.as_bytes())? + NAME.len();
        Some(Self { text: first.get(at..)?, rest })
    }
}

fn leb128(mut number: usize, bytes: &mut Vec<u8>) {
    loop {
        let low = u8::try_from(number & 0x7f).unwrap_or_default();
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Vec<u8> {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/dist/bounded_hash.wasm");
        std::fs::read(file).expect("a built policy")
    }

    /// Returns the offsets at which the sections of a component end.
    fn ends(bytes: &[u8]) -> Vec<usize> {
        let mut rest = &bytes[HEADER..];
        let mut ends = vec![HEADER];
        while let Some((_, _, after)) = section(rest) {
            ends.push(bytes.len() - after.len());
            rest = after;
        }
        ends
    }

    #[test]
    fn a_component_that_is_cut_short_anywhere_is_none() {
        let sealed = seal(&policy(), "a test").expect("a policy");
        let whole = verify(&sealed).expect("whole").expect("sealed");
        assert_eq!((whole.contract.as_str(), whole.sdk.as_str()), ("0.1.0", "a test"));
        assert!(whole.parts.contains(&"outcomes".to_owned()));
        let ends = ends(&sealed);
        let (whole, cut) = ends.split_last().expect("sections");
        assert_eq!((*whole, sealed.len()), (sealed.len(), ends[ends.len() - 1]));
        for end in cut {
            let seal = verify(&sealed[..*end]);
            // The header alone, before the seal, could not be a policy.
            assert_eq!(seal.is_err(), *end > HEADER, "{end}: {seal:?}");
            assert!(super::seal(&sealed[..*end], "a test").is_err(), "{end}: sealed again");
        }
        // The problem that a seal solves: without it, some of these prefixes would be accepted as policies.
        let limits = Limits::default();
        let is_policy = |end: &&usize| {
            let outline = scan(&sealed[..**end], &limits);
            outline.is_ok_and(|outline| Shape::of(&outline.imports, &outline.exports).is_ok())
        };
        assert!(cut.iter().any(|end| is_policy(&end)), "none of {} is accepted without a seal", cut.len());
    }

    #[test]
    fn a_component_that_is_changed_does_not_fit_its_seal() {
        let mut sealed = seal(&policy(), "a test").expect("a policy");
        let again = seal(&sealed, "a test").expect("a policy");
        assert!(again == sealed, "a seal replaces the previous one");
        let last = sealed.len() - 1;
        sealed[last] ^= 1;
        assert_eq!(verify(&sealed), Err(PolicyError::Seal));
        sealed[last] ^= 1;
        sealed.push(0);
        assert_eq!(verify(&sealed), Err(PolicyError::Seal));
        sealed.pop();
        let other = [&sealed[..HEADER], &[0, 2, 1, b'x'], &sealed[HEADER..]].concat();
        assert_eq!(verify(&other), Err(PolicyError::Seal));
        let seal_of = |bytes| verify(bytes).expect("it fits").expect("sealed");
        let found = seal_of(&sealed);
        assert_eq!(Seal { parts: vec![], ..found.clone() }.check(&Shape::default()), Ok(()));
        assert_eq!(found.check(&Shape::default()), Err(PolicyError::Seal));
        let later = Seal { contract: "0.10.0".to_owned(), parts: vec![], ..found };
        assert_eq!(later.check(&Shape::default()), Err(PolicyError::Seal));
        assert_eq!(verify(b"\0asm\x0d\0\x01\0"), Ok(None));
        assert!(seal(b"\0asm", "a test").is_err());
    }
}
