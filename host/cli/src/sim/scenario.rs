//! Scenarios: what happens in a simulation.

use std::path::Path;

use anyhow::{Context as _, ensure};
use serde::Deserialize;

/// A scenario, built in or from a file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Scenario {
    /// Length, after the warm-up (s).
    pub(super) seconds: f64,
    /// Time before it in which nothing is measured (s).
    pub(super) warmup: f64,
    /// Programs that send RPCs, each with a channel of its own.
    pub(super) clients: u32,
    pub(super) endpoints: u32,
    /// RPCs per second of all clients together, at random times (Poisson).
    pub(super) rate: f64,
    pub(super) servers: Servers,
    /// Time for a request to the server, and for the response back (ms each).
    pub(super) network_ms: f64,
    /// Deadline of an RPC (ms). `None`: it has none.
    pub(super) deadline_ms: Option<f64>,
    /// Attempts of an RPC that fails with UNAVAILABLE.
    pub(super) attempts: u32,
    /// Keys in the metadata `hash-key`. `None`: no metadata.
    pub(super) keys: Option<Keys>,
    pub(super) events: Vec<Event>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Servers {
    /// RPCs that a server works on at once. Others wait, first come, first served.
    pub(super) slots: u32,
    /// Mean time of work on an RPC (ms).
    pub(super) mean_ms: f64,
    pub(super) distribution: Distribution,
    /// For `lognormal`: the standard deviation of the logarithm.
    pub(super) sigma: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Distribution {
    Constant,
    Exponential,
    Lognormal,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    pub(super) count: u32,
    /// Exponent of Zipf's law. 0: all keys are as frequent.
    pub(super) skew: f64,
}

/// Something that happens to the first endpoints, or to those from `from` on.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Event {
    /// Time after the warm-up (s).
    pub(super) at: f64,
    pub(super) action: Action,
    #[serde(default)]
    pub(super) from: u32,
    pub(super) count: u32,
    /// For `slow`: how many times longer the work takes.
    #[serde(default = "one")]
    pub(super) factor: f64,
    /// For `pause`: how long the servers do nothing (s).
    #[serde(default = "one")]
    pub(super) seconds: f64,
}

const fn one() -> f64 {
    1.0
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Action {
    /// The servers take longer.
    Slow,
    /// The servers do nothing for a while, as in a collection of garbage.
    Pause,
    /// The servers answer UNAVAILABLE at once.
    Fail,
    /// The servers are as at the start.
    Heal,
    /// The resolver does not have the endpoints any more.
    Leave,
    /// The resolver has the endpoints again.
    Join,
}

impl Default for Servers {
    fn default() -> Self {
        Self { slots: 4, mean_ms: 5.0, distribution: Distribution::Exponential, sigma: 1.0 }
    }
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            seconds: 30.0,
            warmup: 5.0,
            clients: 1,
            endpoints: 10,
            rate: 4000.0,
            servers: Servers::default(),
            network_ms: 0.25,
            deadline_ms: None,
            attempts: 1,
            keys: None,
            events: Vec::new(),
        }
    }
}

/// Names of the scenarios that are built in, each with a sentence.
pub(super) const BUILT_IN: [(&str, &str); 13] = [
    ("steady", "ten endpoints at half of their capacity"),
    ("one-slow", "one of ten takes five times as long, from 10 s to 20 s"),
    ("half-slow", "five of ten take three times as long, from 10 s to 20 s"),
    ("antagonist", "another program on three of ten servers: twice as long, for 2 s out of 4 s"),
    ("gc-pause", "every second another endpoint does nothing for 0.2 s"),
    ("rolling-restart", "one endpoint after the other leaves, and joins 2 s later"),
    ("cold-join", "an endpoint joins at 10 s, and takes five times as long for its first 5 s"),
    ("hot-key", "1,000 keys by Zipf's law"),
    ("zone-loss", "four of ten fail all RPCs from 10 s to 20 s; three attempts"),
    ("retry-storm", "a short slowness at 90 % of the capacity, with deadlines and three attempts"),
    ("low-qps", "20 RPCs per second"),
    ("herd", "50 clients that know only their own RPCs"),
    ("10k-endpoints", "10,000 endpoints with one slot each, at half of their capacity, for a second"),
];

