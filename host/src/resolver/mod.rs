//! Where the endpoints of a target come from.
//!
//! A [`Target`] names a service; a [`Resolver`] watches it and yields a [`ResolverUpdate`] whenever
//! its [`Endpoint`]s change. The channel keeps one subconn to each endpoint.

mod address;
mod dns;
mod dns_over_tcp;
mod file;
mod lists;
mod manual;
mod record;
mod registry;
mod target;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use futures_core::Stream;
use tokio::sync::Notify;

use crate::service_config::{ServiceConfig, ServiceConfigError};

pub use self::address::{Address, AddressError};
pub use self::dns::DnsResolver;
pub use self::file::FileResolver;
pub use self::manual::ManualResolver;
#[cfg(feature = "etcd")]
pub(crate) use self::record::endpoint as endpoint_of;
pub use self::registry::{ResolverBuilder, register};
pub use self::target::{Target, TargetError};

/// What gRPC takes where a target names no port.
const DEFAULT_PORT: u16 = 443;

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

/// One backend: its addresses, and what a policy may know of it.
///
/// ```
/// use hotpick::resolver::Endpoint;
///
/// let endpoint = Endpoint::new("10.0.0.7:5001".parse()?).with_weight(2).with_attribute("color", "red");
/// assert_eq!(endpoint.attributes().get("color").map(String::as_str), Some("red"));
/// # Ok::<(), hotpick::resolver::AddressError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Endpoint(Arc<Fields>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Fields {
    addresses: Vec<Address>,
    weight: u32,
    attributes: Attributes,
}

impl PartialEq for Endpoint {
    fn eq(&self, other: &Self) -> bool {
        // Of ten thousand that a resolver gives again most are the very same.
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Eq for Endpoint {}

/// What a resolver attached to an endpoint. Keys that start with `hotpick.` are reserved.
pub type Attributes = BTreeMap<String, String>;

impl Endpoint {
    /// An endpoint of one address, with weight 1 and no attributes.
    #[must_use]
    pub fn new(address: Address) -> Self {
        Self(Arc::new(Fields { addresses: vec![address], weight: 1, attributes: Attributes::new() }))
    }

    /// Adds an address of the same backend, tried after those before it.
    #[must_use]
    pub fn with_address(mut self, address: Address) -> Self {
        Arc::make_mut(&mut self.0).addresses.push(address);
        self
    }

    /// Sets the relative weight; 0 counts as 1.
    #[must_use]
    pub fn with_weight(mut self, weight: u32) -> Self {
        Arc::make_mut(&mut self.0).weight = weight.max(1);
        self
    }

    /// Sets an attribute.
    #[must_use]
    pub fn with_attribute(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        Arc::make_mut(&mut self.0).attributes.insert(key.into(), value.into());
        self
    }

    /// The backend's addresses, preferred first; never empty. They are its identity: an endpoint with
    /// the same addresses keeps its connection whatever else changes.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.0.addresses
    }

    /// The relative weight, at least 1.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.0.weight
    }

    /// The attributes.
    #[must_use]
    pub fn attributes(&self) -> &Attributes {
        &self.0.attributes
    }
}
