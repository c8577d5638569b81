//! Detection of outliers: the algorithms of gRFC A50.

use std::collections::BinaryHeap;

use hotpick_guest::random::Random;
use hotpick_guest::{Nanos, SubConn, SubConnMap, SubConnSet, nanos};

use super::{Config, FailurePercentage, SuccessRate};

/// Counts and ejections of all endpoints.
#[derive(Debug)]
pub(crate) struct Detector {
    endpoints: SubConnMap<Endpoint>,
    random: Random,
    /// Restored entries, until the list of endpoints is known. Entries of endpoints that are not on it are dropped,
    /// because their numbers may be reused.
    restored: Vec<(SubConn, Endpoint)>,
}

#[derive(Debug, Default)]
struct Endpoint {
    /// Counts since the last evaluation.
    successes: u32,
    failures: u32,
    /// Failures since the last success.
    in_a_row: u32,
    ejected_at: Option<Nanos>,
    /// Number of recent ejections, by which the ejection time is multiplied.
    multiplier: u32,
}

impl Endpoint {
    const fn requests(&self) -> u32 {
        self.successes.saturating_add(self.failures)
    }

    fn percentage(&self, part: u32) -> f64 {
        f64::from(part) * 100.0 / f64::from(self.requests())
    }
}

impl Detector {
    pub(crate) fn new(seed: u64) -> Self {
        Self { endpoints: SubConnMap::default(), random: Random::new(seed), restored: Vec::new() }
    }

    pub(crate) fn add(&mut self, id: SubConn) {
        self.endpoints.get_or_insert_with(id, Endpoint::default);
    }

    /// Applies the restored entries. The first list after a restore contains all endpoints; entries of others are
    /// dropped.
    pub(crate) fn keep(&mut self, all: &[hotpick_guest::Endpoint], config: &Config, now: Nanos) {
        if self.restored.is_empty() {
            return;
        }
        // A damaged time, or one of another clock, must not last forever.
        for (_, endpoint) in &mut self.restored {
            endpoint.ejected_at = endpoint.ejected_at.map(|at| at.min(now));
        }
        let there: SubConnSet = all.iter().map(|endpoint| endpoint.id).collect();
        for (id, endpoint) in self.restored.drain(..).filter(|(id, _)| there.has(*id)) {
            self.endpoints.insert(id, endpoint);
        }
        // The limit may have changed.
        all.iter().for_each(|endpoint| self.add(endpoint.id));
        let (mut out, most) = (0, config.max_ejection_percent as usize * self.endpoints.len());
        for endpoint in self.endpoints.values_mut().filter(|endpoint| endpoint.ejected_at.is_some()) {
            if out * 100 >= most {
                endpoint.ejected_at = None;
            }
            out += 1;
        }
    }

    pub(crate) fn remove(&mut self, id: SubConn) {
        self.endpoints.remove(id);
    }

    /// Counts the end of an RPC. Returns whether it ejected the endpoint for consecutive failures.
    pub(crate) fn ended(&mut self, id: SubConn, well: bool, config: &Config, now: Nanos) -> bool {
        let Some(endpoint) = self.endpoints.get_mut(id) else { return false };
        let count = if well { &mut endpoint.successes } else { &mut endpoint.failures };
        *count = count.saturating_add(1);
        endpoint.in_a_row = if well { 0 } else { endpoint.in_a_row.saturating_add(1) };
        // While an endpoint is ejected, RPCs in flight that fail do not eject it again.
        let is_too_much = config.consecutive_failures.is_some_and(|most| endpoint.in_a_row >= most);
        is_too_much && self.may_eject(config) && self.eject(id, 100, now)
    }

    /// Returns whether fewer endpoints are ejected than allowed. The endpoint that reaches the limit is still ejected.
    fn may_eject(&self, config: &Config) -> bool {
        self.ejected() * 100 < config.max_ejection_percent as usize * self.endpoints.len()
    }

    pub(crate) fn is_ejected(&self, id: SubConn) -> bool {
        self.endpoints.get(id).is_some_and(|endpoint| endpoint.ejected_at.is_some())
    }

    pub(crate) fn ejected(&self) -> usize {
        self.endpoints.values().filter(|endpoint| endpoint.ejected_at.is_some()).count()
    }