/// Returns a scenario that is built in.
fn built_in(name: &str) -> Option<Scenario> {
    let event = |at: f64, action: Action, from: u32, count: u32, factor: f64, seconds: f64| Event {
        at,
        action,
        from,
        count,
        factor,
        seconds,
    };
    let during = |count: u32, factor: f64| {
        vec![event(10.0, Action::Slow, 0, count, factor, 1.0), event(20.0, Action::Heal, 0, count, 1.0, 1.0)]
    };
    let usual = Scenario::default();
    Some(match name {
        "steady" => usual,
        "one-slow" => Scenario { events: during(1, 5.0), ..usual },
        "half-slow" => Scenario { events: during(5, 3.0), ..usual },
        "antagonist" => {
            let turn = |turn: u32| {
                let at = 4.0 * f64::from(turn);
                [event(at, Action::Slow, 0, 3, 2.0, 1.0), event(at + 2.0, Action::Heal, 0, 3, 1.0, 1.0)]
            };
            Scenario { events: (0..7).flat_map(turn).collect(), ..usual }
        }
        "gc-pause" => {
            let pause = |second: u32| event(f64::from(second), Action::Pause, second % 10, 1, 1.0, 0.2);
            Scenario { events: (1..30).map(pause).collect(), ..usual }
        }
        "rolling-restart" => {
            let restart = |one: u32| {
                let at = 2.0 + 2.5 * f64::from(one);
                [event(at, Action::Leave, one, 1, 1.0, 1.0), event(at + 2.0, Action::Join, one, 1, 1.0, 1.0)]
            };
            Scenario { events: (0..10).flat_map(restart).collect(), ..usual }
        }
        "cold-join" => Scenario {
            events: vec![
                event(-5.0, Action::Leave, 9, 1, 1.0, 1.0),
                event(10.0, Action::Slow, 9, 1, 5.0, 1.0),
                event(10.0, Action::Join, 9, 1, 1.0, 1.0),
                event(15.0, Action::Heal, 9, 1, 1.0, 1.0),
            ],
            ..usual
        },
        "hot-key" => Scenario { keys: Some(Keys { count: 1000, skew: 1.0 }), ..usual },
        "zone-loss" => Scenario {
            attempts: 3,
            events: vec![
                event(10.0, Action::Fail, 0, 4, 1.0, 1.0),
                event(20.0, Action::Heal, 0, 4, 1.0, 1.0),
            ],
            ..usual
        },
        "retry-storm" => Scenario {
            rate: 7200.0,
            deadline_ms: Some(60.0),
            attempts: 3,
            events: vec![
                event(10.0, Action::Slow, 0, 10, 2.0, 1.0),
                event(12.0, Action::Heal, 0, 10, 1.0, 1.0),
            ],
            ..usual
        },
        "low-qps" => Scenario { rate: 20.0, seconds: 300.0, ..usual },
        "10k-endpoints" => Scenario {
            endpoints: 10_000,
            rate: 1_000_000.0,
            seconds: 1.0,
            warmup: 0.25,
            servers: Servers { slots: 1, ..usual.servers },
            ..usual
        },
        "herd" => Scenario { clients: 50, rate: 6000.0, ..usual },
        _ => return None,
    })
}

impl Scenario {
    /// Returns the scenario of this name, or that in the file of this name.
    pub(super) fn named(name: &str) -> anyhow::Result<Self> {
        if let Some(scenario) = built_in(name) {
            return Ok(scenario);
        }
        let names = BUILT_IN.map(|(name, _)| name).join(", ");
        let is_file = Path::new(name).extension().is_some_and(|extension| extension == "toml");
        ensure!(is_file, "{name:?} is no scenario: choose from {names}, or name a file such as mine.toml");
        let text = std::fs::read_to_string(name).with_context(|| format!("cannot read {name:?}"))?;
        let scenario: Self = toml::from_str(&text).with_context(|| format!("{name:?} is no scenario"))?;
        scenario.check().with_context(|| format!("{name:?} cannot be"))?;
        Ok(scenario)
    }

