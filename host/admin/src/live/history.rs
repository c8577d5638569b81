//! Rates and latencies of the last minutes, by channel and by endpoint.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use hotpick::connectivity::ConnectivityState;
use hotpick::subconn::SubConn;
use serde_json::{Map, Value, json};

use crate::calls::{Totals, quantile};
use crate::status::millis;

/// Samples that are kept.
const KEPT: usize = 360;
/// Endpoints of a channel with a history. The others have only the current numbers.
const MOST_ENDPOINTS: usize = 2000;

/// The history of all channels.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Times of the samples (milliseconds since 1970).
    times: VecDeque<u64>,
    channels: Vec<ChannelHistory>,
}

#[derive(Debug, Default)]
struct ChannelHistory {
    last: Option<Totals>,
    started: Series,
    failed: Series,
    in_flight: Series,
    p50: Series,
    p99: Series,
    endpoints: HashMap<u32, EndpointHistory>,
}

#[derive(Debug, Default)]
struct EndpointHistory {
    /// Picked and failed so far.
    last: Option<(u64, u64)>,
    picks: Series,
    failed: Series,
    in_flight: Series,
    latency: Series,
    is_present: bool,
}

/// The last samples of one number. NaN: there was none.
#[derive(Debug, Default)]
struct Series(VecDeque<f32>);

impl Series {
    /// Appends a sample. A series that has begun later than others lacks their first samples.
    fn push(&mut self, value: f64) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        #[expect(clippy::cast_possible_truncation, reason = "precise enough for a plot")]
        self.0.push_back(value as f32);
    }

    /// The samples, with `null` for those that are missing.
    fn json(&self, count: usize) -> Value {
        let missing = std::iter::repeat_n(Value::Null, count.saturating_sub(self.0.len()));
        missing.chain(self.0.iter().map(|value| rounded(f64::from(*value)))).collect()
    }
}

/// A number with three decimals; `null` for NaN.
fn rounded(value: f64) -> Value {
    if value.is_finite() { json!((value * 1000.0).round() / 1000.0) } else { Value::Null }
}

const STATES: [ConnectivityState; 5] = [
    ConnectivityState::Idle,
    ConnectivityState::Connecting,
    ConnectivityState::Ready,
    ConnectivityState::TransientFailure,
    ConnectivityState::Shutdown,
];

impl History {
    /// Starts a sample.
    pub(super) fn begin(&mut self, now: u64) {
        if self.times.len() == KEPT {
            self.times.pop_front();
        }
        self.times.push_back(now);
    }

    /// Records a sample of one channel, taken `elapsed` after the one before. Returns its part of a tick.
    pub(super) fn sample(
        &mut self,
        id: usize,
        totals: Totals,
        subconns: &[SubConn],
        elapsed: Duration,
    ) -> Value {
        if self.channels.len() <= id {
            self.channels.resize_with(id + 1, Default::default);
        }
        let channel = &mut self.channels[id];
        let before = channel.last.get_or_insert_with(|| totals.clone());
        let rate = |now: u64, then: u64| per_second(now.saturating_sub(then), elapsed);
        let ended = totals.duration.since(&before.duration);
        let started = rate(totals.started, before.started);
        let failed = rate(totals.failed, before.failed);
        let in_flight = float(totals.started.saturating_sub(totals.ended));
        let [p50, p99] = [0.5, 0.99].map(|part| quantile(&ended, part).map_or(f64::NAN, |nanos| nanos / 1e6));
        channel.last = Some(totals);
        for (series, value) in [
            (&mut channel.started, started),
            (&mut channel.failed, failed),
            (&mut channel.in_flight, in_flight),
            (&mut channel.p50, p50),
            (&mut channel.p99, p99),
        ] {
            series.push(value);
        }
        channel.endpoints.values_mut().for_each(|endpoint| endpoint.is_present = false);
        let endpoints: Vec<_> = subconns.iter().map(|subconn| channel.endpoint(subconn, elapsed)).collect();
        channel.endpoints.retain(|_, endpoint| endpoint.is_present);
        json!({
            "id": id,
            "started": rounded(started),
            "failed": rounded(failed),
            "in_flight": in_flight,
            "p50": rounded(p50),
            "p99": rounded(p99),
            "endpoints": endpoints,
        })
    }

