//! `hotpick sim`: what a policy would do, simulated in virtual time with the policy's own component and the host's own code.

mod built_in;
mod callers;
mod clients;
mod clock;
mod events;
mod measured;
mod past;
mod real;
mod report;
mod scenario;
mod servers;
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use hotpick::directory;
use hotpick::policy::{Policy, RoundRobin, WasmPolicy};

use self::built_in::BUILT_IN;
pub(crate) use self::measured::Measured;
pub(crate) use self::past::{Differences, Past};
use self::scenario::Scenario;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Policy files, which are simulated one after the other with the same arrivals and the same work. The settings beside a
    /// file (NAME.toml beside NAME.wasm) apply.
    #[arg(value_name = "FILE", required_unless_present_any = ["list", "schema"])]
    files: Vec<PathBuf>,
    /// A scenario that is built in, a TOML file, or a trace (NAME.trace).
    #[arg(long, value_name = "NAME|FILE", default_value = "steady")]
    scenario: String,
    /// The same seed gives the same result.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Configuration to start the policies with.
    #[arg(long, value_name = "JSON", default_value = "{}")]
    config: String,
    /// Run the scenario with real servers in this process as well, in real time, and print how the simulation differs.
    #[arg(long)]
    real: bool,
    /// Write a page with plots: latency over time, and the share of each server.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the numbers over time.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// List the scenarios that are built in.
    #[arg(long)]
    list: bool,
    /// Print the JSON Schema of scenario files.
    #[arg(long)]
    schema: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if arguments.list {
        for (name, text) in BUILT_IN {
            say!("{name:<16} {text}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.schema {
        say!("{:#}", schemars::schema_for!(Scenario).as_value());
        return Ok(ExitCode::SUCCESS);
    }
    // Before the first policy is compiled.
    let _ = hotpick::policy::SimulatedChannel::meter();
    let course = Course::named(&arguments.scenario)?;
    // One clock for all: the host counts time from when it is first asked.
    let runtime = paused()?;
    let headings = HEADINGS.map(|(name, width)| format!("{name:>width$}")).join("  ");
    say!("{headings}");
    let (mut rows, mut results, mut is_complete) = (vec![headings], Vec::new(), true);
    let own = (None, "native round robin".to_owned());
    let files = arguments.files.iter().map(|file| (Some(file), file.display().to_string()));
    for (file, name) in [own].into_iter().chain(files) {
        let config = if file.is_some() { arguments.config.as_str() } else { "{}" };
        let simulated = file.map(load).transpose().and_then(|policy| {
            let native = RoundRobin::default();
            let used: &dyn Policy = policy.as_ref().map_or(&native, |policy| policy);
            let measured = runtime.block_on(course.run(used, config, arguments.seed))?;
            Ok((policy, measured))
        });
        let (policy, measured) = match simulated {
            Ok(simulated) => simulated,
            // The others are of interest as well.
            Err(error) => {
                eprintln!("hotpick: {name}: {error:#}");
                is_complete = false;
                continue;
            }
        };
        let mut show = |name: String, measured: Measured| {
            rows.push(row(&name, &measured));
            say!("{}", rows[rows.len() - 1]);
            results.push((name, measured));
        };
        let quantiles = [0.5, 0.99].map(|quantile| measured.quantile(quantile));
        show(name.clone(), measured);
        if arguments.real {
            let measured =
                course.run_real(policy.as_ref(), config, arguments.seed).with_context(|| name.clone())?;
            let [p50, p99] = [0.5, 0.99].map(|quantile| measured.quantile(quantile));
            show(format!("{name}, real"), measured);
            let differs = |simulated: f64, real: f64| 100.0 * (simulated / real.max(f64::MIN_POSITIVE) - 1.0);
            let text = format!(
                "the simulation differs by {:+.1} % at p50 and {:+.1} % at p99",
                differs(quantiles[0], p50),
                differs(quantiles[1], p99)
            );
            say!("{text}");
            rows.push(text);
        }
    }
    if let Some(file) = &arguments.html {
        let page = report::html(&results, &arguments.scenario, course.seconds(), &rows.join("\n"));
        std::fs::write(file, page).with_context(|| format!("cannot write {file:?}"))?;
    }
    if let Some(file) = &arguments.csv {
        let csv = report::csv(&results, course.seconds());
        std::fs::write(file, csv).with_context(|| format!("cannot write {file:?}"))?;
    }
    Ok(if is_complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What happens to the policies: a scenario, or the past.
enum Course {
    Made(Box<Scenario>),
    Past(Box<Past>),
}

impl Course {
    fn named(name: &str) -> anyhow::Result<Self> {
        if Path::new(name).extension().is_some_and(|extension| extension == "trace") {
            let past = Past::of(&crate::replay::read(&PathBuf::from(name))?);
            return Ok(Self::Past(Box::new(past.with_context(|| format!("{name:?}"))?)));
        }
        Ok(Self::Made(Box::new(Scenario::named(name)?)))
    }

    fn seconds(&self) -> f64 {
        match self {
            Self::Made(scenario) => scenario.seconds,
            Self::Past(past) => past.seconds(),
        }
    }

    /// Runs a scenario with real servers.
    fn run_real(&self, policy: Option<&WasmPolicy>, config: &str, seed: u64) -> anyhow::Result<Measured> {
        let Self::Made(scenario) = self else {
            anyhow::bail!("a trace has no servers that could be real: --real is for scenarios");
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(real::run(policy, config, scenario, seed))
    }

    async fn run(&self, policy: &dyn Policy, config: &str, seed: u64) -> anyhow::Result<Measured> {
        // A round robin begins anywhere: the same anywhere each time.
        fastrand::seed(seed);
        match self {
            Self::Made(scenario) => world::run(policy, config, scenario, seed).await,
            Self::Past(past) => {
                past::run(policy, config, past, Some(seed)).await.map(|(measured, _)| measured)
            }
        }
    }
}

/// Gives the RPCs of the past to a policy.
pub(crate) fn run_past(
    policy: &dyn Policy,
    config: &str,
    past: &Past,
    seed: Option<u64>,
) -> anyhow::Result<(Measured, Differences)> {
    fastrand::seed(seed.unwrap_or_default());
    paused()?.block_on(past::run(policy, config, past, seed))
}

/// Returns the metadata keys that a policy declares. None if it does not start.
pub(crate) fn declared(policy: &WasmPolicy, config: &str) -> Vec<String> {
    let Ok(runtime) = paused() else { return Vec::new() };
    let _context = runtime.enter();
    policy.check(config, 1).map(|report| report.metadata).unwrap_or_default()
}

/// Returns a runtime of one thread in which time passes only when it is told to.
fn paused() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?)
}

/// Loads a policy, with the settings beside its file.
pub(crate) fn load(file: &PathBuf) -> anyhow::Result<WasmPolicy> {
    let mut options = crate::cache::cached();
    // The time of the simulation is not that of the machine: a slow one must not change the result.
    for limit in [&mut options.limits.init, &mut options.limits.update, &mut options.limits.pick] {
        *limit *= 10;
    }
    Ok(directory::load(file, &options).with_context(|| format!("{file:?}"))?.unrecorded())
}

const HEADINGS: [(&str, usize); 14] = [
    ("policy", 32),
    ("RPCs", 9),
    ("mean ms", 8),
    ("p50", 8),
    ("p99", 9),
    ("p99.9", 9),
    ("errors", 7),
    ("open", 6),
    ("busiest", 7),
    ("regret", 8),
    ("moved", 7),
    ("cost", 6),
    ("fallback", 8),
    ("faults", 6),
];

fn row(name: &str, measured: &Measured) -> String {
    let quantile = |quantile| measured.shown(quantile);
    let cells = [
        name.chars().rev().take(32).collect::<Vec<_>>().into_iter().rev().collect(),
        measured.rpcs.to_string(),
        format!("{:.2}", measured.mean()),
        quantile(0.5),
        quantile(0.99),
        quantile(0.999),
        measured.errors.to_string(),
        measured.open().to_string(),
        format!("{:.2}", measured.imbalance()),
        measured.regret.shown(),
        measured.moved().map_or_else(|| "-".to_owned(), |moved| format!("{:.1} %", 100.0 * moved)),
        measured.instructions().map_or_else(|| "-".to_owned(), |cost| format!("{cost:.0}")),
        measured.fallback_picks.to_string(),
        measured.faults.to_string(),
    ];
    let padded = cells.iter().zip(HEADINGS).map(|(cell, (_, width))| format!("{cell:>width$}"));
    padded.collect::<Vec<_>>().join("  ")
}

#[cfg(test)]
mod tests {
    use hotpick::policy::Limits;

    use super::*;

    fn simulate(policy: &str, scenario: &Scenario, seed: u64) -> Measured {
        let bytes = hotpick_policies::get(policy).expect("a standard policy");
        let mut limits = Limits::default();
        limits.pick *= 10;
        let policy = WasmPolicy::compile(policy, 0, bytes, limits).expect("a policy");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(world::run(&policy, "{}", scenario, seed)).expect("simulated")
    }

    fn queue(slots: u32, endpoints: u32, load: f64) -> Scenario {
        let mut scenario = Scenario {
            endpoints,
            network_ms: 0.0,
            seconds: 200.0,
            ..Scenario::named("steady").expect("one")
        };
        scenario.servers.slots = slots;
        scenario.servers.mean_ms = 5.0;
        scenario.rate = load * f64::from(slots * endpoints) / 0.005;
        scenario
    }

    /// Random picks split a Poisson process into Poisson processes, each before an M/M/1 queue: the mean time is
    /// 1 / (mu - lambda), and the time is exponential.
    #[test]
    fn random_picks_are_as_m_m_1_says() {
        let measured = simulate("random", &queue(1, 10, 0.5), 1);
        assert!((measured.mean() / 10.0 - 1.0).abs() < 0.02, "mean {}", measured.mean());
        let p99 = 10.0 * 100f64.ln();
        assert!((measured.quantile(0.99) / p99 - 1.0).abs() < 0.05, "p99 {}", measured.quantile(0.99));
    }

    /// One endpoint with several slots is an M/M/n queue: Erlang's C.
    #[test]
    fn one_server_is_as_m_m_n_says() {
        let (n, load) = (4u32, 0.8);
        let offered = f64::from(n) * load;
        let term = |k: u32| (1..=k).fold(1.0, |product, i| product * offered / f64::from(i));
        let last = term(n) / (1.0 - load);
        let waits = last / ((0..n).map(term).sum::<f64>() + last);
        let expected = 5.0 * (1.0 + waits / (f64::from(n) * (1.0 - load)));
        let measured = simulate("round_robin", &Scenario { seconds: 1000.0, ..queue(n, 1, load) }, 2);
        assert!((measured.mean() / expected - 1.0).abs() < 0.02, "{} instead of {expected}", measured.mean());
    }

    /// The shorter of two queues, among many: the supermarket model of Mitzenmacher (2001).
    #[test]
    fn the_less_loaded_of_two_is_as_the_supermarket_model_says() {
        let load: f64 = 0.7;
        let expected = 5.0 * (1..8).map(|i| load.powf(2f64.powi(i) - 2.0)).sum::<f64>();
        let measured = simulate("least_request", &Scenario { seconds: 20.0, ..queue(1, 200, load) }, 5);
        assert!((measured.mean() / expected - 1.0).abs() < 0.02, "{} instead of {expected}", measured.mean());
    }

    /// A policy that knows what is in flight loses little against full knowledge, and far less than one that does not.
    #[test]
    fn least_request_has_less_regret_than_random() {
        let scenario = queue(1, 10, 0.7);
        let [random, least] = ["random", "least_request"].map(|name| simulate(name, &scenario, 3));
        assert!(least.regret.ms() < random.regret.ms() / 3.0, "{:?} {:?}", least.regret, random.regret);
        assert!(least.quantile(0.99) < random.quantile(0.99));
        assert_eq!((least.errors, least.faults, least.fallback_picks), (0, 0, 0));
    }

    #[test]
    fn retries_go_elsewhere_while_a_zone_is_lost() {
        let scenario = Scenario::named("zone-loss").expect("one");
        let measured = simulate("least_request", &scenario, 4);
        assert!(measured.errors < measured.rpcs / 1000, "{} of {}", measured.errors, measured.rpcs);
    }
}
