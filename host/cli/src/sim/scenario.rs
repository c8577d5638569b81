//! Scenarios: what happens in a simulation.

use std::path::Path;

use anyhow::{Context as _, ensure};
use schemars::JsonSchema;
use serde::Deserialize;

use super::built_in::{BUILT_IN, built_in};

/// A scenario of `hotpick sim`. Fields that are missing are those of `steady`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Scenario {
    /// Length, after the warm-up (s).
    pub(super) seconds: f64,
    /// Time before it in which nothing is measured (s).
    pub(super) warmup: f64,
    /// Programs that send RPCs, each with a channel of its own.
    pub(super) clients: u32,
    pub(super) endpoints: u32,
    /// Endpoints that each client knows, chosen at random. `None`: all.
    pub(super) view: Option<u32>,
    /// RPCs per second of all clients together.
    pub(super) rate: f64,
    /// When RPCs arrive.
    pub(super) arrivals: Arrivals,
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

/// When RPCs arrive.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Arrivals {
    /// At random times (Poisson).
    Poisson,
    /// Groups that arrive together, at random times.
    Bursts {
        /// RPCs of a burst.
        size: u32,
    },
    /// Callers that wait for the answer, and then for a random time. `rate` is not used.
    Closed {
        /// Callers of all clients together.
        callers: u32,
        /// Mean time between an answer and the next RPC (ms).
        #[serde(default)]
        think_ms: f64,
    },
}

/// The servers.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Servers {
    /// RPCs that a server works on at once. Others wait, first come, first served.
    pub(super) slots: u32,
    /// RPCs that may wait at a server. More are answered UNAVAILABLE at once. `None`: any number.
    pub(super) queue: Option<u32>,
    /// Mean time of work on an RPC (ms).
    pub(super) mean_ms: f64,
    pub(super) distribution: Distribution,
    /// For `lognormal`: the standard deviation of the logarithm.
    pub(super) sigma: f64,
    /// For `file`: a file with a time of work (ms) in each line, of which one is drawn for each RPC. `mean_ms` does not
    /// count.
    pub(super) times: Option<String>,
    /// Whether responses have a load report (ORCA): the part of the slots that are busy, and the RPCs per second.
    pub(super) load_report: bool,
    /// The times of the file.
    #[serde(skip)]
    pub(super) drawn: Vec<f64>,
}

/// Distribution of the time of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Distribution {
    Constant,
    Exponential,
    Lognormal,
    File,
}

/// Keys in the metadata `hash-key`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    pub(super) count: u32,
    /// Exponent of Zipf's law. 0: all keys are as frequent.
    pub(super) skew: f64,
}

/// Something that happens to the first endpoints, or to those from `from` on.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
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
    /// For `pause`: how long the servers do nothing; for `disconnect`: how long they cannot be connected to (s).
    #[serde(default = "one")]
    pub(super) seconds: f64,
    /// Time until it happens again (s), if `times` is more than 1.
    #[serde(default)]
    pub(super) every: f64,
    /// How often it happens.
    #[serde(default = "once")]
    pub(super) times: u32,
}

const fn once() -> u32 {
    1
}

const fn one() -> f64 {
    1.0
}

/// What happens to endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
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
    /// All connections to the servers are lost, and made again later. RPCs in flight fail with UNAVAILABLE.
    Disconnect,
}

impl Default for Servers {
    fn default() -> Self {
        Self {
            slots: 4,
            queue: None,
            mean_ms: 5.0,
            distribution: Distribution::Exponential,
            sigma: 1.0,
            times: None,
            load_report: false,
            drawn: Vec::new(),
        }
    }
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            seconds: 30.0,
            warmup: 5.0,
            clients: 1,
            endpoints: 10,
            view: None,
            rate: 4000.0,
            arrivals: Arrivals::Poisson,
            servers: Servers::default(),
            network_ms: 0.25,
            deadline_ms: None,
            attempts: 1,
            keys: None,
            events: Vec::new(),
        }
    }
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
        let mut scenario: Self = toml::from_str(&text).with_context(|| format!("{name:?} is no scenario"))?;
        scenario.check().with_context(|| format!("{name:?} cannot be"))?;
        let folder = Path::new(name).parent().unwrap_or(Path::new("."));
        scenario.servers.draw_from(folder).with_context(|| format!("{name:?} cannot be"))?;
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
        if let Some(view) = self.view {
            within("view", view.into(), 1.0, self.endpoints.into())?;
        }
        match self.arrivals {
            Arrivals::Poisson => {}
            Arrivals::Bursts { size } => within("arrivals.size", size.into(), 1.0, 100_000.0)?,
            Arrivals::Closed { callers, think_ms } => {
                within("arrivals.callers", callers.into(), 1.0, 1_000_000.0)?;
                within("arrivals.think_ms", think_ms, 0.0, 3_600_000.0)?;
            }
        }
        let from_file = self.servers.distribution == Distribution::File;
        ensure!(
            from_file == self.servers.times.is_some(),
            "servers.times and servers.distribution = \"file\" go together"
        );
        for (i, event) in self.events.iter().enumerate() {
            within(&format!("events[{i}].times"), event.times.into(), 1.0, 100_000.0)?;
            ensure!(
                event.times == 1 || event.every > 0.0,
                "events[{i}] happens {} times: say how often, by every",
                event.times
            );
            within(&format!("events[{i}].every"), event.every, 0.0, 86_400.0)?;
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

impl Servers {
    /// Reads the times of work from their file, relative to this folder.
    fn draw_from(&mut self, folder: &Path) -> anyhow::Result<()> {
        let Some(file) = &self.times else { return Ok(()) };
        let file = folder.join(file);
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {file:?}"))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty()).enumerate();
        self.drawn = lines
            .map(|(number, line)| {
                let time = line.parse().ok().filter(|ms| (0.0..=3_600_000.0).contains(ms));
                time.with_context(|| format!("{file:?}, line {}: {line:?} is not a time in ms", number + 1))
            })
            .collect::<anyhow::Result<_>>()?;
        ensure!(!self.drawn.is_empty(), "{file:?} has no times");
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
            ("[servers]\ndistribution = \"file\"", "go together"),
            ("[servers]\ndistribution = \"file\"\ntimes = \"none\"", "cannot read"),
            ("view = 11", "view is 11: it must be 1 to 10"),
            ("arrivals = { kind = \"bursts\", size = 0 }", "arrivals.size is 0"),
            ("arrivals = { kind = \"odd\" }", "unknown variant `odd`"),
            ("[[events]]\nat = 1.0\naction = \"fail\"\ncount = 1\ntimes = 2", "events[0] happens 2 times"),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            let file = folder.path().join("mine.toml");
            std::fs::write(&file, text).expect("written");
            let said = Scenario::named(file.to_str().expect("a path")).expect_err(text);
            assert!(format!("{said:#}").contains(words), "{text}: {said:#}");
        }
    }
}
