//! The configuration file of the proxy, and the channel, limits and TLS of each of its listeners.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hotpick::__cli::from_toml;
use hotpick::call::{CallObserver, MethodNames};
use hotpick::channel::OverloadOptions;
use hotpick::proxy::ProxyOptions;
use hotpick::retry::{RetryBudget, RetryOptions};
use hotpick::service_config::ServiceConfig;
use hotpick::tls::{ClientTls, ServerTls};
use hotpick::trace::RecordSettings;
use hotpick::{Channel, PolicyDir};
use serde::Deserialize;

use super::admin_config::AdminEntry;
use super::{access_log, otlp};

/// A configuration file:
///
/// ```toml
/// policies = "/etc/hotpick/policies.d"
/// admin = "127.0.0.1:9901"
///
/// [[listeners]]
/// listen = "127.0.0.1:9000"
/// target = "dns:///echo.example:5001"
/// policy = "color"
/// policy_config = { unmatched = "any" }
/// ```
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    /// Policy directory.
    pub(super) policies: Option<PathBuf>,
    /// Directory for compiled policies.
    pub(super) cache: Option<PathBuf>,
    /// Whether policies without a seal are rejected.
    #[serde(default)]
    pub(super) require_seal: bool,
    /// The admin listener: its address, or a table.
    pub(super) admin: Option<AdminEntry>,
    /// How policies are recorded whose own settings do not say it.
    pub(super) record: Option<RecordSettings>,
    pub(super) access_log: Option<access_log::Settings>,
    pub(super) otlp: Option<otlp::Settings>,
    #[serde(default)]
    pub(super) metrics: Metrics,
    #[serde(default)]
    pub(super) listeners: Vec<Entry>,
}

/// Which methods have metrics of their own.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Metrics {
    /// These (`package.Service/Method`).
    methods: Option<HashSet<String>>,
    /// The first ones that are called, up to this number.
    max_methods: Option<usize>,
}

impl Metrics {
    /// Returns the methods with metrics of their own.
    pub(super) fn names(&self) -> anyhow::Result<MethodNames> {
        Ok(match (&self.methods, self.max_methods) {
            (None, None) => MethodNames::default(),
            (Some(methods), None) => {
                let plain = methods.iter().map(|name| name.trim_start_matches('/').to_owned());
                MethodNames::Only(plain.collect())
            }
            (None, Some(most)) => {
                anyhow::ensure!(
                    most <= MOST_METHODS,
                    "metrics: max_methods is {most}: set 0 to {MOST_METHODS}"
                );
                MethodNames::First(most)
            }
            (Some(_), Some(_)) => anyhow::bail!("metrics has both methods and max_methods: set one of them"),
        })
    }
}

/// Largest value of `max_methods`: each method with one status code has some 100 lines of metrics.
const MOST_METHODS: usize = 10_000;

/// One listener, and the channel that it serves.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) listen: String,
    pub(super) target: String,
    policy: Option<String>,
    policy_config: Option<serde_json::Value>,
    /// gRPC's service config, as a table.
    service_config: Option<serde_json::Value>,
    /// The `:authority` of requests to servers; by default derived from the target.
    authority: Option<String>,
    #[serde(default)]
    wait_for_ready: bool,
    /// Maximum number of concurrent connections of clients. A further connection is closed.
    #[serde(default = "max_connections")]
    pub(super) max_connections: usize,
    /// Maximum number of RPCs in flight. A further RPC fails.
    max_rpcs: Option<usize>,
    /// Maximum size of a request's metadata (bytes).
    max_metadata: Option<usize>,
    /// Whether `grpc.health.v1.Health` is answered by the proxy itself.
    #[serde(default)]
    health: bool,
    /// Retries, beside what the service config says.
    retries: Option<Retries>,
    /// RPCs to one endpoint in flight.
    max_requests_per_endpoint: Option<u32>,
    /// RPCs that wait to be sent.
    #[serde(default = "max_waiting")]
    max_waiting: usize,
    /// Time that one RPC may wait to be sent (seconds).
    #[serde(default = "max_wait")]
    max_wait: f64,
    /// TLS with clients.
    tls: Option<Tls>,
    /// TLS with servers.
    upstream_tls: Option<UpstreamTls>,
}

/// Retries of a channel.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Retries {
    enabled: Option<bool>,
    /// A retry policy as in a service config, for methods without one.
    policy: Option<serde_json::Value>,
    budget: Option<Budget>,
    max_attempts: Option<u32>,
    /// Bytes of a request that are kept.
    buffer: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Budget {
    /// Retries for each RPC.
    ratio: Option<f32>,
    min_per_second: Option<u32>,
    /// How long an RPC counts (seconds).
    window: Option<f64>,
}

