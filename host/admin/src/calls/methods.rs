//! The methods that are counted by name.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use super::method::{MethodCalls, MethodReading};

/// Which methods have metrics of their own. All others share the name `other` (gRFC A66): a client of a proxy can make up
/// any number of methods.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum MethodNames {
    /// These (`package.Service/Method`).
    Only(HashSet<String>),
    /// The first ones that are called, up to this number.
    First(usize),
}

/// The first 200.
impl Default for MethodNames {
    fn default() -> Self {
        Self::First(200)
    }
}

/// The name of all methods without metrics of their own.
const OTHER: &str = "other";
/// The longest name of a method with metrics of its own (bytes).
const LONGEST: usize = 256;

/// The counters of each method.
#[derive(Debug)]
pub(super) struct Methods {
    names: MethodNames,
    /// Copied for each new method, because there are few, and read for each RPC.
    known: ArcSwap<HashMap<Box<str>, Arc<MethodCalls>>>,
    other: Arc<MethodCalls>,
    adding: Mutex<()>,
}

impl Methods {
    pub(super) fn new(names: MethodNames) -> Self {
        Self { names, known: ArcSwap::default(), other: Arc::default(), adding: Mutex::default() }
    }

    /// Calls `count` with the counters of a method.
    pub(super) fn with(&self, method: &str, count: impl FnOnce(&MethodCalls)) {
        // Not a clone: a reference count would be written by all threads.
        if let Some(calls) = self.known.load().get(method) {
            return count(calls);
        }
        count(&self.add(method));
    }

    #[cold]
    fn add(&self, method: &str) -> Arc<MethodCalls> {
        let is_named = match &self.names {
            MethodNames::Only(names) => names.contains(method),
            MethodNames::First(most) => self.known.load().len() < *most,
        };
        // Characters of paths that no method has are not names.
        let is_plain = method.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_named || method.len() > LONGEST || !is_plain {
            return Arc::clone(&self.other);
        }
        let _adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = HashMap::clone(&self.known.load());
        if let MethodNames::First(most) = self.names
            && known.len() >= most
            && !known.contains_key(method)
        {
            return Arc::clone(&self.other);
        }
        let calls = Arc::clone(known.entry(method.into()).or_default());
        self.known.store(Arc::new(known));
        calls
    }

    /// Returns the readings of all methods, by name.
    pub(super) fn read(&self) -> Vec<(String, MethodReading)> {
        let known = self.known.load();
        let mut all: Vec<_> = known.iter().map(|(name, calls)| (name.to_string(), calls.read())).collect();
        let other = self.other.read();
        if !other.started.is_empty() || !other.calls.is_empty() || other.server.started > 0 {
            all.push((OTHER.to_owned(), other));
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

#[cfg(test)]
mod tests {
    use hotpick::call::AttemptKind;

    use super::*;

    fn names(methods: &Methods) -> Vec<String> {
        methods.read().into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn methods_beyond_the_limit_are_other() {
        let methods = Methods::new(MethodNames::First(2));
        for method in ["s/B", "s/A", "s/C", "s/D", "s/A"] {
            methods.with(method, |calls| calls.attempt_started(AttemptKind::Original));
        }
        let all = methods.read();
        let counts: Vec<_> =
            all.iter().map(|(name, reading)| (name.as_str(), reading.started[0].1)).collect();
        assert_eq!(counts, [("other", 2), ("s/A", 2), ("s/B", 1)]);
    }

    #[test]
    fn what_is_no_name_of_a_method_is_other() {
        let methods = Methods::new(MethodNames::default());
        for method in ["s/A\n", "s/\u{e4}", &"x".repeat(257)] {
            methods.with(method, |calls| calls.attempt_started(AttemptKind::Original));
        }
        assert_eq!(names(&methods), ["other"]);
        let methods = Methods::new(MethodNames::Only(HashSet::from(["s/A".to_owned()])));
        for method in ["s/A", "s/B"] {
            methods.with(method, |calls| calls.attempt_started(AttemptKind::Original));
        }
        assert_eq!(names(&methods), ["other", "s/A"]);
    }
}
