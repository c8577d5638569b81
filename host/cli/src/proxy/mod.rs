//! `hotpick proxy`: serves a channel as a sidecar, for programs in any language.

mod access_log;
mod admin;
mod admin_config;
mod config;
mod listener;
#[cfg(feature = "otlp")]
mod otlp;
#[cfg(not(feature = "otlp"))]
#[path = "otlp_absent.rs"]
mod otlp;
mod socket;

use std::io::Write as _;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hotpick::call::CallObserver;
use hotpick::directory::PolicyDirOptions;
use hotpick::proxy::Proxy;
use hotpick::{Channel, PolicyDir};
use hotpick_admin::{Admin, Calls};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::access_log::AccessLog;
pub(crate) use self::admin::AdminListener;
use self::admin_config::{AdminEntry, AdminTable};
use self::config::{Config, Entry};
use self::listener::Listener;
use self::otlp::Otlp;
use crate::signals::EndSignals;

/// Target of what the sidecar logs, whatever file of it does.
const LOG: &str = "hotpick::proxy";

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
    /// Address of the admin listener (a page, metrics, status, health): host:port.
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// Directory for compiled policies; by default hotpick/ in the user's cache directory.
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Access log, one line of JSON for each RPC: a file, or stdout.
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
    /// Collector of OpenTelemetry that metrics and traces are sent to, by OTLP over gRPC: http://HOST:4317.
    #[arg(long, value_name = "URL")]
    otlp: Option<String>,
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
    let runtime = runtime()?;
    let code = runtime.block_on(serve(config, grace));
    // A DNS lookup runs on a blocking thread, which an ordinary shutdown waits for.
    runtime.shutdown_timeout(LAST_STATUSES);
    code
}

