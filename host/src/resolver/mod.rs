//! Resolution of targets to endpoints.
//!
//! A [`Target`] identifies a service. A [`Resolver`] watches it and yields a [`ResolverUpdate`] whenever its
//! [`Endpoint`]s change. The channel keeps one subconn for each endpoint.

mod address;
#[cfg(feature = "dns")]
mod dns;
#[cfg(feature = "dns")]
mod dns_over_tcp;
mod endpoint;
mod file;
mod lists;
mod manual;
mod parse;
mod record;
mod registry;
#[expect(clippy::module_inception, reason = "the trait itself")]
mod resolver;
mod target;

pub use self::address::{Address, AddressError};
#[cfg(feature = "dns")]
pub use self::dns::DnsResolver;
pub use self::endpoint::{Attributes, Endpoint};
pub use self::file::FileResolver;
pub use self::manual::ManualResolver;
#[cfg(feature = "etcd")]
pub(crate) use self::record::endpoint as endpoint_of;
#[cfg(feature = "etcd")]
pub(crate) use self::registry::register_default;
pub(crate) use self::registry::resolver_of;
pub use self::registry::{ResolverBuilder, register};
pub use self::resolver::{ResolveNow, Resolver, ResolverError, ResolverStream, ResolverUpdate};
pub use self::target::{Target, TargetError};
