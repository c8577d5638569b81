//! Values by method, for a bounded number of methods.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;

/// Which methods have values of their own, such as metrics. All others share the name [`Methods::OTHER`] (gRFC A66): a
/// client of a proxy can make up any number of methods.
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

/// Not a hash that withstands attacks: a client can make up names, but only a bounded number of them is kept.
type Known<T> = HashMap<Box<str>, Arc<T>, RandomState>;

/// A value for each method, made when the method is called for the first time. For [observers](super::CallObserver).
pub struct Methods<T> {
    names: MethodNames,
    make: Box<dyn Fn(&str) -> T + Send + Sync>,
    /// Copied for each new method, because there are few, and read for each RPC.
    known: ArcSwap<Known<T>>,
    other: Arc<T>,
    adding: Mutex<()>,
}

/// The longest name of a method with a value of its own (bytes).
const LONGEST: usize = 128;

impl<T> Methods<T> {
    /// The name of all methods without a value of their own.
    pub const OTHER: &'static str = "other";

    /// Creates a table for these methods. `make` makes the value of a method.
    pub fn new(names: MethodNames, make: impl Fn(&str) -> T + Send + Sync + 'static) -> Self {
        let other = Arc::new(make(Self::OTHER));
        Self { names, make: Box::new(make), known: ArcSwap::default(), other, adding: Mutex::default() }
    }

    /// Uses the value of a method.
    pub fn with<R>(&self, method: &str, used: impl FnOnce(&T) -> R) -> R {
        // Not a clone: a reference count would be written by all threads.
        if let Some(value) = self.known.load().get(method) {
            return used(value);
        }
        used(&self.add(method))
    }

    #[cold]
    fn add(&self, method: &str) -> Arc<T> {
        let is_named = match &self.names {
            MethodNames::Only(names) => names.contains(method),
            MethodNames::First(most) => self.known.load().len() < *most,
        };
        // Characters that no method has are not names.
        let is_plain = method.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_named || method.len() > LONGEST || !is_plain {
            return Arc::clone(&self.other);
        }
        let _adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = Known::clone(&self.known.load());
        if let MethodNames::First(most) = self.names
            && known.len() >= most
            && !known.contains_key(method)
        {
            return Arc::clone(&self.other);
        }
        let value = Arc::clone(known.entry(method.into()).or_insert_with(|| Arc::new((self.make)(method))));
        self.known.store(Arc::new(known));
        value
    }

    /// Returns what `read` makes of all values, by the names of their methods.
    pub fn read<R>(&self, read: impl Fn(&T) -> R) -> Vec<(String, R)> {
        let known = self.known.load();
        let named = known.iter().map(|(name, value)| (name.to_string(), read(value)));
        let mut all: Vec<_> = named.chain([(Self::OTHER.to_owned(), read(&self.other))]).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

impl<T> fmt::Debug for Methods<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Methods({})", self.known.load().len())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn counts(names: MethodNames, methods: &[&str]) -> Vec<(String, u64)> {
        let table = Methods::new(names, |_| AtomicU64::new(0));
        for method in methods {
            table.with(method, |count| count.fetch_add(1, Ordering::Relaxed));
        }
        table.read(|count| count.load(Ordering::Relaxed))
    }

    fn named(list: &[(&str, u64)]) -> Vec<(String, u64)> {
        list.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn methods_beyond_the_limit_are_other() {
        let counts = counts(MethodNames::First(2), &["s/B", "s/A", "s/C", "s/D", "s/A"]);
        assert_eq!(counts, named(&[("other", 2), ("s/A", 2), ("s/B", 1)]));
    }

    #[test]
    fn what_is_no_name_of_a_method_is_other() {
        let counts_of = |methods: &[&str]| counts(MethodNames::default(), methods);
        assert_eq!(counts_of(&["s/A\n", "s/\u{e4}", &"x".repeat(129)]), named(&[("other", 3)]));
        let only = MethodNames::Only(HashSet::from(["s/A".to_owned()]));
        assert_eq!(counts(only, &["s/A", "s/B"]), named(&[("other", 1), ("s/A", 1)]));
    }
}
