//! Servers: a queue, first come, first served, before a number of slots.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use http::HeaderMap;
use tonic::metadata::{MetadataMap, MetadataValue};

use super::scenario::{Distribution, Servers};

/// Nanoseconds since the start of the simulation.
pub(super) type Nanos = u64;

/// Rounds a time (s).
pub(super) fn nanos(seconds: f64) -> Nanos {
    rounded(seconds * 1e9)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a scenario has no time of centuries, and the cast saturates"
)]
fn rounded(nanos: f64) -> Nanos {
    nanos.round() as Nanos
}

/// A server. The work on an RPC is known when it arrives, so the times at which the slots are free are all of its state.
#[derive(Clone, Debug)]
pub(super) struct Server {
    free: BinaryHeap<Reverse<Nanos>>,
    /// How many times longer the work takes.
    pub(super) factor: f64,
    /// Answers UNAVAILABLE at once.
    pub(super) is_failing: bool,
    /// RPCs that it works on and that wait, at most.
    longest: Option<u32>,
    /// When each RPC that has been taken is done, in order, as far as the queue was looked at.
    ends: BinaryHeap<Reverse<Nanos>>,
    /// RPCs answered since the last load report, and its time.
    reported: (u64, Nanos),
}

impl Server {
    pub(super) fn new(servers: &Servers) -> Self {
        Self {
            free: (0..servers.slots).map(|_| Reverse(0)).collect(),
            longest: servers.queue.map(|queue| queue.saturating_add(servers.slots)),
            factor: 1.0,
            is_failing: false,
            ends: BinaryHeap::new(),
            reported: (0, 0),
        }
    }

    /// Returns when work that arrives at this time would be done.
    pub(super) fn would_end(&self, arrival: Nanos, work: Nanos) -> Nanos {
        let free = self.free.peek().map_or(0, |Reverse(free)| *free);
        arrival.max(free).saturating_add(self.takes(work))
    }

    /// Takes work that arrives at this time. Returns when it is done.
    pub(super) fn take(&mut self, arrival: Nanos, work: Nanos) -> Nanos {
        let end = self.would_end(arrival, work);
        self.free.pop();
        self.free.push(Reverse(end));
        self.ends.push(Reverse(end));
        end
    }

    /// Returns the number of RPCs that the server works on or that wait there.
    pub(super) fn waiting(&mut self, now: Nanos) -> u32 {
        while self.ends.peek().is_some_and(|Reverse(end)| *end <= now) {
            self.ends.pop();
        }
        u32::try_from(self.ends.len()).unwrap_or(u32::MAX)
    }

    /// Returns whether it refuses what arrives at this time.
    pub(super) fn is_full(&mut self, now: Nanos) -> bool {
        self.longest.is_some_and(|longest| self.waiting(now) >= longest)
    }

    /// Returns the part of the slots that are busy.
    pub(super) fn utilization(&self, now: Nanos) -> f64 {
        let busy = self.free.iter().filter(|Reverse(free)| *free > now).count();
        busy as f64 / self.free.len().max(1) as f64
    }

    /// Does nothing from `now` for this long.
    pub(super) fn pause(&mut self, now: Nanos, time: Nanos) {
        self.free =
            self.free.drain().map(|Reverse(free)| Reverse(free.max(now).saturating_add(time))).collect();
    }

    fn takes(&self, work: Nanos) -> Nanos {
        rounded(work as f64 * self.factor)
    }
}

/// Returns trailers with a load report (ORCA, gRFC A51): the part of the slots that are busy as CPU utilization, and the
/// RPCs per second since the last report.
pub(super) fn load_report(server: &mut Server, now: Nanos) -> HeaderMap {
    let (answered, since) = server.reported;
    let seconds = now.saturating_sub(since) as f64 / 1e9;
    let rps = (answered + 1) as f64 / seconds.max(0.001);
    // A rate over a hundredth of a second at least.
    server.reported = if seconds >= 0.01 { (0, now) } else { (answered + 1, since) };
    let mut report = Vec::with_capacity(18);
    // Fields 1 (cpu_utilization) and 6 (rps_fractional) of xds.data.orca.v3.OrcaLoadReport, doubles.
    for (field, value) in [(1u8, server.utilization(now)), (6, rps)] {
        report.push(field << 3 | 1);
        report.extend(value.to_le_bytes());
    }
    let mut trailers = MetadataMap::new();
    trailers.insert_bin("endpoint-load-metrics-bin", MetadataValue::from_bytes(&report));
    trailers.into_headers()
}

/// Draws the time of work on an RPC.
pub(super) fn work(servers: &Servers, random: &mut fastrand::Rng) -> Nanos {
    let mean = servers.mean_ms / 1000.0;
    nanos(match servers.distribution {
        Distribution::Constant => mean,
        Distribution::Exponential => mean * exponential(random),
        // The mean of a lognormal is exp(mu + sigma^2 / 2).
        Distribution::Lognormal => {
            mean * libm::exp(servers.sigma * normal(random) - servers.sigma * servers.sigma / 2.0)
        }
        Distribution::File => random.choice(&servers.drawn).copied().unwrap_or(servers.mean_ms) / 1000.0,
    })
}

/// Draws from the exponential distribution with mean 1.
pub(super) fn exponential(random: &mut fastrand::Rng) -> f64 {
    // `f64` is below 1, so this is above 0.
    -libm::log(1.0 - random.f64())
}

/// Draws from the standard normal distribution (Box and Muller).
fn normal(random: &mut fastrand::Rng) -> f64 {
    let radius = (2.0 * exponential(random)).sqrt();
    radius * libm::cos(std::f64::consts::TAU * random.f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_waits_for_a_free_slot() {
        let two = Servers { slots: 2, queue: Some(1), ..Servers::default() };
        let mut server = Server::new(&two);
        assert_eq!([server.take(10, 5), server.take(10, 7)], [15, 17]);
        assert!(!server.is_full(11));
        assert_eq!(server.take(11, 1), 16);
        assert!(server.is_full(14) && !server.is_full(15));
        server.factor = 2.0;
        assert_eq!(server.would_end(20, 5), 30);
        server.pause(20, 100);
        assert_eq!(server.take(20, 5), 130);
    }

    #[test]
    fn distributions_have_their_means() {
        let mut random = fastrand::Rng::with_seed(1);
        for distribution in [Distribution::Constant, Distribution::Exponential, Distribution::Lognormal] {
            let servers = Servers { mean_ms: 2.0, distribution, ..Servers::default() };
            let sum: f64 = (0..200_000).map(|_| work(&servers, &mut random) as f64).sum();
            let mean = sum / 200_000.0 / 1e6;
            assert!((mean - 2.0).abs() < 0.05, "{distribution:?}: {mean}");
        }
    }
}
