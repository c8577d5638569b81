//! Many random histories, each of a seed.

use crate::random::Random;

/// Runs a test with each of the seeds that have failed once, and then with 10,000 others, unless the
/// variable `HOTPICK_HISTORIES` says another number. One that fails says its seed, which then is to be kept.
///
/// # Panics
///
/// The test does.
pub fn histories(kept: &[u64], run: impl Fn(Random)) {
    let count = std::env::var("HOTPICK_HISTORIES").ok().and_then(|count| count.parse().ok());
    for seed in kept.iter().copied().chain(0..count.unwrap_or(10_000)) {
        let _told = Tells(seed);
        // Neighbours must have nothing to do with each other.
        run(Random::new(crate::random::mix(seed ^ 0x5eed)));
    }
}

/// Says which seed it was, if the test panics.
struct Tells(u64);

impl Drop for Tells {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the history of seed {}", self.0);
        }
    }
}
