//! `hotpick proxy`: serves a channel as a sidecar, for programs in any language.

mod admin;
mod config;
mod listener;
mod metrics;
mod status;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use hotpick::directory::PolicyDirOptions;
use hotpick::proxy::Proxy;
use hotpick::{Channel, PolicyDir};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::admin::Admin;
use self::config::{Config, Entry};
use self::listener::Listener;
use self::status::Subjects;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Address to listen on: host:port (port 0 takes a free port), or unix:/path.
    #[arg(long, value_name = "ADDR", requires = "target")]
    listen: Option<String>,
    /// Target of the RPCs, such as dns:///echo.example:5001.
    #[arg(long, value_name = "URI", requires = "listen")]
    target: Option<String>,
    /// Policy directory, followed as its files change.
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    /// Name of the policy: NAME stands for NAME.wasm in the policy directory.
    #[arg(long, value_name = "NAME", requires = "listen")]
    policy: Option<String>,
    /// Certificate chain for TLS with clients, in PEM form.
    #[arg(long, value_name = "FILE", requires = "tls_key", requires = "listen")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate, in PEM form.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Address of the admin listener (GET /policies, GET /metrics): host:port.
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// Directory for compiled policies; by default hotpick/ in the user's cache directory.
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Configuration file in TOML. Its listeners are served in addition to that of the flags.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Time for RPCs in flight to end after SIGTERM.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    grace: u64,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let grace = Duration::from_secs(arguments.grace);
    let config = arguments.config()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let code = runtime.block_on(serve(config, grace));
    // A DNS lookup runs on a blocking thread, which an ordinary shutdown waits for.
    runtime.shutdown_timeout(LAST_STATUSES);
    code
}

/// Time to deliver the statuses of cancelled RPCs to their clients.
const LAST_STATUSES: Duration = Duration::from_secs(1);

impl Arguments {
    /// Merges the flags into the configuration file. Flags take precedence.
    fn config(self) -> anyhow::Result<Config> {
        let mut config = self.config.as_deref().map(Config::read).transpose()?.unwrap_or_default();
        if self.policies.is_some() {
            config.policies = self.policies;
        }
        if self.admin.is_some() {
            config.admin = self.admin;
        }
        if self.cache.is_some() {
            config.cache = self.cache;
        }
        if let Some((listen, target)) = self.listen.zip(self.target) {
            config.listeners.push(Entry::of_flags(
                listen,
                target,
                self.policy,
                self.tls_cert.zip(self.tls_key),
            ));
        }
        anyhow::ensure!(
            !config.listeners.is_empty(),
            "no listener is configured: set --listen and --target, or --config with [[listeners]]"
        );
        Ok(config)
    }
}

async fn serve(config: Config, grace: Duration) -> anyhow::Result<ExitCode> {
    let policies =
        config.policies.as_deref().map(|path| open(path, config.cache, config.require_seal)).transpose()?;
    let mut signals = EndSignals::new().context("cannot register a signal handler")?;
    // With a handler for SIGXFSZ, writing a file beyond the limit (`ulimit -f`) is an error. Without one it ends the
    // process; a compiled policy in the cache may be that large.
    let _too_large = signal(SignalKind::from_raw(SIGXFSZ)).context("cannot register a signal handler")?;
    let drain = CancellationToken::new();
    let mut serving = JoinSet::new();
    let mut channels = Vec::new();
    for entry in config.listeners {
        let which = || format!("listener {}", entry.listen);
        let channel = entry.channel(policies.as_ref()).with_context(which)?;
        let tls = entry.server_tls().with_context(which)?;
        let listener = Listener::bind(&entry.listen, tls, entry.max_connections).await?;
        // Scripts may wait for this line. Stdout may be closed, so errors are ignored.
        let address = listener.address();
        let _ = writeln!(std::io::stdout(), "hotpick proxy: listening on {address} for {}", entry.target);
        let proxy = Proxy::new(channel.clone(), entry.limits().with_context(which)?);
        serving.spawn(listener.serve(proxy, drain.clone()));
        channels.push(channel);
    }
    if let Some(address) = config.admin {
        let admin = Admin::bind(&address).await.context("admin listener")?;
        let _ = writeln!(std::io::stdout(), "hotpick proxy: admin on {}", admin.address());
        serving.spawn(admin.serve(Subjects { policies, channels: channels.clone() }, drain.clone()));
    }

    tokio::select! {
        () = signals.next() => {}
        // Listeners serve until they drain, so none should end here. If one does, the process ends, too: it must not
        // seem to serve without one of its listeners.
        Some(ended) = serving.join_next() => {
            ended.context("a listener ended unexpectedly")?;
        }
    }
    tracing::info!(?grace, "draining");
    drain.cancel();
    let drained = async { while serving.join_next().await.is_some() {} };
    tokio::select! {
        () = drained => return Ok(ExitCode::SUCCESS),
        () = tokio::time::sleep(grace) => tracing::warn!(?grace, "grace period expired, cancelling RPCs in flight"),
        () = signals.next() => tracing::warn!("second signal received, cancelling RPCs in flight"),
    }
    channels.iter().for_each(Channel::close);
    let _ = tokio::time::timeout(LAST_STATUSES, async { while serving.join_next().await.is_some() {} }).await;
    Ok(ExitCode::FAILURE)
}

/// Opens the policy directory. Policies are compiled in a separate process, so that no file can end the proxy.
fn open(path: &Path, cache: Option<PathBuf>, require_seal: bool) -> anyhow::Result<PolicyDir> {
    let mut options = PolicyDirOptions::default();
    options.require_seal = require_seal;
    options.compile.cache = cache.or_else(crate::cache::user_cache);
    options.compile.command =
        Some(crate::compile::command().context("cannot find the program that compiles policies")?);
    Ok(PolicyDir::open_with(path, options)?)
}

/// Number of the signal SIGXFSZ on Linux.
const SIGXFSZ: i32 = 25;

/// The signals that end the proxy: SIGTERM and SIGINT.
struct EndSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl EndSignals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for either signal.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
