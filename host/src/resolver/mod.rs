//! Where the endpoints of a target come from.
//!
//! A [`Target`] names a service; a [`Resolver`] watches it and yields a [`ResolverUpdate`] whenever
//! its [`Endpoint`]s change. The channel keeps one subconn to each endpoint.

mod address;
mod manual;
mod registry;
mod target;

use std::collections::BTreeMap;
use std::pin::Pin;

use futures_core::Stream;

pub use self::address::{Address, AddressError};
pub use self::manual::ManualResolver;
pub use self::registry::{ResolverBuilder, register};
pub use self::target::{Target, TargetError};

/// What [`Resolver::watch`] returns. It ends when the resolver will never say more; the channel then
/// keeps what it knows.
pub type ResolverStream = Pin<Box<dyn Stream<Item = ResolverUpdate> + Send>>;

/// Finds the endpoints of a target and follows their changes.
pub trait Resolver: Send + std::fmt::Debug {
    /// Starts watching. Called once, by the channel, within its tokio runtime.
    ///
    /// Each item replaces the one before it: a resolver gives the whole list every time. The stream
    /// is dropped with the channel.
    fn watch(self: Box<Self>, target: &Target) -> ResolverStream;
}

/// One answer of a resolver.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ResolverUpdate {
    /// The endpoints, in order of preference, or what went wrong. An error is ignored while an
    /// earlier list is in use. An empty list is an answer: RPCs fail until there is an endpoint.
    pub endpoints: Result<Vec<Endpoint>, String>,
}

impl ResolverUpdate {
    /// The target has these endpoints now.
    #[must_use]
    pub fn endpoints(endpoints: impl Into<Vec<Endpoint>>) -> Self {
        Self { endpoints: Ok(endpoints.into()) }
    }

    /// The resolver failed; `message` is shown to RPCs if nothing better is known.
    #[must_use]
    pub fn error(message: impl Into<String>) -> Self {
        Self { endpoints: Err(message.into()) }
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    addresses: Vec<Address>,
    weight: u32,
    attributes: Attributes,
}

/// What a resolver attached to an endpoint. Keys that start with `hotpick.` are reserved.
pub type Attributes = BTreeMap<String, String>;

impl Endpoint {
    /// An endpoint of one address, with weight 1 and no attributes.
    #[must_use]
    pub fn new(address: Address) -> Self {
        Self { addresses: vec![address], weight: 1, attributes: Attributes::new() }
    }

    /// Adds an address of the same backend, tried after those before it.
    #[must_use]
    pub fn with_address(mut self, address: Address) -> Self {
        self.addresses.push(address);
        self
    }

    /// Sets the relative weight; 0 counts as 1.
    #[must_use]
    pub fn with_weight(mut self, weight: u32) -> Self {
        self.weight = weight.max(1);
        self
    }

    /// Sets an attribute.
    #[must_use]
    pub fn with_attribute(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.insert(key.into(), value.into());
        self
    }

    /// The backend's addresses, preferred first; never empty. They are its identity: an endpoint with
    /// the same addresses keeps its connection whatever else changes.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The relative weight, at least 1.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.weight
    }

    /// The attributes.
    #[must_use]
    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }
}
