//! `hotpick demo`: swaps policies under load, and shows the effect on RPCs.

mod load;
mod screen;
mod script;

use std::collections::VecDeque;
use std::fs;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use hotpick::channel::ChannelStatus;
use hotpick::policy::PolicyVersion;
use hotpick::resolver::{Endpoint, ManualResolver};
use hotpick::{Channel, PolicyDir};
use hotpick_admin::{Admin, Calls};
use hotpick_echo::Backend;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use self::load::Load;
use self::screen::{Frame, Screen, percentiles};
use self::script::Step;
use crate::proxy::AdminListener;
use crate::signals::EndSignals;
use crate::watch::Listener;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Duration of the demo in seconds.
    #[arg(long, default_value_t = 20, value_name = "N")]
    seconds: u64,
    /// Print plain lines, even on a terminal.
    #[arg(long)]
    plain: bool,
    /// Keep running until Ctrl-C, so that you can copy policies into the directory yourself.
    #[arg(long)]
    keep: bool,
    /// Serve the live page on a free port of this machine, and keep running until Ctrl-C.
    #[arg(long)]
    page: bool,
    /// A playground: no script, and all files in this folder, which is created. policies.d/active.wasm picks, standard/ has
    /// policies to copy, and `control` is a socket for hotpick record and rollout. Runs until Ctrl-C.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["keep", "page", "seconds"])]
    folder: Option<PathBuf>,
    /// Number of concurrent callers of unary RPCs.
    #[arg(long, default_value_t = 8, value_name = "N")]
    callers: usize,
}

/// Names of the backends: a colour and a number. Two backends have the same colour.
const BACKENDS: [&str; 4] = ["red-1", "red-2", "green-1", "blue-1"];
const STREAMS: usize = 4;

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    // The demo reports events itself. The log is written only on request.
    if std::env::var_os("RUST_LOG").is_some() {
        crate::log_to_stderr("warn");
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(demo(arguments))
}

async fn demo(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let temporary = tempfile::Builder::new()
        .prefix("hotpick-demo-")
        .tempdir()
        .context("cannot create a temporary folder")?;
    let folder = arguments.folder.as_deref().unwrap_or(temporary.path());
    let directory = folder.join("policies.d");
    let library = folder.join("standard");
    fill(&directory, &library)?;

    let mut backends = Vec::new();
    for name in BACKENDS {
        backends
            .push(Backend::start(name, ([127, 0, 0, 1], 0).into()).await.context("cannot start a backend")?);
    }
    let endpoint = |backend: &Backend| {
        let color = backend.name().split('-').next().unwrap_or_default();
        Endpoint::new(backend.address().into()).with_attribute("color", color)
    };
    let endpoints: Vec<_> = backends.iter().map(endpoint).collect();
    let policies = PolicyDir::open(&directory)?;
    let calls = Calls::default();
    let channel = Channel::builder("static:///demo")
        .resolver(ManualResolver::new(endpoints))
        .policies(&policies)
        .policy(script::NAME)
        .observer(calls.clone())
        .connect_lazy()?;
    let admin = Admin::builder().policies(&policies).channel(&channel, &calls).allow_tap(None).build();
    let listener = AdminListener::bind("127.0.0.1:0").await.context("admin listener")?;
    let address = listener.address();
    let control = AdminListener::bind_control(&folder.join("control")).await.context("control socket")?;
    tokio::spawn(control.serve(admin.trusted(), CancellationToken::new()));
    tokio::spawn(listener.serve(admin, CancellationToken::new()));

    let live = std::io::stdout().is_terminal() && !arguments.plain;
    let screen = if live { Screen::live(&Listener::parse(&address)?).await? } else { Screen::Plain };
    let mut show = Show::new(screen, channel.clone(), policies)?;
    show.say(&format!("{} echo backends, {} callers, {STREAMS} streams", BACKENDS.len(), arguments.callers))?;
    show.say(&format!("policies are read from {}", directory.display()))?;
    show.say(&format!("live page: http://{address}"))?;
    show.say("active.wasm is round_robin.wasm: RPCs go to the backends in turn")?;
    channel.wait_for(|status| status.policy.generation > 0).await;
    let mut load = Load::start(&channel, arguments.callers, STREAMS)?;

    if arguments.folder.is_some() {
        show.say(&format!("try: cp {}/color.wasm {}/active.wasm", library.display(), directory.display()))?;
        show.watch(&load, None).await?;
    } else {
        show.play(&load, &directory, arguments.seconds).await?;
    }
    if !show.interrupted && (arguments.keep || arguments.page) {
        show.say("end of the script: copy policies over active.wasm yourself; Ctrl-C (or q) stops the demo")?;
        show.say(&format!("try: cp {}/color.wasm {}/active.wasm", library.display(), directory.display()))?;
        show.watch(&load, None).await?;
    }
    load.stop().await;
    show.screen.end();
    show.summarise(&load)
}

