//! Resolvers by the scheme of a target.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use super::{DnsResolver, FileResolver, Resolver, Target, TargetError, lists};

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

pub(super) type Built = Result<Box<dyn Resolver>, TargetError>;
type Registry = BTreeMap<String, Arc<dyn ResolverBuilder>>;

static REGISTRY: LazyLock<RwLock<Registry>> = LazyLock::new(|| {
    let mut registry = Registry::new();
    let mut insert = |scheme: &str, builder: fn(&Target) -> Built| {
        registry.insert(scheme.to_owned(), Arc::new(builder));
    };
    insert("static", lists::any);
    insert("ipv4", lists::ipv4);
    insert("ipv6", lists::ipv6);
    insert("unix", lists::unix);
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
