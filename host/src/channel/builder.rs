//! How a channel is built.

use std::sync::Arc;
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::channel::{Channel, Shared};
use super::overload::OverloadOptions;
use crate::activity::Activity;
use crate::balancer::{self, Inputs, Published, Report, Sources};
use crate::call::{CallObserver, Observers};
use crate::directory::PolicyDir;
use crate::headers::{default_user_agent, user_agent};
use crate::lifecycle::{Policy, PolicySource, RoundRobin, is_policy_name};
use crate::policy::PolicyError;
use crate::resolver::{Resolver, Target, TargetError, resolver_of};
use crate::retry::RetryOptions;
use crate::service_config::ServiceConfig;
#[cfg(feature = "tls")]
use crate::tls::{ClientTls, Connector, TlsError};
use crate::transport::{Connect, Dialer, SubConnOptions};
use crate::workers;

/// Builds a [`Channel`]. Created by [`Channel::builder`].
///
/// Coming from tonic's `Endpoint`:
///
/// | tonic | here |
/// |---|---|
/// | `Endpoint::from_shared(uri)`, `Channel::balance_list` | [`Channel::builder`] with a [`Target`] |
/// | `connect_lazy`, `connect` | [`connect_lazy`](Self::connect_lazy); then [`Channel::wait_for`] to wait until it is ready |
/// | `connect_with_connector_lazy` | [`connect_with`](Self::connect_with) |
/// | `timeout` | [`timeout`](Self::timeout), or a service config by method |
/// | `user_agent` | [`user_agent`](Self::user_agent) |
/// | `origin` | [`origin`](Self::origin), [`authority`](Self::authority) |
/// | `tls_config`, `tls_config_with_verifier` | [`tls`](Self::tls), [`ClientTls::rustls_config`] |
/// | `connect_timeout`, `tcp_keepalive`, `http2_keep_alive_interval`, `keep_alive_timeout`, `local_address`, `initial_stream_window_size`, `initial_connection_window_size`, `http2_max_header_list_size` | [`subconn_options`](Self::subconn_options) with [`SubConnOptions`] |
/// | `tcp_nodelay` | always on |
/// | `concurrency_limit`, `rate_limit`, `buffer_size` | tower's layers around the channel |
#[derive(Debug)]
#[must_use]
pub struct ChannelBuilder {
    target: String,
    resolver: Option<Box<dyn Resolver>>,
    policies: Option<PolicyDir>,
    policy: Option<String>,
    native: Option<Arc<dyn Policy>>,
    policy_config: Option<serde_json::Value>,
    service_config: ServiceConfig,
    first_policy_timeout: Duration,
    authority: Option<String>,
    origin: Option<String>,
    user_agent: Option<String>,
    timeout: Option<Duration>,
    wait_for_ready: bool,
    idle_timeout: Option<Duration>,
    #[cfg(feature = "tls")]
    tls: Option<ClientTls>,
    connector: Option<Arc<dyn Connect>>,
    subconns: SubConnOptions,
    retries: RetryOptions,
    overload: OverloadOptions,
    observers: Observers,
}

