//! Target URIs, and the schemes that hotpick supports.

use std::fmt;

/// The target of a channel, as in gRPC's naming document: `scheme://authority/endpoint`, or `scheme:endpoint`.
///
/// | scheme | example | endpoints |
/// |---|---|---|
/// | `static` | `static:///a.example:5001,b.example:5001` | the listed ones, in this order |
/// | `ipv4` | `ipv4:10.0.0.1:5001,10.0.0.2` | the listed ones; the default port is 443 |
/// | `ipv6` | `ipv6:[2001:db8::1]:5001` | the listed ones; the default port is 443 |
/// | `unix` | `unix:/run/echo.sock`, `unix:echo.sock` | the one socket |
/// | `dns` | `dns:///echo.example:5001` | the addresses of a name: [`DnsResolver`](super::DnsResolver) |
/// | `file` | `file:///etc/echo.toml` | those in a file: [`FileResolver`](super::FileResolver) |
/// | `etcd` | `etcd:///services/echo?endpoints=10.0.0.9:2379` | those registered in etcd (with the feature `etcd`) |
///
/// As in gRPC, a target without a scheme is a DNS name: `echo.example:5001`. Other schemes can be
/// [registered](super::register). A single channel can get a resolver of its own with
/// [`ChannelBuilder::resolver`](crate::channel::ChannelBuilder::resolver).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The target as it was written.
    pub(super) text: String,
    pub(super) scheme: String,
    pub(super) authority: String,
    pub(super) endpoint: String,
    /// Whether there was a slash before the endpoint.
    pub(super) rooted: bool,
}

/// Why a text is not a usable [`Target`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// The target is empty.
    #[error("the target is empty: write dns:///name:port, or static:///host:port,host:port")]
    Empty,
    /// No resolver is registered for the scheme.
    #[error("target {target:?} has the unknown scheme {scheme:?}: use {known}, or register a resolver")]
    UnknownScheme {
        /// The whole target.
        target: String,
        /// Its scheme.
        scheme: String,
        /// The known schemes, separated by commas.
        known: String,
    },
    /// The scheme's resolver cannot use the rest of the target.
    #[error("target {target:?}: {reason}")]
    Invalid {
        /// The whole target.
        target: String,
        /// What is wrong, and what to write instead.
        reason: String,
    },
}

impl TargetError {
    /// Creates the error of a target that its scheme's resolver cannot use, for this reason.
    #[must_use]
    pub fn invalid(target: &Target, reason: impl fmt::Display) -> Self {
        Self::Invalid { target: target.to_string(), reason: reason.to_string() }
    }
}

impl Target {
    /// Returns the scheme, in lower case. It determines the resolver.
    #[must_use]
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// Returns the part between `//` and the next `/`, which is often empty. It is not the `:authority` of RPCs.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Returns the rest, which the resolver resolves.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Returns the rest as a path in the file system: absolute if there was a slash before it.
    pub(crate) fn path(&self) -> String {
        if self.rooted { format!("/{}", self.endpoint) } else { self.endpoint.clone() }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
