//! The trait [`Resolver`], and its answers.

use std::pin::Pin;
use std::sync::Arc;

use futures_core::Stream;
use tokio::sync::Notify;

use super::endpoint::Endpoint;
use super::target::Target;
use crate::service_config::{ServiceConfig, ServiceConfigError};

/// The stream that [`Resolver::watch`] returns. When it ends, the channel keeps the last answer.
pub type ResolverStream = Pin<Box<dyn Stream<Item = ResolverUpdate> + Send>>;

/// Finds the endpoints of a target and follows their changes.
pub trait Resolver: Send + Sync + std::fmt::Debug {
    /// Starts to watch a target. The channel calls this within its Tokio runtime, at its start and whenever it leaves
    /// IDLE.
    ///
    /// Each item has the complete list, and replaces the previous one. The channel drops the stream when it goes idle
    /// or is closed. A resolver that is not notified of changes should query again when `resolve_now` requests it.
    fn watch(&self, target: &Target, resolve_now: ResolveNow) -> ResolverStream;

    /// Returns the `:authority` of RPCs to this target, if neither the channel's builder nor the RPC sets one. `None`
    /// (the default): the address of the endpoint that the RPC is sent to.
    fn authority(&self, target: &Target) -> Option<String> {
        let _ = target;
        None
    }
}

/// Notifies a resolver that its answer may be out of date, because a connection was lost or could not be made.
///
/// Requests are hints, and frequent. A resolver must limit the rate of its queries itself.
#[derive(Clone, Debug, Default)]
pub struct ResolveNow(Arc<Notify>);

impl ResolveNow {
    /// Requests a new answer.
    pub fn request(&self) {
        self.0.notify_one();
    }

    /// Waits until a new answer is requested. Requests since the last wait count as one.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe.
    pub async fn requested(&self) {
        self.0.notified().await;
    }
}

/// One answer of a resolver.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ResolverUpdate {
    /// The endpoints, in order of preference, or the reason why the target could not be resolved. An error is ignored
    /// while an earlier list is used. An empty list is an answer: RPCs fail until there is an endpoint.
    pub endpoints: Result<Vec<Endpoint>, ResolverError>,
    /// The service config of the target's owner. `None`: the one of the channel's builder applies. An error keeps the
    /// previous one (gRFC A21).
    pub service_config: Option<Result<ServiceConfig, ServiceConfigError>>,
}

/// Why a resolver has no endpoints: one sentence, and the cause if there is one.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ResolverError {
    message: String,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl ResolverError {
    /// Creates an error with this message, which RPCs see.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), source: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self { source: Some(Arc::new(source)), ..self }
    }
}

impl<T: Into<String>> From<T> for ResolverError {
    fn from(message: T) -> Self {
        Self::new(message)
    }
}

impl ResolverUpdate {
    /// Creates an answer with these endpoints.
    #[must_use]
    pub fn endpoints(endpoints: impl Into<Vec<Endpoint>>) -> Self {
        Self { endpoints: Ok(endpoints.into()), service_config: None }
    }

    /// Creates an answer for a failed resolution. RPCs fail with `message` if there is no earlier list.
    #[must_use]
    pub fn error(error: impl Into<ResolverError>) -> Self {
        Self { endpoints: Err(error.into()), service_config: None }
    }

    /// Sets the service config.
    #[must_use]
    pub fn with_service_config(mut self, config: Result<ServiceConfig, ServiceConfigError>) -> Self {
        self.service_config = Some(config);
        self
    }
}
