//! The configuration file of the proxy, and the channel, limits and TLS of each of its listeners.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use hotpick::__cli::from_toml;
use hotpick::proxy::ProxyOptions;
use hotpick::service_config::ServiceConfig;
use hotpick::tls::{ClientTls, ServerTls};
use hotpick::{Channel, PolicyDir};
use serde::Deserialize;

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
    /// Address of the admin listener.
    pub(super) admin: Option<String>,
    #[serde(default)]
    pub(super) listeners: Vec<Entry>,
}

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
    /// TLS with clients.
    tls: Option<Tls>,
    /// TLS with servers.
    upstream_tls: Option<UpstreamTls>,
}

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
            tls: tls.map(|(cert, key)| Tls { cert, key, client_ca: None }),
            upstream_tls: None,
        }
    }

    /// Connects the channel of the listener.
    pub(super) fn channel(&self, policies: Option<&PolicyDir>) -> anyhow::Result<Channel> {
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
        Ok(builder.connect_lazy()?)
    }

    /// Returns the limits of clients.
    pub(super) fn limits(&self) -> anyhow::Result<ProxyOptions> {
        let mut options = ProxyOptions::default();
        options.max_rpcs = self.max_rpcs.unwrap_or(options.max_rpcs);
        options.max_metadata = self.max_metadata.unwrap_or(options.max_metadata);
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
            admin = "127.0.0.1:9901"
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
            tls = { cert = "a.pem", key = "a.key", client_ca = "ca.pem" }
            upstream_tls = { ca = "ca.pem", server_name = "echo" }
            "#,
        )
        .expect("a configuration");
        assert_eq!(config.listeners.len(), 1);
        let error = toml::from_str::<Config>("[[listeners]]\nlisten = 'a:1'\ntarget = 'a:1'\npolice = 'x'");
        assert!(error.expect_err("a typo").to_string().contains("unknown field `police`"));
    }
}