/// Creates the policy directory with `round_robin` as the active policy, and a folder with standard policies to copy.
fn fill(directory: &Path, library: &Path) -> anyhow::Result<()> {
    for folder in [directory, library] {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {folder:?}"))?;
    }
    for (name, bytes) in hotpick_policies::ALL {
        let file = library.join(format!("{name}.wasm"));
        fs::write(&file, bytes).with_context(|| format!("cannot write {file:?}"))?;
    }
    script::put(directory, script::standard("round_robin")?)
}

/// Follows the channel, and prints its state and its events.
struct Show {
    screen: Screen,
    channel: Channel,
    policies: PolicyDir,
    started: Instant,
    /// Counts over the last second: time, successful RPCs, and picks of each backend.
    recent: VecDeque<(Instant, u64, Vec<u64>)>,
    /// Latencies of all unary RPCs (microseconds).
    all: Histogram<u64>,
    /// The active version that was printed last.
    seen: Option<PolicyVersion>,
    /// The problem with a version that was printed last. `None` if there is none now.
    problem: Option<String>,
    draw: Interval,
    /// Time at which a file was last copied. `None` once the resulting swap has been printed.
    copied: Option<Instant>,
    signals: EndSignals,
    interrupted: bool,
}

impl Show {
    fn new(screen: Screen, channel: Channel, policies: PolicyDir) -> anyhow::Result<Self> {
        let period = Screen::interval();
        // The first frame is drawn after one period, because there is nothing to show before.
        let mut draw = tokio::time::interval_at(Instant::now() + period, period);
        draw.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Ok(Self {
            screen,
            channel,
            policies,
            started: Instant::now(),
            recent: VecDeque::from([(Instant::now(), 0, vec![0; BACKENDS.len()])]),
            all: Histogram::new(3)?,
            seen: None,
            problem: None,
            draw,
            copied: None,
            signals: EndSignals::with_hangup()?,
            interrupted: false,
        })
    }

    fn say(&mut self, text: &str) -> anyhow::Result<()> {
        self.screen.say(self.started.elapsed(), text)
    }

    /// Runs the script: copies the files into the directory at their times.
    async fn play(&mut self, load: &Load, directory: &Path, seconds: u64) -> anyhow::Result<()> {
        let length = Duration::from_secs(seconds);
        for Step { at, what, why_nothing_fails, bytes } in script::steps()? {
            self.watch(load, Some(self.started + length.mul_f64(at))).await?;
            if self.interrupted {
                return Ok(());
            }
            script::put(directory, &bytes)?;
            self.copied = Some(Instant::now());
            self.say(what)?;
            self.say(&format!("  no RPC fails: {why_nothing_fails}"))?;
        }
        self.watch(load, Some(self.started + length)).await
    }

    /// Draws and prints events until this time, or forever if it is `None`. Ends early on Ctrl-C.
    async fn watch(&mut self, load: &Load, until: Option<Instant>) -> anyhow::Result<()> {
        let mut poll = tokio::time::interval(Duration::from_millis(20));
        poll.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let end = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(end);
        while !self.interrupted {
            tokio::select! {
                () = &mut end => return Ok(()),
                quit = self.screen.until_quit() => {
                    quit?;
                    self.interrupted = true;
                }
                _ = self.draw.tick() => self.draw(load)?,
                _ = poll.tick() => self.print_changes()?,
                () = self.signals.next() => self.interrupted = true,
            }
        }
        Ok(())
    }

