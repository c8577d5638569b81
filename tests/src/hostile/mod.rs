//! Clients and servers that violate protocols at random, and checks that other clients are not affected. The tests run
//! them for some seconds, the bench `hostile` for any time. Each run prints its seed; `HOTPICK_SEED` reproduces it.

mod clients;
mod servers;

use std::fmt;
use std::time::Duration;

pub use self::clients::{Sidecar, frames, rpcs};
pub use self::servers::answers;

/// Result of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// RPCs or connections sent by hostile clients, or RPCs sent to a hostile server.
    pub sent: u64,
    /// RPCs of other clients during the run, or RPCs to other servers.
    pub others: u64,
    /// Descriptions of all violations.
    pub findings: Vec<String>,
    /// Resident memory of the sidecar after the first third and at the end, in KiB; `None` in a run without a sidecar.
    pub memory: Option<(u64, u64)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, others, findings, memory } = self;
        write!(f, "{sent} sent, {others} RPCs of other clients, {} findings", findings.len())?;
        if let Some((early, late)) = memory {
            write!(f, ", memory: {early} KiB early, {late} KiB at the end")?;
        }
        findings.iter().take(10).try_for_each(|finding| write!(f, "\n  {finding}"))
    }
}

/// Length and random seed of a run.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Length of the run.
    pub time: Duration,
    /// Seed of the random number generators.
    pub seed: u64,
}

impl Run {
    /// Creates a run of this length. The seed is `HOTPICK_SEED` if it is set, otherwise random.
    ///
    /// # Panics
    ///
    /// Panics if `HOTPICK_SEED` is not a number.
    #[must_use]
    pub fn new(time: Duration) -> Self {
        let seed = std::env::var("HOTPICK_SEED")
            .ok()
            .map(|seed| seed.parse().expect("HOTPICK_SEED must be a number"));
        let seed = seed.unwrap_or_else(|| fastrand::u64(..));
        println!("HOTPICK_SEED={seed}");
        Self { time, seed }
    }

    /// Returns the random number generator of task `of`.
    pub(crate) fn dice(self, of: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed.wrapping_add(of))
    }
}

/// Chooses an element at random.
fn one<'a, T: ?Sized>(dice: &mut fastrand::Rng, of: &[&'a T]) -> &'a T {
    of[dice.usize(..of.len())]
}

/// Returns `count` random bytes.
fn bytes(dice: &mut fastrand::Rng, count: usize) -> Vec<u8> {
    std::iter::repeat_with(|| dice.u8(..)).take(count).collect()
}

/// Changes, inserts, removes or repeats some bytes at random.
fn mutate(dice: &mut fastrand::Rng, bytes: &mut Vec<u8>) {
    for _ in 0..dice.usize(1..6) {
        let at = dice.usize(..bytes.len().max(1)).min(bytes.len());
        match dice.u8(..5) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.u8(..8),
            1 if at < bytes.len() => bytes[at] = dice.u8(..),
            2 => bytes.insert(at, dice.u8(..)),
            3 => bytes.truncate(at.max(1)),
            _ if at < bytes.len() => {
                let end = (at + dice.usize(1..30)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            _ => {}
        }
    }
}

/// Returns an HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}
