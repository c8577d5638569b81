//! Parsing of targets.

use std::str::FromStr;

use super::registry;
use super::target::{Target, TargetError};

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
            // Such as `localhost:5001`, which has a colon but no scheme.
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
            let mut updates =
                registry::resolver_of(&target).expect(text).watch(&target, ResolveNow::default());
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
                "target \"local host\": address \"local host:443\" has a character that is not allowed in a host name: write host:port, [host]:port for IPv6, or unix:/path",
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
            let error = text
                .parse::<Target>()
                .and_then(|target| registry::resolver_of(&target).map(|_| ()))
                .expect_err(text);
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
            let resolver = registry::resolver_of(&target).expect(text);
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
                let _ = registry::resolver_of(&target);
            }
        }
    }
}
