//! Endpoints that are set by the program.

use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;

use super::{Endpoint, ResolveNow, Resolver, ResolverStream, ResolverUpdate, Target};

/// A resolver whose answer is set by the program, for tests and for programs that know their servers.
///
/// Keep a clone to [`update`](Self::update) the endpoints of a running channel.
///
/// ```
/// use hotpick::resolver::{Endpoint, ManualResolver, ResolverUpdate};
///
/// let resolver = ManualResolver::new([Endpoint::new("127.0.0.1:5001".parse()?)]);
/// let handle = resolver.clone(); // `resolver` goes into the channel's builder
/// handle.update(ResolverUpdate::endpoints([]));
/// # Ok::<(), hotpick::resolver::AddressError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ManualResolver(watch::Sender<ResolverUpdate>);

impl ManualResolver {
    /// Creates a resolver that answers with these endpoints.
    #[must_use]
    pub fn new(endpoints: impl Into<Vec<Endpoint>>) -> Self {
        Self(watch::Sender::new(ResolverUpdate::endpoints(endpoints)))
    }

    /// Replaces the answer. After several updates in a row, a channel may see only the last one.
    pub fn update(&self, update: ResolverUpdate) {
        self.0.send_replace(update);
    }
}

impl Resolver for ManualResolver {
    fn watch(&self, _target: &Target, _resolve_now: ResolveNow) -> ResolverStream {
        Box::pin(WatchStream::new(self.0.subscribe()))
    }
}