    /// Prints the active version, and the problem with a version, if they have changed.
    fn print_changes(&mut self) -> anyhow::Result<()> {
        let status = self.channel.status();
        let version = status.policy;
        if self.seen.as_ref() != Some(&version) {
            let copied = self.copied.take().map(|at| at.elapsed().as_millis());
            let after = copied.map(|millis| format!(", {millis} ms after the copy")).unwrap_or_default();
            self.say(&format!("policy {version} is active{after}"))?;
            self.seen = Some(version);
        }
        let policies = self.policies.status();
        let policy = policies.into_iter().find(|policy| policy.name == script::NAME);
        let problem = policy.and_then(|policy| {
            let rejected = policy.rejected.map(|error| format!("active.wasm {error}"));
            let quarantined = || {
                policy.quarantined.map(|quarantine| {
                    format!("policy {} is quarantined: {}", quarantine.version, quarantine.reason)
                })
            };
            rejected.or_else(quarantined)
        });
        let problem = problem.or_else(|| status.refused.map(|error| error.to_string()));
        if problem != self.problem {
            if let Some(problem) = &problem {
                self.say(problem)?;
            }
            self.problem = problem;
        }
        Ok(())
    }

    fn draw(&mut self, load: &Load) -> anyhow::Result<()> {
        let status = self.channel.status();
        let sample = load.sample()?;
        self.all.add(&sample.latencies)?;
        let picked: Vec<_> = status.subconns.iter().map(|subconn| subconn.stats().picked).collect();
        let now = Instant::now();
        self.recent.push_back((now, sample.succeeded, picked.clone()));
        while self.recent.len() > 2 && self.recent[0].0 + Duration::from_secs(1) < now {
            self.recent.pop_front();
        }
        let (since, succeeded, before) = &self.recent[0];
        #[expect(clippy::cast_precision_loss, reason = "for display")]
        let part = |part: u64, whole: f64| if whole > 0.0 { part as f64 / whole } else { 0.0 };
        let each: Vec<_> =
            picked.iter().zip(before).map(|(now, before)| now.saturating_sub(*before)).collect();
        #[expect(clippy::cast_precision_loss, reason = "for display")]
        let total = each.iter().sum::<u64>() as f64;
        let shares: Vec<_> =
            BACKENDS.iter().zip(&each).map(|(name, n)| ((*name).to_owned(), part(*n, total))).collect();
        let frame = Frame {
            elapsed: self.started.elapsed(),
            status: &status,
            rate: part(sample.succeeded - succeeded, (now - *since).as_secs_f64()),
            latencies: &sample.latencies,
            failed: sample.failed,
            dials: dials(&status),
            fallback_picks: self.policies.status().iter().map(|policy| policy.totals.fallback_picks).sum(),
            shares: &shares,
        };
        Ok(self.screen.draw(&frame)?)
    }

    fn summarise(&mut self, load: &Load) -> anyhow::Result<ExitCode> {
        let sample = load.sample()?;
        self.all.add(&sample.latencies)?;
        let status = self.channel.status();
        let text = format!(
            "{} RPCs, {} failed; {} policy swaps; {} dials to {} backends; {}",
            sample.succeeded + sample.failed,
            sample.failed,
            status.swaps,
            dials(&status),
            BACKENDS.len(),
            percentiles(&self.all),
        );
        self.say(&text)?;
        match load.first_failure() {
            None => Ok(ExitCode::SUCCESS),
            Some(failure) => {
                self.say(&format!("first failure: {failure}"))?;
                Ok(ExitCode::FAILURE)
            }
        }
    }
}

fn dials(status: &ChannelStatus) -> u64 {
    status.subconns.iter().map(|subconn| subconn.stats().dials).sum()
}
