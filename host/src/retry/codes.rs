//! A set of status codes.

use tonic::Code;

/// A set of status codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Codes(u32);

/// The names of the codes, by their number.
const NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

impl Codes {
    pub(crate) const fn none() -> Self {
        Self(0)
    }

    pub(crate) const fn with(self, code: Code) -> Self {
        Self(self.0 | 1 << code as u32)
    }

    pub(crate) const fn contains(self, code: Code) -> bool {
        self.0 & 1 << code as u32 != 0
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the code of this number.
    pub(crate) fn by_number(number: u64) -> Option<Code> {
        let number = i32::try_from(number).ok().filter(|number| (0..17).contains(number))?;
        Some(Code::from_i32(number))
    }

    /// Returns the code of this name, in upper or lower case.
    pub(crate) fn by_name(name: &str) -> Option<Code> {
        let number = NAMES.iter().position(|known| known.eq_ignore_ascii_case(name))?;
        Self::by_number(number as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_name_and_number() {
        assert_eq!(Codes::by_name("UNAVAILABLE"), Some(Code::Unavailable));
        assert_eq!(Codes::by_name("unauthenticated"), Some(Code::Unauthenticated));
        assert_eq!(Codes::by_name("resource_Exhausted"), Some(Code::ResourceExhausted));
        assert_eq!(Codes::by_number(14), Some(Code::Unavailable));
        assert_eq!(Codes::by_number(17), None);
        assert_eq!(Codes::by_name("OKAY"), None);
        let codes = Codes::default().with(Code::Unavailable).with(Code::Ok);
        assert!(codes.contains(Code::Ok) && codes.contains(Code::Unavailable));
        assert!(!codes.contains(Code::Internal) && !codes.is_empty());
    }
}
