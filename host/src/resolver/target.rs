//! Target URIs, and the resolvers that come with hotpick.

use std::fmt;
use std::str::FromStr;

use super::{Resolver, registry};

/// What a channel connects to, as in gRPC's naming document: `scheme://authority/endpoint`, or
/// `scheme:endpoint`.
///
/// | scheme | example | endpoints |
/// |---|---|---|
/// | `static` | `static:///a.example:5001,b.example:5001` | the listed ones, in this order |
/// | `ipv4` | `ipv4:10.0.0.1:5001,10.0.0.2` | the listed ones; the port is 443 where none is given |
/// | `ipv6` | `ipv6:[2001:db8::1]:5001` | likewise |
///
/// Others are [registered](super::register), or resolved by a [`Resolver`] given to
/// [`ChannelBuilder::resolver`](crate::channel::ChannelBuilder::resolver).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    scheme: String,
    authority: String,
    endpoint: String,
}

/// Why a text is not a usable [`Target`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// There is no `scheme:`.
    #[error("target {0:?} has no scheme: write static:///host:port,host:port")]
    NoScheme(String),
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

    /// The resolver that is registered for this target's scheme.
    pub(crate) fn resolver(&self) -> Result<Box<dyn Resolver>, TargetError> {
        let builder = registry::find(&self.scheme).ok_or_else(|| TargetError::UnknownScheme {
            target: self.to_string(),
            scheme: self.scheme.clone(),
            known: registry::schemes(),
        })?;
        builder.build(self)
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let is_scheme = |scheme: &str| {
            scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        };
        let (scheme, rest) = match text.split_once(':') {
            // `localhost:5001` has a colon too, but no scheme.
            Some((scheme, rest))
                if is_scheme(scheme)
                    && (rest.starts_with('/') || registry::find(&scheme.to_ascii_lowercase()).is_some()) =>
            {
                (scheme, rest)
            }
            _ => return Err(TargetError::NoScheme(text.to_owned())),
        };
        let (authority, endpoint) = match rest.strip_prefix("//") {
            Some(rest) => rest.split_once('/').unwrap_or((rest, "")),
            None => ("", rest.strip_prefix('/').unwrap_or(rest)),
        };
        Ok(Self {
            scheme: scheme.to_ascii_lowercase(),
            authority: authority.to_owned(),
            endpoint: endpoint.to_owned(),
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}/{}", self.scheme, self.authority, self.endpoint)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_target_has_three_parts() {
        let target: Target = "DNS://8.8.8.8/name:80".parse().expect("a target");
        assert_eq!((target.scheme(), target.authority(), target.endpoint()), ("dns", "8.8.8.8", "name:80"));
        let target: Target = "static:/a:1".parse().expect("a target");
        assert_eq!((target.authority(), target.endpoint()), ("", "a:1"));
    }

    #[test]
    fn bad_targets_are_refused_with_one_sentence() {
        for (text, sentence) in [
            (
                "localhost:5001",
                "target \"localhost:5001\" has no scheme: write static:///host:port,host:port",
            ),
            ("", "target \"\" has no scheme: write static:///host:port,host:port"),
            ("static:///", "target \"static:///\": names no endpoint: write host:port,host:port"),
            ("static:///,,", "target \"static:///,,\": names no endpoint: write host:port,host:port"),
            (
                "ipv4:10.0.0",
                "target \"ipv4:///10.0.0\": \"10.0.0\" is not an IPv4 address: write 10.0.0.1:5001",
            ),
            (
                "ipv6:[::1",
                "target \"ipv6:///[::1\": \"[::1\" is not an IPv6 address: write [2001:db8::1]:5001",
            ),
            (
                "zk:///x",
                "target \"zk:///x\" has the unknown scheme \"zk\": use ipv4, ipv6, static, or register a resolver",
            ),
            (
                "static:///a:1,b",
                "target \"static:///a:1,b\": address \"b\" has no port: write host:port, or [host]:port for IPv6",
            ),
        ] {
            let error =
                text.parse::<Target>().and_then(|target| target.resolver().map(|_| ())).expect_err(text);
            assert_eq!(error.to_string(), sentence);
        }
    }

    #[tokio::test]
    async fn lists_of_ip_addresses_need_neither_slashes_nor_ports() {
        use tokio_stream::StreamExt as _;

        for (text, addresses) in [
            ("ipv4:10.0.0.1:5001,10.0.0.2", ["10.0.0.1:5001", "10.0.0.2:443"]),
            ("ipv6:[::1]:5001,[2001:db8::1]", ["[::1]:5001", "[2001:db8::1]:443"]),
            ("IPV6:///::1,::2", ["[::1]:443", "[::2]:443"]),
        ] {
            let target: Target = text.parse().expect(text);
            let resolver = target.resolver().expect(text);
            let update = resolver.watch(&target).next().await.expect("an update");
            let found: Vec<_> =
                update.endpoints.expect("endpoints").iter().map(|e| e.addresses()[0].to_string()).collect();
            assert_eq!(found, addresses, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            if let Ok(target) = text.parse::<Target>() {
                let _ = target.resolver();
            }
        }
    }
}
