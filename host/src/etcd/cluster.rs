//! An etcd cluster: its members, TLS and login.

use std::path::PathBuf;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::channel::{Channel, ChannelBuilder, ConnectError};
use crate::resolver::TargetError;

use crate::tls::ClientTls;
use crate::transport::SubConnOptions;

use super::api::Client;
use super::credentials::Credentials;

/// A client of an etcd cluster, for [resolvers](super::EtcdResolver) and [registrations](super::Registration).
///
/// Cheap to clone. Clones share connections, one to each member.
///
/// ```no_run
/// use hotpick::etcd::Etcd;
/// use hotpick::tls::ClientTls;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let etcd = Etcd::builder("https://etcd-1:2379,https://etcd-2:2379,https://etcd-3:2379")
///     .tls(ClientTls::new().ca_file("/etc/etcd/ca.pem"))
///     .user_with_password_file("registrar", "/run/secrets/etcd")
///     .connect_lazy()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Etcd(pub(super) Client);

/// Builder of an [`Etcd`].
#[derive(Clone, Debug)]
#[must_use]
pub struct EtcdBuilder {
    members: String,
    tls: Option<ClientTls>,
    credentials: Option<Credentials>,
}

/// Keep-alive, which detects a frozen member whose TCP still works, within the sum of both times. etcd allows a PING
/// every 5 s.
const PING_AFTER: Duration = Duration::from_secs(6);
const PING_ANSWER: Duration = Duration::from_secs(3);
/// Longest backoff. Leases expire in seconds, so a cluster that is back must be found faster than that.
const BACKOFF: Duration = Duration::from_secs(2);

impl Etcd {
    /// Creates a builder for these members: `host:port`, `http://host:port` or `https://host:port`, separated by
    /// commas. `https` enables TLS.
    pub fn builder(members: impl Into<String>) -> EtcdBuilder {
        EtcdBuilder { members: members.into(), tls: None, credentials: None }
    }

    /// Creates a client that uses this channel to etcd.
    ///
    /// Set what [`builder`](Self::builder) would set: PINGs ([`SubConnOptions::keep_alive_interval`]), without which a
    /// frozen member looks like one that has nothing to report, and a backoff that is shorter than the leases.
    #[must_use]
    pub fn through(channel: Channel) -> Self {
        Self(Client::new(channel, None))
    }
}

impl EtcdBuilder {
    /// Sets the TLS configuration. By default, connections to `https` members trust the system's root certificates.
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Logs in as this user (etcd's own authentication), and again whenever the token is no longer valid.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.credentials = Some(Credentials::given(name, password));
        self
    }

    /// Logs in as this user with a password from a file. The file is read at each login, and a newline at its end is
    /// ignored.
    pub fn user_with_password_file(mut self, name: impl Into<String>, file: impl Into<PathBuf>) -> Self {
        self.credentials = Some(Credentials::file(name, file));
        self
    }

    /// Creates the channel to the members without waiting for a connection.
    ///
    /// # Errors
    ///
    /// A member's address or a certificate is invalid, or there is no Tokio runtime.
    pub fn connect_lazy(self) -> Result<Etcd, ConnectError> {
        let addresses = self.addresses()?;
        let options = SubConnOptions {
            connect_timeout: Duration::from_secs(5),
            keep_alive_interval: Some(PING_AFTER),
            keep_alive_timeout: PING_ANSWER,
            backoff: Backoff { base: Duration::from_millis(250), max: BACKOFF, ..Backoff::default() },
            ..SubConnOptions::default()
        };
        let mut builder = ChannelBuilder::new(format!("static:///{}", addresses.list))
            .subconn_options(options)
            .idle_timeout(None);
        if let Some(tls) = self.tls.or_else(|| addresses.encrypted.then(ClientTls::new)) {
            builder = builder.tls(tls);
        }
        Ok(Etcd(Client::new(builder.connect_lazy()?, self.credentials)))
    }

    /// Checks the addresses of the members, without connecting.
    pub(super) fn check(&self) -> Result<(), TargetError> {
        let target: crate::resolver::Target = format!("static:///{}", self.addresses()?.list).parse()?;
        crate::resolver::resolver_of(&target).map(drop)
    }

    fn addresses(&self) -> Result<Addresses, TargetError> {
        let invalid = |reason: String| TargetError::Invalid { target: self.members.clone(), reason };
        let (mut list, mut encrypted, mut plain) = (Vec::new(), false, false);
        for member in self.members.split(',') {
            let address = match member.split_once("://") {
                None => member,
                Some(("http", address)) => {
                    plain = true;
                    address
                }
                Some(("https", address)) => {
                    encrypted = true;
                    address
                }
                Some((scheme, _)) => {
                    return Err(invalid(format!(
                        "etcd member {member:?} has the unknown scheme {scheme:?}: write http:// or https://"
                    )));
                }
            };
            list.push(address.trim_end_matches('/'));
        }
        if plain && (encrypted || self.tls.is_some()) {
            return Err(invalid(
                "TLS is configured, but a member has http://: write https:// for all members".to_owned(),
            ));
        }
        Ok(Addresses { list: list.join(","), encrypted })
    }
}

struct Addresses {
    /// In the form of a `static` target.
    list: String,
    encrypted: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_addresses_or_urls() {
        let of = |members: &str| {
            let addresses = Etcd::builder(members).addresses();
            addresses.map(|found| (found.list, found.encrypted)).map_err(|error| error.to_string())
        };
        assert_eq!(of("a:1,b:2"), Ok(("a:1,b:2".to_owned(), false)));
        assert_eq!(of("http://a:1/"), Ok(("a:1".to_owned(), false)));
        assert_eq!(of("https://a:1,https://b:2"), Ok(("a:1,b:2".to_owned(), true)));
        for (members, sentence) in [
            ("https://a:1,http://b:2", "a member has http://: write https://"),
            ("ftp://a:1", "etcd member \"ftp://a:1\" has the unknown scheme \"ftp\""),
        ] {
            assert!(of(members).is_err_and(|error| error.contains(sentence)), "{members}");
        }
        let plain = Etcd::builder("http://a:1").tls(ClientTls::new()).addresses();
        assert!(plain.is_err(), "TLS was asked for");
    }

    #[test]
    fn a_password_is_shown_to_no_one_and_read_from_its_file() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "secret\n").expect("written");
        let builder = Etcd::builder("a:1").user_with_password_file("me", file.path());
        assert_eq!(builder.credentials.as_ref().expect("given").password().as_deref(), Ok("secret"));
        assert!(!format!("{:?}", Etcd::builder("a:1").user("me", "secret")).contains("secret"));
    }
}
