//! Numbers for strings that callers choose: names of methods, and values of metadata.
//!
//! A number identifies a string exactly, unlike a hash. The memory for them is bounded, whatever callers send.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Numbers for the names of methods, as specified by the contract (`types.method`).
#[derive(Debug, Default)]
pub(crate) struct Methods {
    numbers: HashMap<String, u32>,
    names: Vec<String>,
}

impl Methods {
    const MOST: usize = 4096;
    /// Length of a name (bytes) above which it has no number of its own.
    const LONGEST: usize = 1024;
    /// Number of all methods that have no number of their own.
    pub(crate) const OTHER: u32 = 4096;

    pub(crate) fn lock(methods: &Mutex<Self>) -> MutexGuard<'_, Self> {
        methods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        if self.names.len() == Self::MOST || name.len() > Self::LONGEST {
            return Self::OTHER;
        }
        let number = u32::try_from(self.names.len()).unwrap_or(Self::OTHER);
        self.names.push(name.to_owned());
        self.numbers.insert(name.to_owned(), number);
        number
    }

    /// Returns the name of a method. `None`: no method has this number.
    pub(crate) fn known(&self, number: u32) -> Option<String> {
        self.names.get(usize::try_from(number).ok()?).cloned()
    }

    pub(crate) fn name(&self, number: u32) -> String {
        self.known(number).unwrap_or_default()
    }
}

/// Numbers for the values of metadata keys. No two values ever have the same number.
#[derive(Debug, Default)]
pub(crate) struct Values {
    /// Numbers of the values, for each key.
    numbers: Vec<HashMap<Box<[u8]>, u64>>,
    count: usize,
    last: u64,
    /// A cache: an RPC is usually like the previous one.
    latest: Option<Latest>,
}

/// The value that was looked up last, if it is short.
#[derive(Clone, Copy, Debug)]
struct Latest {
    key: usize,
    bytes: [u8; SHORT],
    length: usize,
    number: u64,
}

const SHORT: usize = 32;

impl Latest {
    fn new(key: usize, value: &[u8], number: u64) -> Option<Self> {
        let mut bytes = [0; SHORT];
        bytes.get_mut(..value.len())?.copy_from_slice(value);
        Some(Self { key, bytes, length: value.len(), number })
    }

    fn is(&self, key: usize, value: &[u8]) -> bool {
        self.key == key && self.bytes[..self.length] == *value
    }
}

impl Values {
    /// Number of values at which all are forgotten. Values that are still in use then get new numbers.
    const MOST: usize = 4096;
    /// Length of a value (bytes) above which it gets a new number each time.
    const LONGEST: usize = 1024;

    pub(crate) fn number(&mut self, key: usize, value: &[u8]) -> u64 {
        if let Some(latest) = &self.latest
            && latest.is(key, value)
        {
            return latest.number;
        }
        let number = self.find(key, value);
        self.latest = Latest::new(key, value, number);
        number
    }

    fn find(&mut self, key: usize, value: &[u8]) -> u64 {
        if let Some(number) = self.numbers.get(key).and_then(|numbers| numbers.get(value)) {
            return *number;
        }
        self.last += 1;
        if value.len() <= Self::LONGEST {
            if self.count == Self::MOST {
                self.numbers.iter_mut().for_each(HashMap::clear);
                self.count = 0;
            }
            if self.numbers.len() <= key {
                self.numbers.resize_with(key + 1, HashMap::new);
            }
            self.numbers[key].insert(value.into(), self.last);
            self.count += 1;
        }
        self.last
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn methods_are_numbered_without_gaps_and_the_rest_is_one_number() {
        let mut methods = Methods::default();
        for round in 0..2 {
            for number in 0..5_000 {
                let expected = if number < 4_096 { number } else { 4_096 };
                assert_eq!(methods.number(&format!("/a.B/{number}")), expected, "round {round}");
            }
        }
        assert_eq!(methods.name(7), "/a.B/7");
        assert_eq!(methods.name(Methods::OTHER), "");
        assert_eq!(methods.name(u32::MAX), "");
        let mut methods = Methods::default();
        assert_eq!(methods.number(&"x".repeat(1_025)), Methods::OTHER);
        assert_eq!(methods.number("short"), 0);
    }

    /// The other value has the same XXH64 as "red".
    #[test]
    fn values_with_one_hash_have_two_numbers() {
        let (red, other) = (b"red", br#"zpaaytlf].!d2U"L"#);
        let hash = |value| twox_hash::XxHash64::oneshot(0, value);
        assert_eq!(hash(&red[..]), hash(&other[..]));
        let mut values = Values::default();
        assert_ne!(values.number(0, red), values.number(0, other));
        assert_eq!(values.number(0, red), values.number(0, red));
    }

    #[test]
    fn what_callers_make_up_has_a_bound() {
        let mut values = Values::default();
        let first = values.number(0, b"red");
        for number in 0..100_000 {
            values.number(number % 3, format!("value {number}").as_bytes());
            let long = "x".repeat(1_025);
            assert_ne!(values.number(0, long.as_bytes()), values.number(0, long.as_bytes()));
        }
        let kept: usize = values.numbers.iter().map(HashMap::len).sum();
        assert!(kept <= Values::MOST && kept == values.count, "{kept}");
        assert!(values.number(0, b"red") > first);
    }

    proptest! {
        /// A number belongs to one value, and a value keeps its number until it is forgotten.
        #[test]
        fn a_number_is_of_one_value(asked in prop::collection::vec((0usize..3, 0u16..6_000), 0..20_000)) {
            let mut values = Values::default();
            let mut known = HashMap::new();
            for (key, value) in asked {
                let number = values.number(key, &value.to_be_bytes());
                prop_assert_eq!(*known.entry(number).or_insert((key, value)), (key, value));
            }
        }
    }
}
