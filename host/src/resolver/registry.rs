//! Resolvers by the scheme of a target.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use super::{Address, DnsResolver, Endpoint, FileResolver, ManualResolver, Resolver, Target, TargetError};

/// Makes resolvers for the targets of a scheme. Closures do.
pub trait ResolverBuilder: Send + Sync {
    /// Makes the resolver of a target, for one channel.
    ///
    /// # Errors
    ///
    /// The target makes no sense in this scheme: [`TargetError::invalid`].
    fn build(&self, target: &Target) -> Result<Box<dyn Resolver>, TargetError>;
}

impl<F> ResolverBuilder for F
where
    F: Fn(&Target) -> Result<Box<dyn Resolver>, TargetError> + Send + Sync,
{
    fn build(&self, target: &Target) -> Result<Box<dyn Resolver>, TargetError> {
        self(target)
    }
}

/// Registers a resolver for the targets of a scheme, in this process, in place of one that is there.
///
/// ```
/// use hotpick::resolver::{self, Endpoint, ManualResolver, Resolver, Target, TargetError};
///
/// resolver::register("one", |target: &Target| -> Result<Box<dyn Resolver>, TargetError> {
///     let address = target.endpoint().parse().map_err(|error| TargetError::invalid(target, error))?;
///     Ok(Box::new(ManualResolver::new([Endpoint::new(address)])))
/// });
/// let target: Target = "one:127.0.0.1:5001".parse()?;
/// # assert_eq!(target.endpoint(), "127.0.0.1:5001");
/// # Ok::<(), TargetError>(())
/// ```
pub fn register(scheme: &str, builder: impl ResolverBuilder + 'static) {
    let mut registry = REGISTRY.write().unwrap_or_else(PoisonError::into_inner);
    registry.insert(scheme.to_ascii_lowercase(), Arc::new(builder));
}

type Built = Result<Box<dyn Resolver>, TargetError>;
type Registry = BTreeMap<String, Arc<dyn ResolverBuilder>>;

static REGISTRY: LazyLock<RwLock<Registry>> = LazyLock::new(|| {
    let mut registry = Registry::new();
    let mut insert = |scheme: &str, builder: fn(&Target) -> Built| {
        registry.insert(scheme.to_owned(), Arc::new(builder));
    };
    insert("static", |target| list(target, |text| text.parse::<Address>()));
    insert("ipv4", |target| list(target, ipv4));
    insert("ipv6", |target| list(target, ipv6));
    insert("unix", unix);
    insert("dns", |target| Ok(Box::new(DnsResolver::of(target)?)));
    insert("file", |target| Ok(Box::new(FileResolver::of(target)?)));
    #[cfg(feature = "etcd")]
    insert("etcd", |target| Ok(Box::new(crate::etcd::EtcdResolver::of(target)?)));
    RwLock::new(registry)
});

/// The builder of a scheme, in lower case.
pub(super) fn find(scheme: &str) -> Option<Arc<dyn ResolverBuilder>> {
    REGISTRY.read().unwrap_or_else(PoisonError::into_inner).get(scheme).cloned()
}

/// The schemes that there are.
pub(super) fn schemes() -> String {
    let registry = REGISTRY.read().unwrap_or_else(PoisonError::into_inner);
    registry.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// An endpoint for each item of a list with commas.
fn list<E: std::fmt::Display>(target: &Target, parse: impl Fn(&str) -> Result<Address, E>) -> Built {
    let items = target.endpoint().split(',').filter(|text| !text.is_empty());
    let endpoints = items
        .map(|text| parse(text).map(Endpoint::new))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TargetError::invalid(target, error))?;
    if endpoints.is_empty() {
        return Err(TargetError::invalid(target, "names no endpoint: write host:port,host:port"));
    }
    Ok(Box::new(ManualResolver::new(endpoints)))
}

fn unix(target: &Target) -> Built {
    match (target.authority(), target.endpoint()) {
        (_, "") => Err(TargetError::invalid(target, "names no socket: write unix:/path")),
        ("", _) => Ok(Box::new(ManualResolver::new([Endpoint::new(Address::unix(target.path()))]))),
        _ => Err(TargetError::invalid(target, "has a host: write unix:/path, or unix:///path")),
    }
}

/// What gRPC takes when a target of addresses names no port.
const DEFAULT_PORT: u16 = 443;

fn ipv4(text: &str) -> Result<Address, String> {
    let bare = || text.parse::<Ipv4Addr>().map(|ip| SocketAddrV4::new(ip, DEFAULT_PORT));
    let address = text.parse::<SocketAddrV4>().or_else(|_| bare());
    let address = address.map_err(|_| format!("{text:?} is not an IPv4 address: write 10.0.0.1:5001"))?;
    Ok(SocketAddr::V4(address).into())
}

fn ipv6(text: &str) -> Result<Address, String> {
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let bare = || inner.parse::<Ipv6Addr>().map(|ip| SocketAddrV6::new(ip, DEFAULT_PORT, 0, 0));
    let address = text.parse::<SocketAddrV6>().or_else(|_| bare());
    let address =
        address.map_err(|_| format!("{text:?} is not an IPv6 address: write [2001:db8::1]:5001"))?;
    Ok(SocketAddr::V6(address).into())
}
