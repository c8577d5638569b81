//! `hotpick replay`: the recorded calls again, with the same policy or another one.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use hotpick::policy::{Policy as _, Replayed, replay};
use hotpick::trace::{Event, Finish, Recorded, Start, Trace};

use crate::sim::{self, Differences, Measured, Past};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A trace: a file of hotpick record, or of a [record] directory.
    #[arg(value_name = "TRACE")]
    trace: PathBuf,
    /// The policy's file. The one that was recorded must do exactly the same again; another one is compared with it.
    #[arg(value_name = "FILE")]
    policy: PathBuf,
    /// Compare this policy with the recorded one as well.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Configuration of the policy that is compared. By default that of the recorded one.
    #[arg(long, value_name = "JSON")]
    config: Option<String>,
    /// Seed of the random numbers of the policy that is compared. By default it gets those of the recorded one.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let trace = read(&arguments.trace)?;
    let Some(Recorded { event: Event::Start(start), .. }) = trace.events.first() else {
        anyhow::bail!("{:?} has no beginning", arguments.trace);
    };
    say!("{}", described(&trace));
    let policy = sim::load(&arguments.policy)?;
    let is_same = policy.version().digest == start.digest;
    if is_same {
        let replayed = replay(&policy, &trace)?;
        say!("{}", summary(&replayed));
        if let Some(difference) = &replayed.difference {
            print_difference(difference, start, &trace);
            return Ok(ExitCode::FAILURE);
        }
    } else {
        let short = |digest: &str| digest.chars().take(12).collect::<String>();
        let (own, recorded) = (short(&policy.version().digest), short(&start.digest));
        say!("{:?} ({own}) is not the recorded policy ({recorded}): it is compared", arguments.policy);
    }
    let others = arguments.against.iter().chain((!is_same).then_some(&arguments.policy));
    for other in others {
        let config = arguments.config.as_deref().unwrap_or(&start.config);
        compare(&trace, other, config, arguments.seed)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads a trace.
pub(crate) fn read(file: &PathBuf) -> anyhow::Result<Trace> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {file:?}"))?;
    Trace::read(&bytes).with_context(|| format!("{file:?}"))
}

/// Describes a trace in a line.
pub(crate) fn described(trace: &Trace) -> String {
    let Some(Recorded { event: Event::Start(start), .. }) = trace.events.first() else {
        return String::new();
    };
    let Start { policy, generation, target, .. } = &**start;
    let length =
        trace.events.last().map_or(0, |last| last.at) - trace.events.first().map_or(0, |first| first.at);
    let picks = trace.events.iter();
    let picks = picks.filter(|one| matches!(one.event, Event::Pick(_) | Event::Planned(_))).count();
    let seconds = length as f64 / 1e9;
    let end = match trace.events.last().map(|last| &last.event) {
        _ if trace.is_cut => "; it is cut off",
        Some(Event::Finish(Finish::Replaced)) => "; its instance was replaced before the time was over",
        Some(Event::Finish(Finish::Full)) => "; it has reached its size",
        Some(Event::Finish(Finish::TooFast)) => {
            "; the host could not write as fast as it recorded, and ended it"
        }
        Some(Event::Finish(Finish::Fault)) => "; the policy failed at its end",
        _ => "",
    };
    printable(&format!("{policy} #{generation} of {target}: {picks} picks in {seconds:.1} s{end}"))
}

/// What a trace contains must not move the cursor.
fn printable(text: &str) -> String {
    text.replace(hotpick_admin::is_unprintable, "\u{fffd}")
}

fn summary(replayed: &Replayed) -> String {
    let Replayed { calls, picks, planned, difference, .. } = replayed;
    let same = if difference.is_none() { ", all the same" } else { "" };
    format!("replayed {calls} calls, {picks} of them picks, and {planned} picks by plans{same}")
}

fn print_difference(difference: &hotpick::policy::Difference, start: &Start, trace: &Trace) {
    let first = trace.events.first().map_or(0, |first| first.at);
    if let Some(Recorded { at, event, .. }) = trace.events.get(difference.event) {
        let seconds = at.saturating_sub(first) as f64 / 1e9;
        say!(
            "the first difference is in event {}, after {seconds:.6} s: {}",
            difference.event,
            difference.text
        );
        say!("  {}", printable(&format!("{event:?}")));
    }
    if difference.has_hashed_values {
        say!(
            "the trace has hashes in place of values of metadata. If {} reads the values themselves, that is the \
             reason: record it with their keys in plain",
            start.policy
        );
    }
}

/// Most lines of a table of moved picks.
const MOST: usize = 12;

fn compare(trace: &Trace, file: &PathBuf, config: &str, seed: Option<u64>) -> anyhow::Result<()> {
    let past = Past::of(trace)?;
    let policy = sim::load(file)?;
    let (measured, differences) =
        sim::run_past(&policy, config, &past, seed).with_context(|| format!("{file:?}"))?;
    let declared = sim::declared(&policy, config);
    let missing: Vec<_> = declared.iter().filter(|key| !past.keys().any(|known| known == *key)).collect();
    let Differences { picks, differ, moved, unknown } = &differences;
    let share = 100.0 * *differ as f64 / (*picks).max(1) as f64;
    say!("");
    say!("{}: {differ} of {picks} picks differ ({share:.1} %)", file.display());
    if !missing.is_empty() {
        say!(
            "It reads metadata that the trace does not have, so it saw RPCs without it: {missing:?}. Record with --metadata."
        );
    }
    let name = |endpoint: Option<usize>| {
        endpoint
            .and_then(|at| past.endpoints.get(at))
            .map_or("no endpoint".to_owned(), |name| printable(name))
    };
    let mut moved: Vec<_> = moved.iter().collect();
    moved.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    for ((from, to), count) in moved.iter().take(MOST) {
        say!("  {count:>9}  from {} to {}", name(*from), name(*to));
    }
    if moved.len() > MOST {
        let rest: u64 = moved.iter().skip(MOST).map(|(_, count)| **count).sum();
        say!("  {rest:>9}  between other endpoints");
    }
    say!("");
    say!("{:<12}  {:>9}  {:>9}  {:>9}  {:>9}  {:>7}", "", "RPCs", "p50 ms", "p99 ms", "p99.9 ms", "errors");
    let row = |name: &str, measured: &Measured| {
        let quantile = |quantile| measured.shown(quantile);
        let (p50, p99, p999) = (quantile(0.5), quantile(0.99), quantile(0.999));
        say!("{name:<12}  {:>9}  {p50:>9}  {p99:>9}  {p999:>9}  {:>7}", measured.rpcs, measured.errors);
    };
    row("recorded", &past.measured());
    row("estimated", &measured);
    say!(
        "The estimate assumes that an endpoint is as fast as it was, whatever its load: an RPC that moves takes as long"
    );
    say!("as the recorded RPC on that endpoint that began nearest in time.");
    if *unknown > 0 {
        say!(
            "{unknown} RPCs went to endpoints that no recorded RPC had been sent to, and are not in the estimate."
        );
    }
    Ok(())
}
