//! How a channel is made.

use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Channel, Shared};
use crate::balancer::{self, Inputs, PolicyStream, Report};
use crate::picker::{PickerCell, Placement, Policy};
use crate::policy::{PolicyError, is_policy_name};
use crate::policy_dir::{PolicyDir, PolicyUpdate};
use crate::resolver::{Resolver, Target, TargetError};
use crate::subconn::SubConnOptions;

/// Makes a [`Channel`]. From [`Channel::builder`].
#[derive(Debug)]
#[must_use]
pub struct ChannelBuilder {
    target: String,
    resolver: Option<Box<dyn Resolver>>,
    policies: Option<PolicyDir>,
    policy: Option<String>,
    native: Option<Arc<dyn Policy>>,
    config: serde_json::Value,
    patience: Duration,
    authority: Option<String>,
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
    /// There is no runtime to run in.
    #[error("a channel needs a tokio runtime: call connect within one")]
    NoRuntime,
}

impl ChannelBuilder {
    pub(super) fn new(target: String) -> Self {
        Self {
            target,
            resolver: None,
            policies: None,
            policy: None,
            native: None,
            config: serde_json::json!({}),
            patience: Duration::from_secs(5),
            authority: None,
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
    /// Without one, or while there is none of this name, it is the native round robin.
    pub fn policy(mut self, name: impl Into<String>) -> Self {
        self.policy = Some(name.into());
        self
    }

    /// A policy in Rust, instead of one from a directory.
    pub fn native_policy(mut self, policy: impl Policy + 'static) -> Self {
        self.native = Some(Arc::new(policy));
        self
    }

    /// The policy's configuration; `{}` if it is not given.
    pub fn policy_config(mut self, config: serde_json::Value) -> Self {
        self.config = config;
        self
    }

    /// How long RPCs wait for the policy's first version to be loaded before round robin serves them;
    /// by default 5 s.
    pub fn policy_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The `:authority` of RPCs; by default the address of the endpoint that each goes to.
    pub fn authority(mut self, authority: impl Into<String>) -> Self {
        self.authority = Some(authority.into());
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
    /// The target, the policy's name or the authority is wrong, or there is no tokio runtime here.
    pub fn connect(self) -> Result<Channel, ConnectError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| ConnectError::NoRuntime)?;
        let target: Target = self.target.parse()?;
        let resolver = self.resolver.map_or_else(|| target.resolver(), Ok)?;
        if let Some(name) = self.policy.as_ref().filter(|name| !is_policy_name(name)) {
            return Err(ConnectError::Policy(PolicyError::Name(name.clone())));
        }
        let authority = self
            .authority
            .map(|text| text.parse::<Authority>().map_err(|_| ConnectError::Authority(text)))
            .transpose()?;

        let policies: Option<PolicyStream> = match (self.native, &self.policies, &self.policy) {
            (Some(policy), _, _) => Some(Box::pin(tokio_stream::once(PolicyUpdate::Loaded(policy)))),
            (None, Some(directory), Some(name)) => Some(directory.watch(name)),
            (None, None, Some(name)) => {
                tracing::warn!(policy = name, "no policy directory is given: round robin serves");
                None
            }
            (None, Some(directory), None) => {
                let directory = directory.path().display();
                tracing::warn!(%directory, "no policy is named: round robin serves");
                None
            }
            (None, None, None) => None,
        };
        let cell = Arc::new(PickerCell::new());
        let (reporter, report) = watch::channel(Report::default());
        let closed = CancellationToken::new();
        let inputs = Inputs {
            endpoints: resolver.watch(&target),
            policies,
            policy_name: self.policy.unwrap_or_default(),
            placement: Placement::new(target.to_string(), self.config.to_string()),
            patience: self.patience,
            subconns: self.subconns,
            closed: closed.clone(),
        };
        runtime.spawn(balancer::run(inputs, Arc::clone(&cell), reporter));
        Ok(Channel(Arc::new(Shared { cell, report, authority, _closed: closed.drop_guard() })))
    }
}
