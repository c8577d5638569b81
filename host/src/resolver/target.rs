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
    text: String,
    scheme: String,
    authority: String,
    endpoint: String,
    /// There was a slash before the endpoint.
    rooted: bool,
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

    /// The resolver that is registered for this target's scheme.
    pub(crate) fn resolver(&self) -> Result<Box<dyn Resolver>, TargetError> {
        let builder = registry::find(&self.scheme).ok_or_else(|| TargetError::UnknownScheme {
            target: self.text.clone(),
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
            Some((scheme, rest))
                if is_scheme(scheme)
                    && (rest.starts_with('/') || registry::find(&scheme.to_ascii_lowercase()).is_some()) =>
            {
                (scheme, rest)
            }
            _ if text.is_empty() => return Err(TargetError::Empty),
            // `localhost:5001` has a colon, too, but no scheme.
            _ => ("dns", text),
        };
        let (authority, endpoint, rooted) = match (rest.strip_prefix("//"), rest.strip_prefix('/')) {
            (Some(rest), _) => {
                let (authority, endpoint) = rest.split_once('/').unwrap_or((rest, ""));
                (authority, endpoint, true)
            }
            (None, Some(endpoint)) => ("", endpoint, true),
            (None, None) => ("", rest, false),
        };
        Ok(Self {
            text: text.to_owned(),
            scheme: scheme.to_ascii_lowercase(),
            authority: authority.to_owned(),
            endpoint: endpoint.to_owned(),
            rooted,
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::resolver::ResolveNow;

    #[test]
    fn a_target_has_three_parts() {
        let target: Target = "DNS://8.8.8.8/name:80".parse().expect("a target");
        assert_eq!((target.scheme(), target.authority(), target.endpoint()), ("dns", "8.8.8.8", "name:80"));
        let target: Target = "static:/a:1".parse().expect("a target");
        assert_eq!((target.authority(), target.endpoint()), ("", "a:1"));
        let target: Target = "localhost:5001".parse().expect("a target");
        assert_eq!((target.scheme(), target.endpoint()), ("dns", "localhost:5001"));
        assert_eq!(target.to_string(), "localhost:5001");
    }

    #[tokio::test]
    async fn a_unix_socket_has_a_path_absolute_or_not() {
        use tokio_stream::StreamExt as _;

        for (text, path) in [
            ("unix:/run/a.sock", "unix:/run/a.sock"),
            ("unix:///run/a.sock", "unix:/run/a.sock"),
            ("unix:a.sock", "unix:a.sock"),
        ] {
            let target: Target = text.parse().expect(text);
            let mut updates = target.resolver().expect(text).watch(&target, ResolveNow::default());
            let endpoints = updates.next().await.expect("an update").endpoints.expect("endpoints");
            assert_eq!(endpoints[0].addresses()[0].to_string(), path);
        }
    }

    #[test]
    fn bad_targets_are_refused_with_one_sentence() {
        for (text, sentence) in [
            ("", "the target is empty: write dns:///name:port, or static:///host:port,host:port"),
            (
                "local host",
                "target \"local host\": address \"local host:443\" has a character that no host name has: write host:port, [host]:port for IPv6, or unix:/path",
            ),
            ("unix:", "target \"unix:\": names no socket: write unix:/path"),
            ("unix://a/b", "target \"unix://a/b\": has a host: write unix:/path, or unix:///path"),
            ("file:///", "target \"file:///\": names no file: write file:///path/to/endpoints.json"),
            ("file://a/b", "target \"file://a/b\": has a host: write file:///path, with three slashes"),
            ("static:///", "target \"static:///\": names no endpoint: write host:port,host:port"),
            ("static:///,,", "target \"static:///,,\": names no endpoint: write host:port,host:port"),
            ("ipv4:10.0.0", "target \"ipv4:10.0.0\": \"10.0.0\" is not an IPv4 address: write 10.0.0.1:5001"),
            ("ipv6:[::1", "target \"ipv6:[::1\": \"[::1\" is not an IPv6 address: write [2001:db8::1]:5001"),
            (
                "zk:///x",
                "target \"zk:///x\" has the unknown scheme \"zk\": use {SCHEMES}, or register a resolver",
            ),
            (
                "static:///a:1,b",
                "target \"static:///a:1,b\": address \"b\" has no port: write host:port, [host]:port for IPv6, or unix:/path",
            ),
        ] {
            let error =
                text.parse::<Target>().and_then(|target| target.resolver().map(|_| ())).expect_err(text);
            assert_eq!(error.to_string(), sentence.replace("{SCHEMES}", &registry::schemes()));
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
            let update = resolver.watch(&target, ResolveNow::default()).next().await.expect("an update");
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
