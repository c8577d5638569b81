//! Addresses of servers: `host:port`, or `unix:/path`.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Default port of addresses and targets, as in gRPC.
pub(super) const DEFAULT_PORT: u16 = 443;

/// The address on which a server listens: a host name or IP address with a TCP port, or a Unix socket.
///
/// ```
/// use hotpick::resolver::Address;
///
/// let address: Address = "[::1]:5001".parse()?;
/// assert_eq!((address.host(), address.port()), ("::1", Some(5001)));
/// assert_eq!(address.to_string(), "[::1]:5001");
///
/// let address: Address = "unix:/run/echo.sock".parse()?;
/// assert_eq!((address.host(), address.port()), ("localhost", None));
/// # Ok::<(), hotpick::resolver::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(Kind);

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// Why a text is not an [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("address {text:?} {reason}: write host:port, [host]:port for IPv6, or unix:/path")]
pub struct AddressError {
    text: String,
    reason: &'static str,
}

impl Address {
    /// Creates the address of a Unix socket. The path may be relative.
    #[must_use]
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self(Kind::Unix(path.into()))
    }

    /// Returns the host name or IP address, without brackets; `localhost` for a Unix socket.
    #[must_use]
    pub fn host(&self) -> &str {
        match &self.0 {
            Kind::Tcp { host, .. } => host,
            Kind::Unix(_) => "localhost",
        }
    }

    /// Returns the TCP port. `None`: the address is a Unix socket.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match &self.0 {
            Kind::Tcp { port, .. } => Some(*port),
            Kind::Unix(_) => None,
        }
    }

    /// Returns the path of the Unix socket. `None`: the address is a TCP address.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.0 {
            Kind::Tcp { .. } => None,
            Kind::Unix(path) => Some(path),
        }
    }

    /// Returns the default `:authority` of RPCs to this address.
    pub(crate) fn authority(&self) -> http::uri::Authority {
        let text = match &self.0 {
            Kind::Tcp { .. } => self.to_string(),
            Kind::Unix(_) => self.host().to_owned(),
        };
        // Fails only for an IPv6 address with a zone: an authority allows all other characters of a host.
        text.parse().unwrap_or_else(|_| http::uri::Authority::from_static("localhost"))
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = |reason| AddressError { text: text.to_owned(), reason };
        if let Some(path) = text.strip_prefix("unix:") {
            // `unix:///path` is the same as `unix:/path`.
            let path = path.strip_prefix("//").filter(|rest| rest.starts_with('/')).unwrap_or(path);
            return if path.is_empty() { Err(error("has no path")) } else { Ok(Self::unix(path)) };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| error("has no port"))?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let inner = rest.strip_suffix(']').ok_or_else(|| error("has no closing bracket"))?;
                let ip = inner.split('%').next().unwrap_or_default();
                ip.parse::<Ipv6Addr>().map_err(|_| error("has brackets without an IPv6 address in them"))?;
                inner
            }
            None if host.contains(':') => return Err(error("has an IPv6 host without brackets")),
            None => host,
        };
        if host.is_empty() {
            return Err(error("has no host"));
        }
        // The host becomes the `:authority` of RPCs, so it must be valid there.
        if host.contains(|c: char| !(c.is_ascii_alphanumeric() || "-._:%".contains(c))) {
            return Err(error("has a character that is not allowed in a host name"));
        }
        let port = port.parse().map_err(|_| error("has a port that is not a number up to 65535"))?;
        if port == 0 {
            return Err(error("has port 0"));
        }
        Ok(Self(Kind::Tcp { host: host.to_owned(), port }))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Kind::Tcp { host, port } => write!(f, "{host}:{port}"),
            Kind::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        let host = match address {
            SocketAddr::V6(six) if six.scope_id() != 0 => format!("{}%{}", six.ip(), six.scope_id()),
            _ => address.ip().to_string(),
        };
        Self(Kind::Tcp { host, port: address.port() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bad_addresses_are_refused_with_one_sentence() {
        for (text, reason) in [
            ("localhost", "has no port"),
            ("::1:80", "has an IPv6 host without brackets"),
            ("[::1:80", "has no closing bracket"),
            ("[10.0.0.1]:80", "has brackets without an IPv6 address in them"),
            (":80", "has no host"),
            ("a b:80", "has a character that is not allowed in a host name"),
            ("a:http", "has a port that is not a number up to 65535"),
            ("a:65536", "has a port that is not a number up to 65535"),
            ("a:0", "has port 0"),
            ("unix:", "has no path"),
        ] {
            let error = text.parse::<Address>().expect_err(text).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(host in "[a-z][a-z0-9.-]{0,20}|::[0-9a-f]{1,4}", port in 1u16..) {
            let address = Address(Kind::Tcp { host, port });
            prop_assert_eq!(address.to_string().parse::<Address>(), Ok(address));
        }

        #[test]
        fn a_path_is_read_as_it_is_written(path in "/?[a-z0-9._-][a-z0-9/._-]{0,40}") {
            let address = Address::unix(path);
            prop_assert_eq!(address.to_string().parse::<Address>(), Ok(address));
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = text.parse::<Address>();
        }
    }
}