/// Why a channel cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The target is invalid.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The policy's name is invalid.
    #[error("policy {0}")]
    Policy(#[source] PolicyError),
    /// A policy is named, and nothing can provide it.
    #[error(
        "policy {0:?} cannot be provided: give the builder a policy directory (policies), or a native policy of that name"
    )]
    NoSource(String),
    /// A configuration is given, and no policy is named that would get it.
    #[error(
        "a policy configuration is given, but no policy to give it to: name one with policy or native_policy (policies that a \
         service config lists have their configuration there)"
    )]
    ConfigWithoutPolicy,
    /// The authority is invalid.
    #[error("invalid authority {0:?}: expected a host or host:port")]
    Authority(String),
    /// The origin is invalid.
    #[error("invalid origin {0:?}: expected http://host:port or https://host:port")]
    Origin(String),
    /// The user agent is invalid.
    #[error("invalid user agent {0:?}: expected visible ASCII characters")]
    UserAgent(String),
    /// A connection option is out of its range.
    #[error("connection option {option} is {value}: expected {min} to {max}")]
    Option {
        /// Name of the field of [`SubConnOptions`].
        option: &'static str,
        /// Its value.
        value: u32,
        /// The smallest valid value.
        min: u32,
        /// The largest valid value.
        max: u32,
    },
    /// A value of the retry options is out of its range.
    #[error("retry option {option} is {value}: expected {expected}")]
    Retries {
        /// Name of the field of [`RetryOptions`] or of its budget.
        option: &'static str,
        /// Its value.
        value: String,
        /// The valid values.
        expected: &'static str,
    },
    /// TLS cannot be set up.
    #[cfg(feature = "tls")]
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The machine has no thread left for starting policies.
    #[error("a channel needs a thread beside its runtime, and none can be created: {0}")]
    NoThread(#[source] std::io::Error),
    /// There is no runtime to run in.
    #[error("a channel needs a Tokio runtime: call connect_lazy within one")]
    NoRuntime,
}

impl ChannelBuilder {
    pub(crate) fn new(target: String) -> Self {
        Self {
            target,
            resolver: None,
            policies: None,
            policy: None,
            native: None,
            policy_config: None,
            service_config: ServiceConfig::default(),
            first_policy_timeout: Duration::from_secs(5),
            authority: None,
            origin: None,
            user_agent: None,
            timeout: None,
            wait_for_ready: false,
            idle_timeout: Some(Duration::from_secs(30 * 60)),
            #[cfg(feature = "tls")]
            tls: None,
            connector: None,
            subconns: SubConnOptions::default(),
            retries: RetryOptions::default(),
            overload: OverloadOptions::default(),
            observers: Observers::default(),
        }
    }

    /// Sets the resolver, instead of the one that the target's scheme names.
    pub fn resolver(mut self, resolver: impl Resolver + 'static) -> Self {
        self.resolver = Some(Box::new(resolver));
        self
    }

    /// Sets the directory that policies come from.
    pub fn policies(mut self, policies: &PolicyDir) -> Self {
        self.policies = Some(policies.clone());
        self
    }

    /// Sets the policy that picks: `color` is `color.wasm` in the directory of [`policies`](Self::policies).
    /// Without one, or while there is none of this name, the native round robin picks. Policies named by a service config
    /// from the resolver take precedence.
    pub fn policy(mut self, name: impl Into<String>) -> Self {
        self.policy = Some(name.into());
        self
    }

    /// Adds a policy in Rust, under the name of its version. It picks unless [`policy`](Self::policy) or a service config
    /// names another.
    pub fn native_policy(mut self, policy: impl Policy + 'static) -> Self {
        self.native = Some(Arc::new(policy));
        self
    }

    /// Sets the policy's configuration; `{}` by default.
    pub fn policy_config(mut self, config: serde_json::Value) -> Self {
        self.policy_config = Some(config);
        self
    }

    /// Sets the service config that is used where the resolver gives none. [`policy`](Self::policy), if set,
    /// replaces its policies.
    pub fn service_config(mut self, config: ServiceConfig) -> Self {
        self.service_config = config;
        self
    }

    /// Sets how long RPCs wait for the policy's first version to be loaded before round robin serves them;
    /// 5 s by default. Nothing is connected before: the policy may be one that decides when to connect.
    pub fn first_policy_timeout(mut self, timeout: Duration) -> Self {
        self.first_policy_timeout = timeout;
        self
    }

    /// Sets the `:authority` of RPCs that have none of their own, and with TLS the server's name. By default
    /// it is the target's name if that is of DNS, and otherwise the address of the endpoint that each RPC
    /// goes to.
    pub fn authority(mut self, authority: impl Into<String>) -> Self {
        self.authority = Some(authority.into());
        self
    }

