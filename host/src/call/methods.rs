//! Values by method, for a bounded number of methods.

use std::collections::HashSet;
use std::fmt;
use std::hash::BuildHasher as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

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

/// A value for each method, made when the method is called for the first time. For [observers](super::CallObserver).
pub struct Methods<T> {
    names: MethodNames,
    make: Box<dyn Fn(&str) -> T + Send + Sync>,
    /// Open addressing: a method is in the first place, from that of its hash on, that was free when it came. Read for each
    /// RPC without a lock, and never more than half full. Values stay for ever, because there are few.
    places: Box<[OnceLock<Named<T>>]>,
    /// Seeded at random, so that clients cannot choose names that share a place.
    hash: RandomState,
    /// Methods that may still get a place.
    left: AtomicUsize,
    other: T,
}

struct Named<T> {
    name: Box<str>,
    value: T,
}

/// The longest name of a method with a value of its own (bytes).
const LONGEST: usize = 128;

impl<T> Methods<T> {
    /// The name of all methods without a value of their own.
    pub const OTHER: &'static str = "other";

    /// Creates a table for these methods. `make` makes the value of a method.
    pub fn new(names: MethodNames, make: impl Fn(&str) -> T + Send + Sync + 'static) -> Self {
        let other = make(Self::OTHER);
        let most = match &names {
            MethodNames::Only(names) => names.len(),
            MethodNames::First(most) => *most,
        };
        let places = (0..most.saturating_mul(2).next_power_of_two()).map(|_| OnceLock::new()).collect();
        let (hash, left) = (RandomState::default(), AtomicUsize::new(most));
        Self { names, make: Box::new(make), places, hash, left, other }
    }

    /// Uses the value of a method.
    #[inline]
    pub fn with<R>(&self, method: &str, used: impl FnOnce(&T) -> R) -> R {
        for place in self.places_of(method) {
            match place.get() {
                Some(named) if *named.name == *method => return used(&named.value),
                Some(_) => {}
                None => break,
            }
        }
        used(self.add(method))
    }

    /// Returns the places of a method, in the order in which they are tried.
    #[inline]
    fn places_of(&self, method: &str) -> impl Iterator<Item = &OnceLock<Named<T>>> {
        // The number of places is a power of two. Only the low bits of the hash count.
        let mask = self.places.len() - 1;
        #[expect(clippy::cast_possible_truncation, reason = "masked")]
        let first = self.hash.hash_one(method) as usize;
        (0..self.places.len()).map(move |step| &self.places[first.wrapping_add(step) & mask])
    }

    #[cold]
    fn add(&self, method: &str) -> &T {
        let is_named = match &self.names {
            MethodNames::Only(names) => names.contains(method),
            MethodNames::First(_) => true,
        };
        // Characters that no method has are not names.
        let is_plain = || method.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_named || method.len() > LONGEST || !is_plain() {
            return &self.other;
        }
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if taken.is_err() {
            return &self.other;
        }
        for place in self.places_of(method) {
            let mut is_new = false;
            let named = place.get_or_init(|| {
                is_new = true;
                Named { name: method.into(), value: (self.make)(method) }
            });
            if *named.name == *method {
                if !is_new {
                    // Another thread was faster.
                    self.left.fetch_add(1, Ordering::Relaxed);
                }
                return &named.value;
            }
        }
        &self.other
    }

    /// Returns what `read` makes of all values, by the names of their methods.
    pub fn read<R>(&self, read: impl Fn(&T) -> R) -> Vec<(String, R)> {
        let named = self.places.iter().filter_map(OnceLock::get);
        let named = named.map(|named| (named.name.to_string(), read(&named.value)));
        let mut all: Vec<_> = named.chain([(Self::OTHER.to_owned(), read(&self.other))]).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

impl<T> fmt::Debug for Methods<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Methods({})", self.places.iter().filter(|place| place.get().is_some()).count())
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
    fn each_method_is_counted_once_however_many_threads_find_it() {
        let table = Methods::new(MethodNames::First(50), |_| AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for call in 0..2000 {
                        let method = format!("s/{}", call % 60);
                        table.with(&method, |count| count.fetch_add(1, Ordering::Relaxed));
                    }
                });
            }
        });
        let counts = table.read(|count| count.load(Ordering::Relaxed));
        assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 8000);
        let names: HashSet<_> = counts.iter().map(|(name, _)| name).collect();
        assert_eq!((names.len(), counts.len()), (51, 51), "50 and other, each once");
        let none = Methods::new(MethodNames::First(0), |_| AtomicU64::new(0));
        none.with("s/A", |count| count.fetch_add(1, Ordering::Relaxed));
        assert_eq!(none.read(|count| count.load(Ordering::Relaxed)), named(&[("other", 1)]));
    }

    #[test]
    fn what_is_no_name_of_a_method_is_other() {
        let counts_of = |methods: &[&str]| counts(MethodNames::default(), methods);
        assert_eq!(counts_of(&["s/A\n", "s/\u{e4}", &"x".repeat(129)]), named(&[("other", 3)]));
        let only = MethodNames::Only(HashSet::from(["s/A".to_owned()]));
        assert_eq!(counts(only, &["s/A", "s/B"]), named(&[("other", 1), ("s/A", 1)]));
    }
}