impl Retries {
    fn options(&self) -> anyhow::Result<RetryOptions> {
        let Self { enabled, policy, budget, max_attempts, buffer } = self;
        let is_empty = enabled.is_none() && policy.is_none() && budget.is_none();
        anyhow::ensure!(
            !is_empty || max_attempts.is_some() || buffer.is_some(),
            "retries is empty: set budget = {{}} for retries within a budget, or policy"
        );
        // A budget alone asks for retries within it.
        let mut options = match &self.budget {
            None => RetryOptions::default(),
            Some(Budget { ratio, min_per_second, window }) => {
                let mut budget = RetryBudget::default();
                budget.ratio = ratio.unwrap_or(budget.ratio);
                budget.min_per_second = min_per_second.unwrap_or(budget.min_per_second);
                if let Some(window) = window {
                    budget.window = seconds("retries: window", *window)?;
                }
                RetryOptions::within(budget)
            }
        };
        if let Some(policy) = &self.policy {
            options.policy = Some(ServiceConfig::retry_policy(policy).context("retries")?);
        }
        anyhow::ensure!(
            self.max_attempts.is_none_or(|most| most >= 2),
            "retries: max_attempts is {}, of which the first is no retry: set at least 2, or enabled = false",
            self.max_attempts.unwrap_or_default()
        );
        options.enabled = self.enabled.unwrap_or(options.enabled);
        options.max_attempts = self.max_attempts.unwrap_or(options.max_attempts);
        options.buffer = self.buffer.unwrap_or(options.buffer);
        anyhow::ensure!(
            options.buffer <= MOST_BUFFERED,
            "retries: buffer is {} bytes: set 0 to {MOST_BUFFERED}",
            options.buffer
        );
        Ok(options)
    }
}

/// Largest value of `retries.buffer` (bytes).
const MOST_BUFFERED: usize = 64 << 20;

fn seconds(name: &str, seconds: f64) -> anyhow::Result<Duration> {
    let duration = Duration::try_from_secs_f64(seconds).ok().filter(|duration| *duration <= LONGEST);
    duration.with_context(|| format!("{name} is {seconds:?}: expected seconds, such as 1.5"))
}

/// Largest time in a configuration.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tls {
    cert: PathBuf,
    key: PathBuf,
    /// CA certificates. If set, clients must present a certificate issued by one of these CAs.
    client_ca: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UpstreamTls {
    /// CA certificates to use instead of the system's roots.
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    server_name: Option<String>,
}

/// Returns the default of `max_connections`.
const fn max_connections() -> usize {
    1000
}

/// Returns the default of `max_waiting`.
const fn max_waiting() -> usize {
    1000
}

/// Returns the default of `max_wait` (seconds).
const fn max_wait() -> f64 {
    60.0
}

/// Smallest value of `max_wait`.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);
/// Largest value of `max_metadata` (bytes): the limit that clients are notified of.
const MAX_METADATA: usize = 1 << 20;

impl Config {
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("configuration {path:?}"))?;
        from_toml(&text).map_err(|error| anyhow::anyhow!("configuration {path:?}, {error}"))
    }
}

impl Entry {
    pub(super) fn of_flags(
        listen: String,
        target: String,
        policy: Option<String>,
        tls: Option<(PathBuf, PathBuf)>,
    ) -> Self {
        Self {
            listen,
            target,
            policy,
            policy_config: None,
            service_config: None,
            authority: None,
            wait_for_ready: false,
            max_connections: max_connections(),
            max_rpcs: None,
            max_metadata: None,
            health: false,
            retries: None,
            max_requests_per_endpoint: None,
            max_waiting: max_waiting(),
            max_wait: max_wait(),
            tls: tls.map(|(cert, key)| Tls { cert, key, client_ca: None }),
            upstream_tls: None,
        }
    }