    /// Evaluates the counts since the last evaluation. Returns the number of ejections.
    pub(crate) fn look(&mut self, config: &Config, now: Nanos) -> u64 {
        let mut outliers = Vec::new();
        if let Some(rate) = &config.success_rate_ejection {
            outliers
                .extend(self.by_success_rate(rate).into_iter().map(|id| (id, rate.enforcement_percentage)));
        }
        if let Some(rate) = &config.failure_percentage_ejection {
            outliers.extend(self.by_failures(rate).into_iter().map(|id| (id, rate.enforcement_percentage)));
        }
        // A50 leaves the order open. The worst are ejected first, and of equal ones those with lower numbers. A heap
        // sorts with less code.
        let ordered = |(id, enforcement): (SubConn, u32)| (self.success(id).to_bits(), id, enforcement);
        let outliers = outliers.into_iter().map(ordered).collect::<BinaryHeap<_>>().into_sorted_vec();
        let mut count = 0;
        for (_, id, enforcement) in outliers {
            if !self.may_eject(config) {
                break;
            }
            count += usize::from(self.eject(id, enforcement, now));
        }
        for endpoint in self.endpoints.values_mut() {
            (endpoint.successes, endpoint.failures) = (0, 0);
            let Some(at) = endpoint.ejected_at else {
                endpoint.multiplier = endpoint.multiplier.saturating_sub(1);
                continue;
            };
            let most = config.base_ejection_time.max(config.max_ejection_time);
            let time = config.base_ejection_time.saturating_mul(endpoint.multiplier).min(most);
            if now > at.saturating_add(nanos(time)) {
                (endpoint.ejected_at, endpoint.in_a_row) = (None, 0);
            }
        }
        count as u64
    }

    /// Returns the percentage of RPCs since the last evaluation that succeeded.
    fn success(&self, id: SubConn) -> f64 {
        self.endpoints.get(id).map_or(100.0, |endpoint| endpoint.percentage(endpoint.successes))
    }

    /// Returns the endpoints with enough requests. Empty if they are too few to compare.
    fn counted(&self, volume: u32, hosts: u32) -> Vec<(SubConn, &Endpoint)> {
        let endpoints = self.endpoints.iter();
        let counted: Vec<_> =
            endpoints.filter(|(_, endpoint)| endpoint.requests() >= volume.max(1)).collect();
        if counted.len() < hosts as usize { Vec::new() } else { counted }
    }

    /// Returns the endpoints whose success rate is too many standard deviations below the mean.
    #[expect(clippy::cast_precision_loss, reason = "a number of endpoints")]
    fn by_success_rate(&self, rate: &SuccessRate) -> Vec<SubConn> {
        let counted = self.counted(rate.request_volume, rate.minimum_hosts);
        let n = counted.len() as f64;
        let rates = || counted.iter().map(|(id, endpoint)| (*id, endpoint.percentage(endpoint.successes)));
        let mean = rates().map(|(_, rate)| rate).sum::<f64>() / n;
        let variance = rates().map(|(_, rate)| (rate - mean) * (rate - mean)).sum::<f64>() / n;
        let threshold = mean - variance.sqrt() * f64::from(rate.stdev_factor) / 1_000.0;
        rates().filter(|(_, rate)| *rate < threshold).map(|(id, _)| id).collect()
    }

    fn by_failures(&self, rate: &FailurePercentage) -> Vec<SubConn> {
        let counted = self.counted(rate.request_volume, rate.minimum_hosts).into_iter();
        let fails = |endpoint: &Endpoint| endpoint.percentage(endpoint.failures) > rate.threshold.into();
        counted.filter(|(_, endpoint)| fails(endpoint)).map(|(id, _)| id).collect()
    }

    fn eject(&mut self, id: SubConn, enforcement: u32, now: Nanos) -> bool {
        let enforced = self.random.below(100) < enforcement as usize;
        match self.endpoints.get_mut(id) {
            Some(endpoint) if endpoint.ejected_at.is_none() && enforced => {
                endpoint.ejected_at = Some(now);
                endpoint.multiplier = endpoint.multiplier.saturating_add(1);
                true
            }
            _ => false,
        }
    }

    /// Returns the ejections: number, multiplier and time of each endpoint, 16 bytes each.
    pub(crate) fn save(&self) -> Vec<u8> {
        let mut data = Vec::new();
        for (id, endpoint) in self.endpoints.iter().filter(|(_, endpoint)| endpoint.multiplier > 0) {
            data.extend(id.to_le_bytes());
            data.extend(endpoint.multiplier.to_le_bytes());
            data.extend(endpoint.ejected_at.map_or(0, |at| at.max(1)).to_le_bytes());
        }
        data
    }

    /// Restores saved ejections.
    pub(crate) fn restore(&mut self, data: &[u8]) -> Result<(), String> {
        for entry in data.chunks(16) {
            let parts = entry.split_first_chunk().and_then(|(id, rest)| {
                let (multiplier, at) = rest.split_first_chunk()?;
                Some((
                    u32::from_le_bytes(*id),
                    u32::from_le_bytes(*multiplier),
                    Nanos::from_le_bytes(*at.first_chunk()?),
                ))
            });
            let (id, multiplier, at) = parts.ok_or("saved ejections are truncated")?;
            let ejected_at = (at > 0).then_some(at);
            self.restored.push((id, Endpoint { multiplier, ejected_at, ..Endpoint::default() }));
        }
        Ok(())
    }
}
