//! The trait of resolvers, and their answers.

use std::pin::Pin;
use std::sync::Arc;

use futures_core::Stream;
use tokio::sync::Notify;

use super::endpoint::Endpoint;
use super::target::Target;
use crate::service_config::{ServiceConfig, ServiceConfigError};

/// What [`Resolver::watch`] returns. It ends when the resolver will never say more; the channel then
/// keeps what it knows.
pub type ResolverStream = Pin<Box<dyn Stream<Item = ResolverUpdate> + Send>>;

/// Finds the endpoints of a target and follows their changes.
pub trait Resolver: Send + Sync + std::fmt::Debug {
    /// Starts watching. Called by the channel, within its tokio runtime: at its start, and again whenever
    /// it leaves IDLE.
    ///
    /// Each item replaces the one before it: a resolver gives the whole list every time. The stream
    /// is dropped when the channel goes idle or is closed. A resolver that is not told of changes asks
    /// again when `resolve_now` says so.
    fn watch(&self, target: &Target, resolve_now: ResolveNow) -> ResolverStream;

    /// The `:authority` of RPCs to this target, where neither the channel's builder nor the RPC has one.
    /// By default it is the address of the endpoint that each RPC goes to.
    fn authority(&self, target: &Target) -> Option<String> {
        let _ = target;
        None
    }
}

/// Tells a resolver that its answer may be out of date: a connection was lost, or could not be made. A
/// hint, and often repeated: a resolver must limit itself how often it asks.
#[derive(Clone, Debug, Default)]
pub struct ResolveNow(Arc<Notify>);

impl ResolveNow {
    /// Asks for a new answer.
    pub fn request(&self) {
        self.0.notify_one();
    }

    /// Waits until a new answer is asked for. Requests since the last wait count as one. Cancel-safe.
    pub async fn requested(&self) {
        self.0.notified().await;
    }
}

/// One answer of a resolver.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ResolverUpdate {
    /// The endpoints, in order of preference, or what went wrong. An error is ignored while an
    /// earlier list is in use. An empty list is an answer: RPCs fail until there is an endpoint.
    pub endpoints: Result<Vec<Endpoint>, String>,
    /// The service config that the target's owner gives; none leaves it to the channel's builder. An
    /// error keeps the one before (gRFC A21).
    pub service_config: Option<Result<ServiceConfig, ServiceConfigError>>,
}

impl ResolverUpdate {
    /// The target has these endpoints now.
    #[must_use]
    pub fn endpoints(endpoints: impl Into<Vec<Endpoint>>) -> Self {
        Self { endpoints: Ok(endpoints.into()), service_config: None }
    }

    /// The resolver failed; `message` is shown to RPCs if nothing better is known.
    #[must_use]
    pub fn error(message: impl Into<String>) -> Self {
        Self { endpoints: Err(message.into()), service_config: None }
    }

    /// The same, with this service config.
    #[must_use]
    pub fn with_service_config(mut self, config: Result<ServiceConfig, ServiceConfigError>) -> Self {
        self.service_config = Some(config);
        self
    }
}