    /// Sets the `:scheme` and `:authority` of RPCs, as a URI such as `https://shop.example`: for servers behind a proxy
    /// that ends TLS. [`authority`](Self::authority) takes precedence.
    pub fn origin(mut self, origin: impl Into<String>) -> Self {
        self.origin = Some(origin.into());
        self
    }

    /// Sets the user agent, which is put before hotpick's own. An RPC's own `user-agent` takes precedence.
    pub fn user_agent(mut self, user_agent: impl Into<String>) -> Self {
        self.user_agent = Some(user_agent.into());
        self
    }

    /// Sets the longest time that an RPC may take, streams included. The shortest of this, the RPC's own timeout and that of its
    /// method's config counts. No limit by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets whether RPCs are queued while nothing is ready, instead of failing, where neither the RPC nor its method's
    /// config says; by default they fail.
    pub fn wait_for_ready(mut self, wait: bool) -> Self {
        self.wait_for_ready = wait;
        self
    }

    /// Sets how long the channel may be without RPCs before it goes IDLE and gives up its connections, or twice
    /// as long at most; 30 minutes by default, as in gRPC. `None`, or zero: never.
    pub fn idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.idle_timeout = timeout.into().filter(|timeout| !timeout.is_zero());
        self
    }

    /// Encrypts the connections, and verifies the servers.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Opens byte streams with this connector, instead of TCP and Unix sockets: in memory, by vsock, through a proxy.
    pub fn connect_with(mut self, connector: impl Connect + 'static) -> Self {
        self.connector = Some(Arc::new(connector));
        self
    }

    /// Sets the connection options: timeouts, number of connections, backoff, keep-alive, windows.
    pub fn subconn_options(mut self, options: SubConnOptions) -> Self {
        self.subconns = options;
        self
    }

    /// Sets how RPCs are retried and hedged, beside what the service config says of each method.
    pub fn retries(mut self, options: RetryOptions) -> Self {
        self.retries = options;
        self
    }

    /// Sets limits of the RPCs in flight and of those that wait. There are none by default.
    pub fn overload(mut self, options: OverloadOptions) -> Self {
        self.overload = options;
        self
    }

    /// Adds an observer, which is told of each RPC.
    pub fn observer(mut self, observer: impl CallObserver + 'static) -> Self {
        self.observers.push(Arc::new(observer));
        self
    }

    /// Creates the channel, and starts to resolve and connect. Returns before anything is connected; RPCs may start at
    /// once, and wait until an endpoint is ready or all have failed.
    ///
    /// # Errors
    ///
    /// The target, the policy's name, the authority, the origin, the user agent or a certificate is invalid; a policy is named
    /// that nothing provides, or configured without a name; or there is no Tokio runtime.
    pub fn connect_lazy(self) -> Result<Channel, ConnectError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| ConnectError::NoRuntime)?;
        let target: Target = self.target.parse()?;
        let config = self.first_config()?;
        self.subconns.check().map_err(|(option, value, min, max)| ConnectError::Option {
            option,
            value,
            min,
            max,
        })?;
        self.retries.check().map_err(|(option, value, expected)| ConnectError::Retries {
            option,
            value,
            expected,
        })?;
        let user_agent = match self.user_agent {
            None => default_user_agent(),
            Some(own) => user_agent(own.trim().as_bytes()).ok_or(ConnectError::UserAgent(own))?,
        };
        let origin = self.origin.as_deref().map(origin).transpose()?;
        let (scheme, origin_authority) = origin.unzip();
        let resolver = self.resolver.map_or_else(|| resolver_of(&target), Ok)?;
        let authority = self
            .authority
            .or_else(|| origin_authority.map(|authority| authority.to_string()))
            .or_else(|| resolver.authority(&target))
            .map(|text| text.parse::<Authority>().map_err(|_| ConnectError::Authority(text)))
            .transpose()?;
        #[cfg(feature = "tls")]
        let tls = {
            let host = authority.as_ref().map(Authority::host);
            self.tls.map(|tls| Connector::new(tls, host)).transpose()?.map(Arc::new)
        };
        #[cfg(not(feature = "tls"))]
        let tls = None;
        if let (Some(directory), true) = (&self.policies, config.policies.is_empty()) {
            let directory = directory.path().display();
            tracing::info!(%directory, "no policy is named: round robin serves unless a service config names one");
        }

        workers::ready().map_err(ConnectError::NoThread)?;
        let published = Arc::new(Published::default());
        let (reporter, report) = watch::channel(Report::default());
        let (commands, receiver) = mpsc::unbounded_channel();
        let (health, health_of) = watch::channel(None);
        let (closed, abort) = (CancellationToken::new(), CancellationToken::new());
        let activity = Arc::new(Activity::default());
        let connections = Arc::default();
        let name = target.to_string();
        let span = tracing::info_span!("channel", target = %name);
        let inputs = Inputs {
            target,
            resolver,
            policies: Sources {
                source: self.policies.map(|directory| Arc::new(directory) as Arc<dyn PolicySource>),
                native: self.native,
            },
            config,
            first_policy_timeout: self.first_policy_timeout,
            idle_timeout: self.idle_timeout,
            dialer: Dialer {
                options: self.subconns,
                tls,
                authority,
                scheme,
                connector: self.connector,
                health: health_of,
                abort: abort.clone(),
                counters: Arc::clone(&connections),
                span: span.clone(),
            },
            health,
            activity: Arc::clone(&activity),
            commands: receiver,
            closed: closed.clone(),
        };
        runtime.spawn(balancer::run(inputs, Arc::clone(&published), reporter).instrument(span));
        let _dropped = closed.clone().drop_guard();
        Ok(Channel(Arc::new(Shared {
            target: name.into(),
            observers: self.observers,
            default_policy: self.retries.default_policy(),
            budget: self.retries.new_budget(),
            retries: self.retries,
            max_requests: self.overload.max_requests.unwrap_or(usize::MAX),
            max_requests_per_endpoint: self.overload.max_requests_per_endpoint.unwrap_or(u32::MAX),
            wait_limits: self.overload.wait_limits(),
            published,
            report,
            activity,
            connections,
            commands,
            wait_for_ready: self.wait_for_ready,
            timeout: self.timeout,
            user_agent,
            runtime,
            abort,
            closed,
            _dropped,
        })))
    }

    /// Returns the service config to use where the resolver gives none.
    fn first_config(&self) -> Result<ServiceConfig, ConnectError> {
        let native = self.native.as_ref().map(|policy| policy.version().name);
        let config = self.service_config.clone();
        let named = match &self.policy {
            Some(name) if !is_policy_name(name) => {
                return Err(ConnectError::Policy(PolicyError::Name(name.clone())));
            }
            Some(name) => {
                let built_in = RoundRobin::default().version().name;
                if self.policies.is_none() && native.as_ref() != Some(name) && *name != built_in {
                    return Err(ConnectError::NoSource(name.clone()));
                }
                Some(name.clone())
            }
            None if config.policies.is_empty() => native,
            None => None,
        };
        match (named, &self.policy_config) {
            (None, Some(_)) => Err(ConnectError::ConfigWithoutPolicy),
            (None, None) => Ok(config),
            (Some(name), given) => {
                let empty = serde_json::json!({});
                Ok(config.with_policy(name, given.as_ref().unwrap_or(&empty)))
            }
        }
    }
}

/// Parses the scheme and the authority of an origin.
fn origin(text: &str) -> Result<(Scheme, Authority), ConnectError> {
    let parts = text.parse::<Uri>().map(Uri::into_parts).ok();
    let is_bare = |path: &PathAndQuery| path.as_str() == "/";
    let parts = parts.filter(|parts| parts.path_and_query.as_ref().is_none_or(is_bare));
    let parts = parts.and_then(|parts| parts.scheme.zip(parts.authority));
    parts
        .filter(|(scheme, _)| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS)
        .filter(|(_, authority)| !authority.as_str().contains('@'))
        .ok_or_else(|| ConnectError::Origin(text.to_owned()))
}
