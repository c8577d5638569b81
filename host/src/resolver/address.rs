//! `host:port`.

use std::fmt;
use std::str::FromStr;

/// Where a backend listens: a host name or IP address, and a TCP port.
///
/// ```
/// use hotpick::resolver::Address;
///
/// let address: Address = "[::1]:5001".parse()?;
/// assert_eq!((address.host(), address.port()), ("::1", 5001));
/// assert_eq!(address.to_string(), "[::1]:5001");
/// # Ok::<(), hotpick::resolver::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    host: String,
    port: u16,
}

/// Why a text is not an [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("address {text:?} {reason}: write host:port, or [host]:port for IPv6")]
pub struct AddressError {
    text: String,
    reason: &'static str,
}

impl Address {
    /// The host name or IP address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = |reason| AddressError { text: text.to_owned(), reason };
        let (host, port) = text.rsplit_once(':').ok_or_else(|| error("has no port"))?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or_else(|| error("has an open bracket"))?,
            None if host.contains(':') => return Err(error("has an IPv6 host without brackets")),
            None => host,
        };
        if host.is_empty() {
            return Err(error("has no host"));
        }
        // The host becomes the `:authority` of RPCs, so it must be able to stand there.
        if host.contains(|c: char| !(c.is_ascii_alphanumeric() || "-._:%".contains(c))) {
            return Err(error("has a character that no host name has"));
        }
        let port = port.parse().map_err(|_| error("has a port that is not a number up to 65535"))?;
        if port == 0 {
            return Err(error("has port 0"));
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl From<std::net::SocketAddr> for Address {
    fn from(address: std::net::SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
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
            ("[::1:80", "has an open bracket"),
            (":80", "has no host"),
            ("a b:80", "has a character that no host name has"),
            ("a:http", "has a port that is not a number up to 65535"),
            ("a:65536", "has a port that is not a number up to 65535"),
            ("a:0", "has port 0"),
        ] {
            let error = text.parse::<Address>().expect_err(text).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(host in "[a-z][a-z0-9.-]{0,20}|::[0-9a-f]{1,4}", port in 1u16..) {
            let address = Address { host, port };
            prop_assert_eq!(address.to_string().parse::<Address>(), Ok(address));
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = text.parse::<Address>();
        }
    }
}