/// Creates the runtime. For one thread it is another one, which takes a third less CPU time: a connection is written to when
/// all RPCs have had their turn, and not by each of them.
fn runtime() -> std::io::Result<Runtime> {
    let threads =
        std::env::var("TOKIO_WORKER_THREADS").ok().and_then(|threads| threads.parse::<usize>().ok());
    let threads = threads.or_else(|| std::thread::available_parallelism().ok().map(NonZero::get));
    let mut builder = match threads {
        Some(1) => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder.enable_all().build()
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
        if let Some(address) = self.admin {
            config.admin = Some(match config.admin {
                Some(AdminEntry::Table(table)) => AdminEntry::Table(AdminTable { listen: address, ..table }),
                _ => AdminEntry::Address(address),
            });
        }
        if let Some(endpoint) = self.otlp {
            config.otlp = Some(match config.otlp {
                Some(settings) => settings.with_endpoint(endpoint),
                None => otlp::Settings::to(endpoint),
            });
        }
        if let Some(path) = self.access_log {
            config.access_log = Some(access_log::Settings::all_to(path));
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
    let policies = config
        .policies
        .as_deref()
        .map(|path| {
            let mut options = PolicyDirOptions::default();
            options.require_seal = config.require_seal;
            options.record = config.record;
            open(path, config.cache, options)
        })
        .transpose()?;
    let mut signals = EndSignals::new()?;
    // With a handler for SIGXFSZ, writing a file beyond the limit (`ulimit -f`) is an error. Without one it ends the
    // process; a compiled policy in the cache may be that large.
    let _too_large = signal(SignalKind::from_raw(SIGXFSZ)).context("cannot register a signal handler")?;
    let hangups = signal(SignalKind::hangup()).context("cannot register a signal handler")?;
    let drain = CancellationToken::new();
    let mut serving = JoinSet::new();
    let mut channels = Vec::new();
    let log = config.access_log.as_ref().map(AccessLog::open).transpose()?;
    let mut admin = Admin::builder();
    if let Some(policies) = &policies {
        admin = admin.policies(policies);
    }
    if let Some(log) = &log {
        let dropped = log.clone();
        admin = admin.counter(
            "hotpick_access_log_dropped",
            "Lines of the access log that were not written, because the disk is full or too slow",
            move || dropped.dropped(),
        );
    }
    serving.spawn(reopen(hangups, log.clone(), drain.clone()));
    let otlp =
        config.otlp.as_ref().map(|settings| Otlp::start(settings, config.metrics.names()?)).transpose()?;
    if let Some((otlp, policies)) = otlp.as_ref().zip(policies.as_ref()) {
        otlp.follow_policies(policies);
    }
    if let Some(otlp) = &otlp {
        let help = "Spans that were not sent, because the collector is down or too slow";
        admin = admin.counter("hotpick_otlp_dropped_spans", help, otlp.dropped());
    }
    // Bound before anything is served: a second proxy with the same address must not serve half of what it should.
    let admin_listener = match &config.admin {
        None => None,
        Some(entry) => Some((AdminListener::bind(entry.address()).await.context("admin listener")?, entry)),
    };
    let control_socket = match config.admin.as_ref().and_then(AdminEntry::control_socket) {
        None => None,
        Some(path) => Some(AdminListener::bind_control(path).await.context("control socket")?),
    };
    if let Some((listener, entry)) = &admin_listener {
        admin = entry.allow(admin, listener.is_loopback())?;
    }
    // Everything is checked before the first address is open: a supervisor takes that for a proxy that is up.
    let mut checked = Vec::new();
    for entry in config.listeners {
        let which = || format!("listener {}", entry.listen);
        let mut observers: Vec<Arc<dyn CallObserver>> = Vec::new();
        let calls = Calls::new(config.metrics.names()?);
        if config.admin.is_some() {
            observers.push(Arc::new(calls.clone()));
        }
        if let Some(log) = &log {
            observers.push(Arc::new(log.clone()));
        }
        observers.extend(otlp.iter().flat_map(Otlp::observers));
        let channel = entry.channel(policies.as_ref(), observers).with_context(which)?;
        let tls = entry.server_tls().with_context(which)?;
        let limits = entry.limits().with_context(which)?;
        checked.push((entry, tls, limits, channel.clone()));
        admin = admin.channel(&channel, &calls);
        if let Some(otlp) = &otlp {
            otlp.follow(&channel);
        }
        channels.push(channel);
    }
    let mut listeners = Vec::new();
    for (entry, tls, limits, channel) in checked {
        let listener = Listener::bind(&entry.listen, tls, entry.max_connections).await?;
        listeners.push((listener, entry.target, Proxy::new(channel, limits)));
    }
    for (listener, target, proxy) in listeners {
        // Scripts may wait for this line. Stdout may be closed, so errors are ignored.
        let _ =
            writeln!(std::io::stdout(), "hotpick proxy: listening on {} for {target}", listener.address());
        serving.spawn(listener.serve(proxy, drain.clone()));
    }
    if let Some((listener, _)) = admin_listener {
        let _ = writeln!(std::io::stdout(), "hotpick proxy: admin on {}", listener.address());
        let admin = admin.build();
        if let Some(listener) = control_socket {
            let _ = writeln!(std::io::stdout(), "hotpick proxy: control on {}", listener.address());
            serving.spawn(listener.serve(admin.trusted(), drain.clone()));
        }
        serving.spawn(listener.serve(admin, drain.clone()));
    }

    tokio::select! {
        () = signals.next() => {}
        // Listeners serve until they drain, so none should end here. If one does, the process ends, too: it must not
        // seem to serve without one of its listeners.
        Some(ended) = serving.join_next() => {
            ended.context("a listener ended unexpectedly")?;
        }
    }
    tracing::info!(target: LOG, ?grace, "draining");
    drain.cancel();
    let drained = async { while serving.join_next().await.is_some() {} };
    let is_drained = tokio::select! {
        () = drained => true,
        () = tokio::time::sleep(grace) => {
            tracing::warn!(target: LOG, ?grace, "grace period expired, cancelling RPCs in flight");
            false
        }
        () = signals.next() => {
            tracing::warn!(target: LOG, "second signal received, cancelling RPCs in flight");
            false
        }
    };
    if !is_drained {
        channels.iter().for_each(Channel::close);
        let _ =
            tokio::time::timeout(LAST_STATUSES, async { while serving.join_next().await.is_some() {} }).await;
    }
    if let Some(otlp) = otlp {
        otlp.finish().await;
    }
    Ok(if is_drained { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Opens the policy directory. Policies are compiled in a separate process, so that no file can end the proxy.
fn open(path: &Path, cache: Option<PathBuf>, mut options: PolicyDirOptions) -> anyhow::Result<PolicyDir> {
    if let Some(record) = &options.record {
        record.check().map_err(anyhow::Error::msg)?;
    }
    options.compile.cache = cache.or_else(crate::cache::user_cache);
    options.compile.command =
        Some(crate::compile::command().context("cannot find the program that compiles policies")?);
    Ok(PolicyDir::open_with(path, options)?)
}

/// Opens the access log again at each SIGHUP, until the proxy drains. Without a log, SIGHUP does nothing.
async fn reopen(mut hangups: Signal, log: Option<AccessLog>, drain: CancellationToken) {
    while drain.run_until_cancelled(hangups.recv()).await.flatten().is_some() {
        log.iter().for_each(AccessLog::reopen);
    }
}

/// Number of the signal SIGXFSZ on Linux.
const SIGXFSZ: i32 = 25;
