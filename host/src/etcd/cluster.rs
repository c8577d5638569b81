//! Where etcd is, and how one gets in.

use std::path::PathBuf;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::channel::{Channel, ConnectError};
use crate::resolver::TargetError;

use crate::tls::ClientTls;
use crate::transport::SubConnOptions;

use super::api::Client;
use super::credentials::Credentials;

/// An etcd cluster, for [resolvers](super::EtcdResolver) and [registrations](super::Registration). Cheap to clone; the
/// clones share connections, one to each member.
///
/// ```no_run
/// use hotpick::etcd::Etcd;
/// use hotpick::tls::ClientTls;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let etcd = Etcd::builder("https://etcd-1:2379,https://etcd-2:2379,https://etcd-3:2379")
///     .tls(ClientTls::new().ca_file("/etc/etcd/ca.pem"))
///     .user_with_password_file("registrar", "/run/secrets/etcd")
///     .connect()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Etcd(pub(super) Client);

/// Makes an [`Etcd`].
#[derive(Clone, Debug)]
#[must_use]
pub struct EtcdBuilder {
    members: String,
    tls: Option<ClientTls>,
    credentials: Option<Credentials>,
}

/// A member that is stuck, but whose TCP is not, is found out in the sum of these. etcd allows a PING every 5 s.
const PING_AFTER: Duration = Duration::from_secs(6);
const PING_ANSWER: Duration = Duration::from_secs(3);
/// A lease runs out in seconds: a cluster that is back must be found in a part of that.
const BACKOFF: Duration = Duration::from_secs(2);

impl Etcd {
    /// The members, as `host:port`, `http://host:port` or `https://host:port`, with commas between them; those with
    /// `https` are spoken to by TLS.
    pub fn builder(members: impl Into<String>) -> EtcdBuilder {
        EtcdBuilder { members: members.into(), tls: None, credentials: None }
    }

    /// The etcd at the other end of a channel. What [`builder`](Self::builder) sets is this channel's own matter then:
    /// PINGs ([`SubConnOptions::keep_alive_interval`]), without which a frozen member is taken for one that has nothing
    /// to say, and a backoff that is shorter than the leases.
    #[must_use]
    pub fn through(channel: Channel) -> Self {
        Self(Client::new(channel, None))
    }
}

impl EtcdBuilder {
    /// How the connections are encrypted, and whom they may lead to. For members that say `https` by default the
    /// system's roots.
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Logs in as this user (etcd's own authentication), and again whenever the token that it was given is void.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.credentials = Some(Credentials::given(name, password));
        self
    }

    /// The same, with the password in a file, which is read at each login; a newline at its end is not part of it.
    pub fn user_with_password_file(mut self, name: impl Into<String>, file: impl Into<PathBuf>) -> Self {
        self.credentials = Some(Credentials::file(name, file));
        self
    }

    /// Makes the channel to the members, which begins to connect.
    ///
    /// # Errors
    ///
    /// A member's address or a certificate is wrong, or there is no tokio runtime here.
    pub fn connect(self) -> Result<Etcd, ConnectError> {
        let addresses = self.addresses()?;
        let options = SubConnOptions {
            connect_timeout: Duration::from_secs(5),
            keep_alive_interval: Some(PING_AFTER),
            keep_alive_timeout: PING_ANSWER,
            backoff: Backoff { base: Duration::from_millis(250), max: BACKOFF, ..Backoff::default() },
            ..SubConnOptions::default()
        };
        let mut builder = Channel::builder(format!("static:///{}", addresses.list))
            .subconn_options(options)
            .idle_timeout(None);
        if let Some(tls) = self.tls.or_else(|| addresses.encrypted.then(ClientTls::new)) {
            builder = builder.tls(tls);
        }
        Ok(Etcd(Client::new(builder.connect()?, self.credentials)))
    }

    /// Refuses what [`connect`](Self::connect) would for the members' sake, without connecting.
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
                        "etcd is not spoken to by {scheme:?}: write http:// or https://"
                    )));
                }
            };
            list.push(address.trim_end_matches('/'));
        }
        if plain && (encrypted || self.tls.is_some()) {
            return Err(invalid(
                "some of it is to be encrypted, and a member says http://: write https://".to_owned(),
            ));
        }
        Ok(Addresses { list: list.join(","), encrypted })
    }
}

struct Addresses {
    /// As a target of the scheme `static` has them.
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
            ("https://a:1,http://b:2", "a member says http://: write https://"),
            ("ftp://a:1", "etcd is not spoken to by \"ftp\""),
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
