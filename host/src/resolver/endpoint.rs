//! Endpoints: the servers of a target.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::address::Address;

/// One server: its addresses, and a weight and attributes for policies.
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
        // Fast path: most endpoints of a new answer are usually the same objects.
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Eq for Endpoint {}

/// Names and values that a resolver attaches to an endpoint. Names that start with `hotpick.` are reserved.
pub type Attributes = BTreeMap<String, String>;

impl Endpoint {
    /// Creates an endpoint with one address, weight 1 and no attributes.
    #[must_use]
    pub fn new(address: Address) -> Self {
        Self(Arc::new(Fields { addresses: vec![address], weight: 1, attributes: Attributes::new() }))
    }

    /// Adds an address of the same server, which is tried after the previous ones.
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

    /// Returns the addresses of the server, preferred ones first; never empty. They identify the endpoint: as long as
    /// they stay the same, it keeps its connection.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.0.addresses
    }

    /// Returns the relative weight, at least 1.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.0.weight
    }

    /// Returns the attributes.
    #[must_use]
    pub fn attributes(&self) -> &Attributes {
        &self.0.attributes
    }
}