    /// Returns the history of one channel as a whole.
    pub(super) fn of_channel(&self, id: usize) -> Value {
        let count = self.times.len();
        let channel = self.channels.get(id);
        let of = |series: fn(&ChannelHistory) -> &Series| {
            channel.map_or_else(|| Series::default().json(count), |channel| series(channel).json(count))
        };
        json!({
            "t": self.times,
            "started": of(|channel| &channel.started),
            "failed": of(|channel| &channel.failed),
            "in_flight": of(|channel| &channel.in_flight),
            "p50": of(|channel| &channel.p50),
            "p99": of(|channel| &channel.p99),
        })
    }

    /// Returns the history of some endpoints.
    pub(super) fn of_endpoints(&self, id: usize, endpoints: &[u32]) -> Value {
        let count = self.times.len();
        let mut all = Map::new();
        let channel = self.channels.get(id);
        for endpoint in endpoints {
            let Some(history) = channel.and_then(|channel| channel.endpoints.get(endpoint)) else { continue };
            let json = json!({
                "picks": history.picks.json(count),
                "failed": history.failed.json(count),
                "in_flight": history.in_flight.json(count),
                "latency": history.latency.json(count),
            });
            all.insert(endpoint.to_string(), json);
        }
        json!({ "t": self.times, "endpoints": all })
    }
}

impl ChannelHistory {
    /// Records a sample of one endpoint. Returns its part of a tick.
    fn endpoint(&mut self, subconn: &SubConn, elapsed: Duration) -> Value {
        let stats = subconn.stats();
        let is_known = self.endpoints.len() < MOST_ENDPOINTS || self.endpoints.contains_key(&subconn.id());
        let mut unknown = EndpointHistory::default();
        let history = if is_known { self.endpoints.entry(subconn.id()).or_default() } else { &mut unknown };
        let now = (stats.picked, stats.failed);
        let before = history.last.replace(now).unwrap_or(now);
        let picks = per_second(now.0.saturating_sub(before.0), elapsed);
        let failed = per_second(now.1.saturating_sub(before.1), elapsed);
        let (in_flight, latency) = (stats.in_flight, millis(stats.latency));
        history.is_present = true;
        history.picks.push(picks);
        history.failed.push(failed);
        history.in_flight.push(in_flight.into());
        history.latency.push(latency);
        let state = subconn.state();
        let state = STATES.iter().position(|known| *known == state);
        json!([subconn.id(), state, in_flight, rounded(picks), rounded(failed), rounded(latency)])
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn float(number: u64) -> f64 {
    number as f64
}

fn per_second(count: u64, elapsed: Duration) -> f64 {
    float(count) / elapsed.as_secs_f64().max(0.001)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::Calls;

    #[test]
    fn a_series_is_bounded_and_padded() {
        let mut series = Series::default();
        (0..500).for_each(|number| series.push(f64::from(number)));
        assert_eq!(series.0.len(), KEPT);
        let mut late = Series::default();
        late.push(1.25);
        late.push(f64::NAN);
        assert_eq!(late.json(4), json!([null, null, 1.25, null]));
    }

    #[test]
    fn rates_are_differences_of_totals() {
        let (mut history, calls) = (History::default(), Calls::default());
        let mut totals = calls.totals();
        history.begin(1000);
        let first = history.sample(0, totals.clone(), &[], Duration::from_secs(2));
        assert_eq!((&first["started"], &first["p50"]), (&json!(0.0), &Value::Null), "{first}");
        (totals.started, totals.failed, totals.ended) = (10, 4, 7);
        history.begin(3000);
        let second = history.sample(0, totals, &[], Duration::from_secs(2));
        assert_eq!((&second["started"], &second["failed"]), (&json!(5.0), &json!(2.0)), "{second}");
        assert_eq!(second["in_flight"], 3.0);
        assert_eq!(history.of_channel(0)["started"], json!([0.0, 5.0]));
        assert_eq!(
            history.of_channel(7)["started"],
            json!([null, null]),
            "an unknown channel has no history"
        );
    }
}