    /// Connects the channel of the listener.
    pub(super) fn channel(
        &self,
        policies: Option<&PolicyDir>,
        observers: Vec<Arc<dyn CallObserver>>,
    ) -> anyhow::Result<Channel> {
        let mut builder = Channel::builder(&self.target).wait_for_ready(self.wait_for_ready);
        if let Some(policies) = policies {
            builder = builder.policies(policies);
        } else if let Some(policy) = &self.policy {
            anyhow::bail!("policy {policy:?} needs a policy directory: set --policies");
        }
        if let Some(policy) = &self.policy {
            builder = builder.policy(policy);
        }
        if let Some(config) = &self.policy_config {
            builder = builder.policy_config(config.clone());
        }
        if let Some(config) = &self.service_config {
            builder = builder.service_config(ServiceConfig::from_json(config.clone())?);
        }
        if let Some(authority) = &self.authority {
            builder = builder.authority(authority);
        }
        if let Some(tls) = &self.upstream_tls {
            builder = builder.tls(tls.client()?);
        }
        anyhow::ensure!(self.max_waiting > 0, "max_waiting is 0, so no RPC could wait: set at least 1");
        anyhow::ensure!(
            self.max_requests_per_endpoint != Some(0),
            "max_requests_per_endpoint is 0, so every RPC would fail: set at least 1, or leave it out"
        );
        let max_wait = seconds("max_wait", self.max_wait)?;
        anyhow::ensure!(
            max_wait >= SHORTEST_WAIT,
            "max_wait is {} seconds, so RPCs would fail while a connection is made: set at least 0.001",
            self.max_wait
        );
        let overload = OverloadOptions::default()
            .with_max_requests_per_endpoint(self.max_requests_per_endpoint)
            .with_max_waiting(Some(self.max_waiting))
            .with_max_wait(Some(max_wait));
        builder = builder
            .overload(overload)
            .retries(self.retries.as_ref().map(Retries::options).transpose()?.unwrap_or_default());
        for observer in observers {
            builder = builder.observer(observer);
        }
        Ok(builder.connect_lazy()?)
    }

    /// Returns the limits of clients.
    pub(super) fn limits(&self) -> anyhow::Result<ProxyOptions> {
        let mut options = ProxyOptions::default();
        options.max_rpcs = self.max_rpcs.unwrap_or(options.max_rpcs);
        options.max_metadata = self.max_metadata.unwrap_or(options.max_metadata);
        options.health = self.health;
        anyhow::ensure!(
            self.max_connections > 0,
            "max_connections is 0, so no client could connect: set at least 1"
        );
        anyhow::ensure!(options.max_rpcs > 0, "max_rpcs is 0, so every RPC would fail: set at least 1");
        anyhow::ensure!(
            (1024..=MAX_METADATA).contains(&options.max_metadata),
            "max_metadata is {} bytes: set it to 1024 to {MAX_METADATA}",
            options.max_metadata
        );
        Ok(options)
    }

    pub(super) fn server_tls(&self) -> anyhow::Result<Option<ServerTls>> {
        let tls =
            self.tls.as_ref().map(|tls| ServerTls::from_files(&tls.cert, &tls.key, tls.client_ca.as_deref()));
        Ok(tls.transpose()?)
    }
}

impl UpstreamTls {
    fn client(&self) -> anyhow::Result<ClientTls> {
        let mut client = ClientTls::new();
        if let Some(ca) = &self.ca {
            client = client.ca_file(ca);
        }
        client = match (&self.cert, &self.key) {
            (None, None) => client,
            (Some(cert), Some(key)) => client.identity_files(cert, key),
            _ => anyhow::bail!("upstream_tls has only one of cert and key: set both"),
        };
        if let Some(name) = &self.server_name {
            client = client.server_name(name);
        }
        Ok(client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keys_of_a_listener_are_accepted() {
        let config: Config = toml::from_str(
            r#"
            policies = "policies.d"
            cache = "/var/cache/hotpick"
            require_seal = true
            admin = { listen = "127.0.0.1:9901", tap = true, token_file = "token" }
            access_log = { path = "stdout", sample = 0.1 }
            metrics = { methods = ["echo.Echo/Unary"] }
            [[listeners]]
            listen = "unix:/run/hotpick.sock"
            target = "dns:///echo.example:5001"
            policy = "color"
            policy_config = { unmatched = "any" }
            service_config = { methodConfig = [{ name = [{}], timeout = "1s" }] }
            authority = "echo.example"
            wait_for_ready = true
            max_connections = 100
            max_rpcs = 1000
            max_metadata = 16384
            health = true
            max_requests_per_endpoint = 100
            max_waiting = 500
            max_wait = 2.5
            retries = { max_attempts = 3, buffer = 65536, budget = { ratio = 0.1, min_per_second = 5, window = 5 } }
            tls = { cert = "a.pem", key = "a.key", client_ca = "ca.pem" }
            upstream_tls = { ca = "ca.pem", server_name = "echo" }
            "#,
        )
        .expect("a configuration");
        assert_eq!(config.listeners.len(), 1);
        let retries = config.listeners[0].retries.as_ref().expect("given").options().expect("valid");
        assert!(retries.policy.is_some() && retries.max_attempts == 3, "a budget alone asks for retries");
        let error = toml::from_str::<Config>("[[listeners]]\nlisten = 'a:1'\ntarget = 'a:1'\npolice = 'x'");
        assert!(error.expect_err("a typo").to_string().contains("unknown field `police`"));
    }
}
