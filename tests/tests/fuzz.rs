//! The loader with real components that are damaged at random: it accepts or rejects each one, does not panic, and
//! finishes in time.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use hotpick::policy::{Limits, WasmPolicy, digest};
use hotpick_tests::corpus::with_wasi;
use hotpick_tests::wat::Wat;
use hotpick_tests::{probe, standard};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestCaseError};

static REAL: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let module = Wat::default().module_with_type();
    vec![Wat::first(), module, with_wasi(), standard("random"), standard("color"), probe()]
});

/// A change to a file.
#[derive(Clone, Debug)]
enum Damage {
    Set(Index, u8),
    Flip(Index, u8),
    Cut(Index),
    /// Removes a part.
    Remove(Index, usize),
    /// Duplicates a part.
    Repeat(Index, usize),
    /// Replaces a byte by the largest number.
    Inflate(Index),
    /// Inserts a part of another component.
    Splice(Index, Index, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<Index>;
    prop_oneof![
        6 => (at(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        6 => (at(), 0u8..8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        1 => at().prop_map(Damage::Cut),
        2 => (at(), 1usize..64).prop_map(|(at, length)| Damage::Remove(at, length)),
        2 => (at(), 1usize..4096).prop_map(|(at, length)| Damage::Repeat(at, length)),
        2 => at().prop_map(Damage::Inflate),
        2 => (at(), at(), 1usize..512).prop_map(|(at, from, length)| Damage::Splice(at, from, length)),
    ]
}

impl Damage {
    fn to(&self, bytes: &mut Vec<u8>, other: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let length = bytes.len();
        let end = |at: usize, size: usize| (at + size).min(length);
        match self {
            Self::Set(at, byte) => bytes[at.index(length)] = *byte,
            Self::Flip(at, bit) => bytes[at.index(length)] ^= 1 << bit,
            Self::Cut(at) => bytes.truncate(at.index(length)),
            Self::Remove(at, size) => {
                let at = at.index(length);
                bytes.drain(at..end(at, *size));
            }
            Self::Repeat(at, size) => {
                let at = at.index(length);
                let part = bytes[at..end(at, *size)].to_vec();
                bytes.splice(at..at, part);
            }
            Self::Inflate(at) => {
                let at = at.index(length);
                bytes.splice(at..end(at, 1), [0xff, 0xff, 0xff, 0xff, 0x0f]);
            }
            Self::Splice(at, from, size) => {
                let (at, from) = (at.index(length), from.index(other.len()));
                let part = other[from..(from + size).min(other.len())].to_vec();
                bytes.splice(at..at, part);
            }
        }
    }
}

/// Loads bytes and, if they are a policy, checks it.
fn load(bytes: &[u8]) -> Result<(), TestCaseError> {
    let mut limits = Limits::default();
    limits.compile = Duration::from_secs(10);
    let begin = Instant::now();
    let loaded = WasmPolicy::compile("fuzzed", 1, bytes, limits);
    prop_assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    match loaded {
        Err(error) => {
            let message = error.to_string();
            let is_fine = !message.is_empty() && !message.contains('\n') && !message.contains("panicked");
            prop_assert!(is_fine, "{}", message);
        }
        Ok(policy) => {
            let begin = Instant::now();
            let checked = policy.check("{}", 3);
            prop_assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
            if let Err(error) = checked {
                prop_assert!(!error.to_string().contains('\n'), "{error}");
            }
        }
    }
    Ok(())
}

#[test]
fn damaged_components_are_refused_or_do_no_harm() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _within = runtime.enter();
    let strategy = (0..REAL.len(), 0..REAL.len(), prop::collection::vec(damage(), 1..4)).prop_map(
        |(one, other, all)| {
            let mut bytes = REAL[one].clone();
            for damage in &all {
                damage.to(&mut bytes, &REAL[other]);
            }
            bytes
        },
    );
    let config = Config { cases: 300, failure_persistence: None, max_shrink_iters: 50, ..Config::default() };
    let digests = proptest::test_runner::TestRunner::new(config).run(&strategy, |bytes| {
        // Identifies the failed input by its digest; proptest prints it in full.
        load(&bytes).map_err(|error| TestCaseError::fail(format!("{}: {error}", digest(&bytes))))
    });
    digests.expect("no panic, no delay, and one-line errors");
}

proptest! {
    #![proptest_config(Config { cases: 200, failure_persistence: None, ..Config::default() })]

    /// Random bytes, with or without the header of a module or component.
    #[test]
    fn bytes_from_anywhere_are_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..2000), head in 0..3usize) {
        let heads: [&[u8]; 3] = [b"", b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0"];
        bytes.splice(..0, heads[head].iter().copied());
        prop_assert!(WasmPolicy::compile("fuzzed", 1, &bytes, Limits::default()).is_err());
    }
}
