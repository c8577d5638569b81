//! Target URIs, and the resolvers that come with hotpick.

use std::fmt;

/// What a channel connects to, as in gRPC's naming document: `scheme://authority/endpoint`, or
/// `scheme:endpoint`.
///
/// | scheme | example | endpoints |
/// |---|---|---|
/// | `static` | `static:///a.example:5001,b.example:5001` | the listed ones, in this order |
/// | `ipv4` | `ipv4:10.0.0.1:5001,10.0.0.2` | the listed ones; the port is 443 where none is given |
/// | `ipv6` | `ipv6:[2001:db8::1]:5001` | likewise |
/// | `unix` | `unix:/run/echo.sock`, `unix:echo.sock` | the one socket |
/// | `dns` | `dns:///echo.example:5001` | the addresses of a name: [`DnsResolver`](super::DnsResolver) |
/// | `file` | `file:///etc/echo.toml` | those that a file lists: [`FileResolver`](super::FileResolver) |
/// | `etcd` | `etcd:///services/echo?endpoints=10.0.0.9:2379` | those registered in etcd (with the feature `etcd`) |
///
/// As in gRPC a target without a scheme is a DNS name: `echo.example:5001`. Others are [registered](super::register), or resolved by a [`Resolver`] given to
/// [`ChannelBuilder::resolver`](crate::channel::ChannelBuilder::resolver).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As it was written.
    pub(super) text: String,
    pub(super) scheme: String,
    pub(super) authority: String,
    pub(super) endpoint: String,
    /// There was a slash before the endpoint.
    pub(super) rooted: bool,
}

/// Why a text is not a usable [`Target`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// There is nothing.
    #[error("the target is empty: write dns:///name:port, or static:///host:port,host:port")]
    Empty,
    /// There is no resolver for the scheme.
    #[error("target {target:?} has the unknown scheme {scheme:?}: use {known}, or register a resolver")]
    UnknownScheme {
        /// The whole target.
        target: String,
        /// Its scheme.
        scheme: String,
        /// The schemes that there are.
        known: String,
    },
    /// The scheme's resolver cannot use the rest of the target.
    #[error("target {target:?}: {reason}")]
    Invalid {
        /// The whole target.
        target: String,
        /// Why.
        reason: String,
    },
}

impl TargetError {
    /// The scheme's resolver cannot use the rest of this target, for this reason.
    #[must_use]
    pub fn invalid(target: &Target, reason: impl fmt::Display) -> Self {
        Self::Invalid { target: target.to_string(), reason: reason.to_string() }
    }
}

impl Target {
    /// The scheme, which names the resolver; in lower case.
    #[must_use]
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// What stands between `//` and the next `/`; often empty. Not the `:authority` of RPCs.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The rest: what the resolver resolves.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The rest as a file system's path: absolute if there was a slash before it.
    pub(crate) fn path(&self) -> String {
        if self.rooted { format!("/{}", self.endpoint) } else { self.endpoint.clone() }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
