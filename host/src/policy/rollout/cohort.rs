//! What the RPCs of both versions did that began in one interval.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tonic::Code;

use crate::picker::PickedBy;
use crate::subconn::DoneInfo;

/// The RPCs that began in one interval. Those that end after it are not seen any more by its verdict.
#[derive(Debug, Default)]
pub(crate) struct Cohort {
    pub(super) active: Side,
    pub(super) candidate: Side,
    /// Picks of a shadow that were compared, and those that were the same.
    compared: AtomicU64,
    agreed: AtomicU64,
}

/// Counters of one version.
#[derive(Debug)]
pub(super) struct Side {
    begun: AtomicU64,
    ended: AtomicU64,
    failed: AtomicU64,
    unserved: AtomicU64,
    fallback: AtomicU64,
    latency: Box<[AtomicU64; BUCKETS]>,
}

/// A reading of a cohort.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Reading {
    /// The active version.
    pub active: SideReading,
    /// The new version.
    pub candidate: SideReading,
    /// Picks of a shadow that were compared with those of the active version.
    pub compared: u64,
    /// Picks among them that were the same.
    pub agreed: u64,
}

/// A reading of one version's counters.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct SideReading {
    /// Attempts of RPCs that it picked for.
    pub begun: u64,
    /// Attempts among them that have ended, except those that the client cancelled.
    pub ended: u64,
    /// Attempts that ended with a status which says more about the server than about the request: as `faulty` of the
    /// contract, and DEADLINE_EXCEEDED of the client.
    pub failed: u64,
    /// Answers without a subconn: the RPC was queued, failed or dropped.
    pub unserved: u64,
    /// Picks that the fallback made in its place.
    pub fallback: u64,
    /// Number of ended attempts by latency: see [`quantile`](Self::quantile).
    latency: Vec<u64>,
}

/// Each doubling of the latency has this many buckets.
const FINE: u32 = 8;
/// From a microsecond to some days.
const BUCKETS: usize = 320;

impl Default for Side {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            begun: zero(),
            ended: zero(),
            failed: zero(),
            unserved: zero(),
            fallback: zero(),
            latency: Box::new(std::array::from_fn(|_| zero())),
        }
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Side {
    pub(super) fn begins(&self, by: PickedBy) {
        add(&self.begun);
        if by == PickedBy::Fallback {
            add(&self.fallback);
        }
    }

    pub(super) fn goes_unserved(&self) {
        add(&self.unserved);
    }

    pub(super) fn ends(&self, info: &DoneInfo<'_>) {
        let Some(code) = info.code else {
            // It was not sent, and is picked for again.
            self.begun.fetch_sub(1, Ordering::Relaxed);
            return;
        };
        // A client that hangs up may have waited too long, or not: it does so as often with either version. One whose
        // deadline has passed has waited for the server.
        if info.client_ended && code != Code::DeadlineExceeded {
            return;
        }
        add(&self.ended);
        if is_faulty(code) {
            add(&self.failed);
        }
        add(&self.latency[bucket(info.latency)]);
    }

    fn read(&self) -> SideReading {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SideReading {
            begun: read(&self.begun),
            ended: read(&self.ended),
            failed: read(&self.failed),
            unserved: read(&self.unserved),
            fallback: read(&self.fallback),
            latency: self.latency.iter().map(read).collect(),
        }
    }
}

const fn is_faulty(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// Returns the bucket of a latency: eight for each doubling from a microsecond on.
fn bucket(latency: Duration) -> usize {
    let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1);
    let exponent = micros.ilog2();
    let fine = if exponent >= 3 { (micros >> (exponent - 3)) & 7 } else { (micros << (3 - exponent)) & 7 };
    let index = u64::from(exponent * FINE) + fine;
    usize::try_from(index).unwrap_or(usize::MAX).min(BUCKETS - 1)
}

/// Returns the middle of a bucket.
fn middle(bucket: usize) -> Duration {
    let bucket = u32::try_from(bucket).unwrap_or(u32::MAX);
    let (exponent, fine) = (bucket / FINE, f64::from(bucket % FINE));
    let micros = 2f64.powi(exponent.cast_signed()) * (1.0 + (fine + 0.5) / f64::from(FINE));
    Duration::from_secs_f64(micros / 1e6)
}

impl Cohort {
    pub(super) fn compare(&self, is_same: bool) {
        add(&self.compared);
        if is_same {
            add(&self.agreed);
        }
    }

    pub(super) fn read(&self) -> Reading {
        Reading {
            active: self.active.read(),
            candidate: self.candidate.read(),
            compared: self.compared.load(Ordering::Relaxed),
            agreed: self.agreed.load(Ordering::Relaxed),
        }
    }
}

impl SideReading {
    /// Returns the latency at a quantile from 0 to 1, to 6 %. `None`: no attempt has ended.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        self.bucket_at(quantile).map(middle)
    }

    pub(super) fn bucket_at(&self, quantile: f64) -> Option<usize> {
        let count: u64 = self.latency.iter().sum();
        let wanted = (count as f64 * quantile).max(f64::MIN_POSITIVE);
        let mut sum = 0;
        self.latency.iter().position(|number| {
            sum += number;
            sum as f64 >= wanted
        })
    }

    /// Returns how many attempts took longer than those of this bucket.
    pub(super) fn above(&self, bucket: usize) -> u64 {
        self.latency.iter().skip(bucket + 1).sum()
    }

    /// Returns the number of picks.
    pub(super) const fn tries(&self) -> u64 {
        self.begun + self.unserved
    }

    /// Returns the part of the attempts that failed, and of those that found no subconn.
    #[must_use]
    pub fn failure_rate(&self) -> f64 {
        (self.failed + self.unserved) as f64 / (self.tries().max(1)) as f64
    }
}

impl fmt::Debug for SideReading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { begun, ended, failed, unserved, fallback, latency: _ } = self;
        let counters = [("begun", begun), ("ended", ended), ("failed", failed), ("unserved", unserved)];
        let mut out = f.debug_struct("SideReading");
        for (name, counter) in counters {
            out.field(name, counter);
        }
        out.field("fallback", fallback).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_close_to_their_latencies() {
        for micros in [1u64, 2, 3, 7, 8, 9, 100, 1000, 12_345, 1_000_000, 86_400_000_000] {
            let latency = Duration::from_micros(micros);
            let near = middle(bucket(latency)).as_secs_f64() / latency.as_secs_f64();
            let tolerance = if micros < 8 { 0.6 } else { 0.07 };
            assert!((near - 1.0).abs() < tolerance, "{latency:?}: {near}");
        }
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }
}
