//! The interface `stats`: the host's statistics of each subconn.

use std::time::Duration;

use tokio::time::Instant;

use super::state::HostState;
use super::tape::{Question, ids};
use crate::policy::instance::bindings::hotpick::policy::stats;
use crate::policy::instance::time::{nanos, now};
use crate::subconn::SubConn;

impl stats::Host for HostState {
    fn in_flight(&mut self, id: u32) -> u32 {
        self.answered(Question::in_flight(id.into()), |state| {
            state.acknowledged.find(id).map_or(0, SubConn::in_flight)
        })
    }

    fn least(&mut self, among: Vec<u32>, by: stats::Measure) -> Option<u32> {
        let arguments = if self.is_taped() { ids(&among) ^ by as u64 } else { 0 };
        self.answered(Question::least(arguments), |state| state.find_least(among, by))
    }

    fn read(&mut self, id: u32) -> Option<stats::Summary> {
        self.answered(Question::read(id.into()), |state| state.acknowledged.find(id).map(summary))
    }

    fn responses(&mut self, id: u32) -> Option<stats::ResponseCounts> {
        self.answered(Question::responses(id.into()), |state| state.acknowledged.find(id).map(responses))
    }
}

impl HostState {
    fn find_least(&self, among: Vec<u32>, by: stats::Measure) -> Option<u32> {
        // A longer list can only repeat subconns.
        let among = among.into_iter().take(self.acknowledged.all().len());
        let known = among.filter_map(|id| self.acknowledged.find(id).map(|subconn| (id, subconn)));
        let measured = known.map(|(id, subconn)| {
            let measure = match by {
                stats::Measure::InFlight => f64::from(subconn.in_flight()),
                stats::Measure::LatencyEwma => subconn.stats().latency.as_secs_f64(),
                stats::Measure::FailureRateEwma => subconn.stats().failure_rate,
            };
            (id, measure)
        });
        measured.min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(id, _)| id)
    }
}

fn summary(subconn: &SubConn) -> stats::Summary {
    let stats = subconn.stats();
    stats::Summary {
        in_flight: stats.in_flight,
        max_streams: subconn.max_streams(),
        picked: stats.picked,
        succeeded: stats.succeeded,
        failed: stats.failed,
        latency_ewma: nanos(stats.latency),
        ready_since: stats.ready_since.map_or(0, at),
    }
}

fn responses(subconn: &SubConn) -> stats::ResponseCounts {
    let counted = subconn.responses();
    stats::ResponseCounts {
        in_flight: counted.in_flight,
        max_streams: subconn.max_streams(),
        silence: nanos(counted.silence),
        begun: counted.begun,
        waited: counted.waited,
        abandoned: counted.abandoned,
        abandoned_after: counted.abandoned_after,
        ended: counted.ended,
        faulty: counted.faulty,
    }
}

/// Converts a past moment to the policies' time.
fn at(moment: Instant) -> u64 {
    let ago = Instant::now().saturating_duration_since(moment);
    now().saturating_sub(nanos(ago.max(Duration::ZERO)))
}
