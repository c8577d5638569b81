//! Randomized tests with reproducible seeds.

use crate::random::Random;

/// Runs a test with each of the `kept` seeds, which have failed once, and with 10,000 others, or the number in the
/// environment variable `HOTPICK_HISTORIES`. A failing run prints its seed, which should be added to `kept`.
///
/// # Panics
///
/// The test panics.
pub fn histories(kept: &[u64], run: impl Fn(Random)) {
    let count = std::env::var("HOTPICK_HISTORIES").ok().and_then(|count| count.parse().ok());
    for seed in kept.iter().copied().chain(0..count.unwrap_or(10_000)) {
        let _print_seed = PrintSeed(seed);
        // Mix, so that runs with consecutive seeds are independent.
        run(Random::new(crate::random::mix(seed ^ 0x5eed)));
    }
}

/// Prints the seed if the test panics.
struct PrintSeed(u64);

impl Drop for PrintSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the history of seed {}", self.0);
        }
    }
}
