//! Clients and servers that do at random what nobody should, and what becomes of everyone else. In the tests for some
//! seconds, in the bench `hostile` for as long as one likes; each run says its seed, and `HOTPICK_SEED` repeats it.

mod clients;
mod servers;

use std::fmt;
use std::time::Duration;

pub use self::clients::{Sidecar, frames, rpcs};
pub use self::servers::answers;

/// What a run has seen.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What the hostile side sent: RPCs, or connections of frames; or the RPCs that it was to answer.
    pub sent: u64,
    /// RPCs of others meanwhile.
    pub others: u64,
    /// Everything that should not be.
    pub findings: Vec<String>,
    /// What the sidecar had in memory after the first third, and at the end, in KiB.
    pub memory: Option<(u64, u64)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, others, findings, memory } = self;
        write!(f, "{sent} sent, {others} RPCs of others, {} findings", findings.len())?;
        if let Some((early, late)) = memory {
            write!(f, ", {early} KiB, then {late} KiB")?;
        }
        findings.iter().take(10).try_for_each(|finding| write!(f, "\n  {finding}"))
    }
}

/// How long, and by which dice.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// For how long.
    pub time: Duration,
    /// What is done at random is done by this.
    pub seed: u64,
}

impl Run {
    /// A run of this length, by `HOTPICK_SEED` if it is set.
    ///
    /// # Panics
    ///
    /// It is no number.
    #[must_use]
    pub fn new(time: Duration) -> Self {
        let seed =
            std::env::var("HOTPICK_SEED").ok().map(|seed| seed.parse().expect("HOTPICK_SEED: a number"));
        let seed = seed.unwrap_or_else(|| fastrand::u64(..));
        println!("HOTPICK_SEED={seed}");
        Self { time, seed }
    }

    pub(crate) fn dice(self, of: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed.wrapping_add(of))
    }
}

/// One of them.
fn one<'a, T: ?Sized>(dice: &mut fastrand::Rng, of: &[&'a T]) -> &'a T {
    of[dice.usize(..of.len())]
}

/// So many bytes.
fn bytes(dice: &mut fastrand::Rng, count: usize) -> Vec<u8> {
    std::iter::repeat_with(|| dice.u8(..)).take(count).collect()
}

/// Bytes as they would be, but for some that are not.
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

/// A frame whose head is what it says.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}
