//! `hotpick proxy`: the channel as a sidecar, for programs in any language.

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
    /// Where to listen: host:port (port 0 takes a free one), or unix:/path.
    #[arg(long, value_name = "ADDR", requires = "target")]
    listen: Option<String>,
    /// Where RPCs go, such as dns:///echo.example:5001.
    #[arg(long, value_name = "URI", requires = "listen")]
    target: Option<String>,
    /// The directory of policies.
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    /// The policy that balances: NAME is NAME.wasm in the directory.
    #[arg(long, value_name = "NAME", requires = "listen")]
    policy: Option<String>,
    /// The certificate chain to show to clients, in PEM form.
    #[arg(long, value_name = "FILE", requires = "tls_key", requires = "listen")]
    tls_cert: Option<PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Where to tell of policies (GET /policies) and count (GET /metrics): host:port.
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// Where compiled policies are kept; by default hotpick/ in the user's cache directory.
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// A TOML file with listeners, beside or instead of that of the flags.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How long RPCs may go on after SIGTERM.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    grace: u64,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let grace = Duration::from_secs(arguments.grace);
    let config = arguments.config()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let code = runtime.block_on(serve(config, grace));
    // A name that is being looked up would hold it.
    runtime.shutdown_timeout(LAST_WORDS);
    code
}

/// How long the statuses of RPCs that were ended may take to their clients.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl Arguments {
    /// What the flags and the file say together.
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
            "there is nothing to listen on: give --listen and --target, or --config with [[listeners]]"
        );
        Ok(config)
    }
}

async fn serve(config: Config, grace: Duration) -> anyhow::Result<ExitCode> {
    let policies =
        config.policies.as_deref().map(|path| open(path, config.cache, config.require_seal)).transpose()?;
    let mut ends = Ends::new().context("listen to signals")?;
    // A file that grows beyond a limit (`ulimit -f`), as a compiled policy in the cache may, is an error of that file, and not
    // the end of the process.
    let _too_large = signal(SignalKind::from_raw(SIGXFSZ)).context("listen to signals")?;
    let drain = CancellationToken::new();
    let mut serving = JoinSet::new();
    let mut channels = Vec::new();
    for entry in config.listeners {
        let which = || format!("listener {}", entry.listen);
        let channel = entry.channel(policies.as_ref()).with_context(which)?;
        let tls = entry.server_tls().with_context(which)?;
        let listener = Listener::bind(&entry.listen, tls, entry.max_connections).await?;
        // A line that scripts can wait for, if anyone listens.
        let address = listener.address();
        let _ = writeln!(std::io::stdout(), "hotpick proxy: listening on {address} for {}", entry.target);
        let proxy = Proxy::new(channel.clone(), entry.limits().with_context(which)?);
        serving.spawn(listener.serve(proxy, drain.clone()));
        channels.push(channel);
    }
    if let Some(address) = config.admin {
        let admin = Admin::bind(&address).await.context("admin")?;
        let _ = writeln!(std::io::stdout(), "hotpick proxy: admin on {}", admin.address());
        serving.spawn(admin.serve(Subjects { policies, channels: channels.clone() }, drain.clone()));
    }

    tokio::select! {
        () = ends.next() => {}
        // They serve until they are told to drain. Nothing that is known of ends one; what has lost a listener is not to
        // look as if it served.
        Some(ended) = serving.join_next() => {
            ended.context("a listener has ended")?;
        }
    }
    tracing::info!(?grace, "draining");
    drain.cancel();
    let drained = async { while serving.join_next().await.is_some() {} };
    tokio::select! {
        () = drained => return Ok(ExitCode::SUCCESS),
        () = tokio::time::sleep(grace) => tracing::warn!(?grace, "RPCs are still open: they are ended"),
        () = ends.next() => tracing::warn!("a second signal: open RPCs are ended"),
    }
    channels.iter().for_each(Channel::close);
    let _ = tokio::time::timeout(LAST_WORDS, async { while serving.join_next().await.is_some() {} }).await;
    Ok(ExitCode::FAILURE)
}

/// Follows the directory. No file in it can take the proxy with it: a process of its own compiles.
fn open(path: &Path, cache: Option<PathBuf>, require_seal: bool) -> anyhow::Result<PolicyDir> {
    let mut options = PolicyDirOptions::default();
    options.require_seal = require_seal;
    options.compile.cache = cache.or_else(crate::cache::user_cache);
    options.compile.command = Some(crate::compile::command().context("find the compiler")?);
    Ok(PolicyDir::open_with(path, options)?)
}

/// On Linux.
const SIGXFSZ: i32 = 25;

/// The signals that end a program.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
