//! How a channel is made.

use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::channel::{Channel, Shared};
use crate::activity::Activity;
use crate::balancer::{self, Inputs, Published, Report, Sources};
use crate::directory::PolicyDir;
use crate::lifecycle::{Policy, PolicySource, is_policy_name};
use crate::policy::PolicyError;
use crate::resolver::{Resolver, Target, TargetError, resolver_of};
use crate::service_config::ServiceConfig;
use crate::tls::{ClientTls, Connector, TlsError};
use crate::transport::{Dialer, SubConnOptions};
use crate::workers;

/// Makes a [`Channel`]. From [`Channel::builder`].
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
    patience: Duration,
    authority: Option<String>,
    wait_for_ready: bool,
    idle_timeout: Option<Duration>,
    tls: Option<ClientTls>,
    subconns: SubConnOptions,
}

/// Why a channel cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The target is wrong.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The policy's name is wrong.
    #[error("policy {0}")]
    Policy(PolicyError),
    /// The authority is wrong.
    #[error("authority {0:?} is not a host or host:port")]
    Authority(String),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The machine has no thread for a channel to change its policy with.
    #[error("a channel needs a thread beside its runtime, and none can be made: {0}")]
    NoThread(#[source] std::io::Error),
    /// There is no runtime to run in.
    #[error("a channel needs a tokio runtime: call connect within one")]
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
            patience: Duration::from_secs(5),
            authority: None,
            wait_for_ready: false,
            idle_timeout: Some(Duration::from_secs(30 * 60)),
            tls: None,
            subconns: SubConnOptions::default(),
        }
    }

    /// Where the endpoints come from, instead of the resolver that the target's scheme names.
    pub fn resolver(mut self, resolver: impl Resolver + 'static) -> Self {
        self.resolver = Some(Box::new(resolver));
        self
    }

    /// Where policies come from.
    pub fn policies(mut self, policies: &PolicyDir) -> Self {
        self.policies = Some(policies.clone());
        self
    }

    /// The policy that picks: `color` is `color.wasm` in the directory of [`policies`](Self::policies).
    /// Without one, or while there is none of this name, it is the native round robin. A service config
    /// that names policies, from the resolver, counts for more.
    pub fn policy(mut self, name: impl Into<String>) -> Self {
        self.policy = Some(name.into());
        self
    }

    /// A policy in Rust. It is known by the name of its version, and picks unless
    /// [`policy`](Self::policy) or a service config names another.
    pub fn native_policy(mut self, policy: impl Policy + 'static) -> Self {
        self.native = Some(Arc::new(policy));
        self
    }

    /// The policy's configuration; `{}` if it is not given.
    pub fn policy_config(mut self, config: serde_json::Value) -> Self {
        self.policy_config = Some(config);
        self
    }

    /// The service config that counts where the resolver gives none. [`policy`](Self::policy), if it is
    /// given too, takes the place of its policies.
    pub fn service_config(mut self, config: ServiceConfig) -> Self {
        self.service_config = config;
        self
    }

    /// How long RPCs wait for the policy's first version to be loaded before round robin serves them;
    /// by default 5 s. Nothing is connected before: the policy may be one that decides when to connect.
    pub fn policy_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The `:authority` of RPCs that have none of their own, and with TLS the server's name. By default
    /// it is the target's name if that is of DNS, and otherwise the address of the endpoint that each RPC
    /// goes to.
    pub fn authority(mut self, authority: impl Into<String>) -> Self {
        self.authority = Some(authority.into());
        self
    }

    /// Whether RPCs that do not say, and whose method's config does not, are held while nothing is ready,
    /// instead of failing; by default they fail.
    pub fn wait_for_ready(mut self, wait: bool) -> Self {
        self.wait_for_ready = wait;
        self
    }

    /// How long the channel may be without RPCs before it goes IDLE and gives up its connections, or twice
    /// as long at most; by default 30 minutes, as in gRPC. None, or zero: never.
    pub fn idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.idle_timeout = timeout.into().filter(|timeout| !timeout.is_zero());
        self
    }

    /// Encrypts the connections, and makes sure of whom they lead to.
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// How subconns connect.
    pub fn subconn_options(mut self, options: SubConnOptions) -> Self {
        self.subconns = options;
        self
    }

    /// Makes the channel, which starts to resolve and connect. RPCs may begin at once: they wait until
    /// something is ready or has failed.
    ///
    /// # Errors
    ///
    /// The target, the policy's name, the authority or a certificate is wrong, or there is no tokio runtime
    /// here.
    pub fn connect(self) -> Result<Channel, ConnectError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| ConnectError::NoRuntime)?;
        let target: Target = self.target.parse()?;
        let resolver = self.resolver.map_or_else(|| resolver_of(&target), Ok)?;
        let authority = self
            .authority
            .or_else(|| resolver.authority(&target))
            .map(|text| text.parse::<Authority>().map_err(|_| ConnectError::Authority(text)))
            .transpose()?;
        let host = authority.as_ref().map(Authority::host);
        let tls = self.tls.map(|tls| Connector::new(tls, host)).transpose()?.map(Arc::new);

        let native = self.native.as_ref().map(|policy| policy.version().name);
        let mut config = self.service_config;
        let named = match self.policy {
            Some(name) if !is_policy_name(&name) => {
                return Err(ConnectError::Policy(PolicyError::Name(name)));
            }
            Some(name) => Some(name),
            None if config.policies.is_empty() => native,
            None => None,
        };
        if let Some(name) = named {
            let empty = serde_json::json!({});
            config = config.with_policy(name, self.policy_config.as_ref().unwrap_or(&empty));
        }
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
        let inputs = Inputs {
            target,
            resolver,
            policies: Sources {
                source: self.policies.map(|directory| Arc::new(directory) as Arc<dyn PolicySource>),
                native: self.native,
            },
            config,
            patience: self.patience,
            idle_timeout: self.idle_timeout,
            dialer: Dialer {
                options: self.subconns,
                tls,
                authority,
                health: health_of,
                abort: abort.clone(),
                counters: Arc::clone(&connections),
            },
            health,
            activity: Arc::clone(&activity),
            commands: receiver,
            closed: closed.clone(),
        };
        let span = tracing::info_span!("channel", target = name);
        runtime.spawn(balancer::run(inputs, Arc::clone(&published), reporter).instrument(span));
        let wait_for_ready = self.wait_for_ready;
        let _dropped = closed.clone().drop_guard();
        Ok(Channel(Arc::new(Shared {
            target: name,
            published,
            report,
            activity,
            connections,
            commands,
            wait_for_ready,
            runtime,
            abort,
            closed,
            _dropped,
        })))
    }
}
