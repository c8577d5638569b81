//! Target URIs, and the resolvers that come with hotpick.

use std::fmt;
use std::str::FromStr;

use super::{Address, AddressError, Endpoint, ManualResolver, Resolver};

/// What a channel connects to, as in gRPC's naming document: `scheme://authority/endpoint`.
///
/// | scheme | example | endpoints |
/// |---|---|---|
/// | `static` | `static:///10.0.0.1:5001,10.0.0.2:5001` | the listed ones, in this order |
///
/// Other names are resolved by a [`Resolver`] given to
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
    /// No resolver of hotpick knows the scheme.
    #[error("target {target:?} has the unknown scheme {scheme:?}: use static, or give a resolver")]
    UnknownScheme {
        /// The whole target.
        target: String,
        /// Its scheme.
        scheme: String,
    },
    /// The target names no endpoint.
    #[error("target {0:?} names no endpoint: write static:///host:port,host:port")]
    NoEndpoints(String),
    /// One of the addresses is wrong.
    #[error("target {target:?}: {error}")]
    Address {
        /// The whole target.
        target: String,
        /// What is wrong with the address.
        error: AddressError,
    },
}

impl Target {
    /// The scheme, which names the resolver.
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

    /// The resolver that comes with hotpick for this target.
    pub(crate) fn resolver(&self) -> Result<Box<dyn Resolver>, TargetError> {
        if self.scheme != "static" {
            return Err(TargetError::UnknownScheme { target: self.to_string(), scheme: self.scheme.clone() });
        }
        let endpoints = self
            .endpoint
            .split(',')
            .filter(|text| !text.is_empty())
            .map(|text| text.parse::<Address>().map(Endpoint::new))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| TargetError::Address { target: self.to_string(), error })?;
        if endpoints.is_empty() {
            return Err(TargetError::NoEndpoints(self.to_string()));
        }
        Ok(Box::new(ManualResolver::new(endpoints)))
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
            Some((scheme, rest)) if is_scheme(scheme) && rest.starts_with('/') => (scheme, rest),
            _ => return Err(TargetError::NoScheme(text.to_owned())),
        };
        let (authority, endpoint) = match rest.strip_prefix("//") {
            Some(rest) => rest.split_once('/').unwrap_or((rest, "")),
            None => ("", &rest[1..]),
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
            ("static:///", "target \"static:///\" names no endpoint: write static:///host:port,host:port"),
            (
                "static:///,,",
                "target \"static:///,,\" names no endpoint: write static:///host:port,host:port",
            ),
            ("zk:///x", "target \"zk:///x\" has the unknown scheme \"zk\": use static, or give a resolver"),
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

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            if let Ok(target) = text.parse::<Target>() {
                let _ = target.resolver();
            }
        }
    }
}
