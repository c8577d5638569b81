//! The registry of resolvers, by the scheme of a target.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

#[cfg(feature = "dns")]
use super::dns::DnsResolver;
use super::file::FileResolver;
use super::lists;
use super::resolver::Resolver;
use super::target::{Target, TargetError};

/// Creates resolvers for the targets of a scheme. Implemented for closures.
pub trait ResolverBuilder: Send + Sync {
    /// Creates the resolver of a target, for one channel.
    ///
    /// # Errors
    ///
    /// The target is not valid in this scheme: [`TargetError::invalid`].
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

/// Registers a resolver for the targets of a scheme, in this process. Replaces the previous one of the scheme, if any.
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
    insert("static", |target| Ok(Box::new(lists::any(target)?)));
    insert("ipv4", |target| Ok(Box::new(lists::ipv4(target)?)));
    insert("ipv6", |target| Ok(Box::new(lists::ipv6(target)?)));
    insert("unix", |target| Ok(Box::new(lists::unix(target)?)));
    #[cfg(feature = "dns")]
    insert("dns", |target| Ok(Box::new(DnsResolver::of(target)?)));
    insert("file", |target| Ok(Box::new(FileResolver::of(target)?)));
    RwLock::new(registry)
});

/// Registers a resolver unless the scheme has one. For modules above this one.
#[cfg(feature = "etcd")]
pub(crate) fn register_default(scheme: &str, builder: impl ResolverBuilder + 'static) {
    let mut registry = REGISTRY.write().unwrap_or_else(PoisonError::into_inner);
    registry.entry(scheme.to_owned()).or_insert_with(|| Arc::new(builder));
}

/// Returns the resolver of a target, by the builder that is registered for its scheme.
pub(crate) fn resolver_of(target: &Target) -> Result<Box<dyn Resolver>, TargetError> {
    let builder = find(target.scheme()).ok_or_else(|| TargetError::UnknownScheme {
        target: target.to_string(),
        scheme: target.scheme().to_owned(),
        known: schemes(),
    })?;
    builder.build(target)
}

/// Returns the builder of a scheme, which must be in lower case.
pub(super) fn find(scheme: &str) -> Option<Arc<dyn ResolverBuilder>> {
    REGISTRY.read().unwrap_or_else(PoisonError::into_inner).get(scheme).cloned()
}

/// Returns the known schemes, separated by commas.
pub(super) fn schemes() -> String {
    let registry = REGISTRY.read().unwrap_or_else(PoisonError::into_inner);
    registry.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}