    fn check(&self) -> anyhow::Result<()> {
        let within = |name: &str, value: f64, least: f64, most: f64| {
            ensure!((least..=most).contains(&value), "{name} is {value}: it must be {least} to {most}");
            Ok(())
        };
        within("seconds", self.seconds, 0.1, 86_400.0)?;
        within("warmup", self.warmup, 0.0, 86_400.0)?;
        within("clients", self.clients.into(), 1.0, 10_000.0)?;
        within("endpoints", self.endpoints.into(), 1.0, 10_000.0)?;
        within("rate", self.rate, 0.001, 10_000_000.0)?;
        within("servers.slots", self.servers.slots.into(), 1.0, 100_000.0)?;
        within("servers.mean_ms", self.servers.mean_ms, 0.000_1, 3_600_000.0)?;
        within("servers.sigma", self.servers.sigma, 0.0, 5.0)?;
        // Each takes memory: a slot of a server, and an endpoint of a client's channel.
        let endpoints = f64::from(self.endpoints);
        within("endpoints x servers.slots", endpoints * f64::from(self.servers.slots), 1.0, 10_000_000.0)?;
        within("endpoints x clients", endpoints * f64::from(self.clients), 1.0, 1_000_000.0)?;
        within("network_ms", self.network_ms, 0.0, 60_000.0)?;
        within("attempts", self.attempts.into(), 1.0, 5.0)?;
        if let Some(deadline) = self.deadline_ms {
            within("deadline_ms", deadline, 0.001, 86_400_000.0)?;
        }
        if let Some(Keys { count, skew }) = self.keys {
            within("keys.count", count.into(), 1.0, 1_000_000.0)?;
            within("keys.skew", skew, 0.0, 5.0)?;
        }
        for (i, event) in self.events.iter().enumerate() {
            within(&format!("events[{i}].at"), event.at, -self.warmup, self.seconds)?;
            within(&format!("events[{i}].factor"), event.factor, 0.001, 1e6)?;
            within(&format!("events[{i}].seconds"), event.seconds, 0.0, 86_400.0)?;
            let end = event.from.checked_add(event.count);
            ensure!(
                end.is_some_and(|end| end <= self.endpoints),
                "events[{i}] is about endpoints beyond the {} that there are",
                self.endpoints
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_that_is_built_in_can_be() {
        for (name, _) in BUILT_IN {
            built_in(name).expect(name).check().unwrap_or_else(|error| panic!("{name}: {error:#}"));
        }
        let said = Scenario::named("nowhere").expect_err("none").to_string();
        assert!(said.contains("one-slow") && said.contains("mine.toml"), "{said}");
    }

    #[test]
    fn a_file_that_cannot_be_is_refused_by_its_field() {
        for (text, words) in [
            ("secnds = 1", "unknown field `secnds`"),
            ("seconds = -1.0", "seconds is -1"),
            ("rate = nan", "rate is NaN"),
            ("endpoints = 3\n[[events]]\nat = 1.0\naction = \"fail\"\nfrom = 2\ncount = 2", "beyond the 3"),
            ("[[events]]\nat = 99.0\naction = \"fail\"\ncount = 1", "events[0].at is 99"),
            ("endpoints = 10000\n[servers]\nslots = 100000", "endpoints x servers.slots is 1000000000"),
            ("endpoints = 10000\nclients = 10000", "endpoints x clients is 100000000"),
            ("[servers]\ndistribution = \"odd\"", "unknown variant `odd`"),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            let file = folder.path().join("mine.toml");
            std::fs::write(&file, text).expect("written");
            let said = Scenario::named(file.to_str().expect("a path")).expect_err(text);
            assert!(format!("{said:#}").contains(words), "{text}: {said:#}");
        }
    }
}
