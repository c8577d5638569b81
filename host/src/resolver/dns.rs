//! `dns:///name:port`: endpoints by name.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::time::{Instant, sleep_until};

use super::address::DEFAULT_PORT;
use super::dns_over_tcp::Sockets;
use super::{Address, Endpoint, ResolveNow, Resolver, ResolverStream, ResolverUpdate, Target, TargetError};
use crate::backoff::Backoff;

/// Endpoints of a DNS name: `dns:///name:port`, or `dns://server:53/name:port` to ask a certain server.
///
/// Each A and AAAA record is an endpoint; the port is 443 where none is given. A name that starts with an
/// underscore, such as `_grpc._tcp.echo.example`, is one of SRV records, which give ports and weights; of
/// their priorities the best alone is used (RFC 2782), or, with `?priorities=all`, each, as the attribute
/// `priority`.
///
/// The name is resolved again when its records' time to live is over, and when a connection is lost or
/// cannot be made; but never sooner after an answer than the [`min_interval`](Self::min_interval), and
/// after an error by [`Backoff`]'s default rule. Answers that are errors, or that say that there is no
/// such name, leave the endpoints as they are.
#[derive(Clone, Debug)]
pub struct DnsResolver {
    server: Option<SocketAddr>,
    query: Query,
    min_interval: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Query {
    Host { name: String, port: u16 },
    Srv { name: String, all_priorities: bool },
}

const DNS_PORT: u16 = 53;

type Client = hickory_resolver::Resolver<Sockets>;

impl DnsResolver {
    /// A resolver of this target, whatever its scheme.
    ///
    /// # Errors
    ///
    /// It is no name, or the server is no address.
    pub fn of(target: &Target) -> Result<Self, TargetError> {
        let invalid = |reason: String| TargetError::invalid(target, reason);
        let server = match target.authority() {
            "" => None,
            text => Some(
                text.parse()
                    .or_else(|_| {
                        text.trim_matches(['[', ']']).parse().map(|ip: IpAddr| (ip, DNS_PORT).into())
                    })
                    .map_err(|_| {
                        invalid(format!("{text:?} is no DNS server: write its IP address, or ip:port"))
                    })?,
            ),
        };
        let (name, parameters) = target.endpoint().split_once('?').unwrap_or((target.endpoint(), ""));
        let query = if name.starts_with('_') {
            match parameters {
                "" => Query::Srv { name: name.to_owned(), all_priorities: false },
                "priorities=all" => Query::Srv { name: name.to_owned(), all_priorities: true },
                other => return Err(invalid(format!("has the unknown parameter {other:?}"))),
            }
        } else if parameters.is_empty() {
            host(name).map_err(invalid)?
        } else {
            return Err(invalid(format!("has the unknown parameter {parameters:?}")));
        };
        Ok(Self { server, query, min_interval: Duration::from_secs(30) })
    }

    /// The shortest time from one answer to the next query; by default 30 s.
    #[must_use]
    pub fn min_interval(mut self, interval: Duration) -> Self {
        // A clock may not go further than some years.
        self.min_interval = interval.min(Duration::from_secs(86_400 * 365));
        self
    }

    fn client(&self) -> Result<Client, String> {
        let failed = |error: hickory_resolver::net::NetError| format!("DNS cannot be set up: {error}");
        let mut builder = match self.server {
            None => Client::builder(Sockets::default()).map_err(failed)?,
            Some(server) => {
                let mut name_server = NameServerConfig::udp_and_tcp(server.ip());
                for connection in &mut name_server.connections {
                    connection.port = server.port();
                }
                let config = ResolverConfig::from_parts(None, Vec::new(), vec![name_server]);
                Client::builder_with_config(config, Sockets::default())
            }
        };
        // When we ask, it is because the last answer may be out of date.
        builder.options_mut().cache_size = 0;
        builder.build().map_err(failed)
    }

    async fn resolve(&self, client: &Client) -> Result<Answer, String> {
        match &self.query {
            Query::Host { name, port } => {
                let (ips, until) = lookup(client, name).await?;
                let endpoints = ips.into_iter().map(|ip| Endpoint::new(SocketAddr::new(ip, *port).into()));
                Ok(Answer { endpoints: endpoints.collect(), until })
            }
            Query::Srv { name, all_priorities } => resolve_srv(client, name, *all_priorities).await,
        }
    }
}

/// `name:port`, or a name, or an IP address with or without a port.
fn host(text: &str) -> Result<Query, String> {
    if text.is_empty() {
        return Err("names no host: write dns:///name:port".to_owned());
    }
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(Query::Host { name: ip.to_string(), port: DEFAULT_PORT });
    }
    let address = match text.contains(':') {
        true => text.parse::<Address>(),
        false => format!("{text}:{DEFAULT_PORT}").parse(),
    };
    let address = address.map_err(|error| error.to_string())?;
    let port = address.port().ok_or("is a Unix socket: write unix:/path")?;
    Ok(Query::Host { name: address.host().to_owned(), port })
}

struct Answer {
    endpoints: Vec<Endpoint>,
    /// As long as every record of it lives.
    until: Instant,
}

async fn lookup(client: &Client, name: &str) -> Result<(Vec<IpAddr>, Instant), String> {
    let failed = |error: String| format!("DNS lookup of {name:?}: {error}");
    let found = match name.parse::<IpAddr>() {
        Ok(_) => client.lookup_ip(name).await,
        // As it is. From text hickory would take a name for one of people's, which may have no underscore; those of
        // machines do (`my_svc`, in networks of containers).
        Err(_) => client.lookup_ip(Name::from_ascii(name).map_err(|error| failed(error.to_string()))?).await,
    };
    let found = found.map_err(|error| failed(error.to_string()))?;
    let ips: Vec<_> = found.iter().collect();
    if ips.is_empty() {
        return Err(failed("it has no address".to_owned()));
    }
    Ok((ips, found.valid_until().into()))
}

async fn resolve_srv(client: &Client, name: &str, all_priorities: bool) -> Result<Answer, String> {
    let failed = |error: String| format!("DNS lookup of {name:?}: {error}");
    let found = client.lookup(name, RecordType::SRV).await.map_err(|error| failed(error.to_string()))?;
    let mut records: Vec<_> = found
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::SRV(srv) => Some(srv.clone()),
            _ => None,
        })
        .collect();
    records.sort_by_key(|srv| srv.priority);
    if !all_priorities {
        let best = records.first().map(|srv| srv.priority);
        records.retain(|srv| Some(srv.priority) == best);
    }
    let mut until = found.valid_until().into();
    let mut endpoints = Vec::new();
    let mut last_error = "it has no SRV record".to_owned();
    let targets = join_all(records.iter().map(async |srv| {
        // Rooted already: no search domain is tried.
        (srv, lookup(client, &srv.target.to_string()).await)
    }));
    for (srv, found) in targets.await {
        match found {
            // One that cannot be found does not take the others with it.
            Err(error) => last_error = error,
            Ok((ips, valid)) => {
                until = valid.min(until);
                let sockets = ips.into_iter().map(|ip| SocketAddr::new(ip, srv.port));
                endpoints.extend(sockets.map(|socket| {
                    let endpoint = Endpoint::new(socket.into()).with_weight(srv.weight.into());
                    if all_priorities {
                        endpoint.with_attribute("priority", srv.priority.to_string())
                    } else {
                        endpoint
                    }
                }));
            }
        }
    }
    if endpoints.is_empty() { Err(failed(last_error)) } else { Ok(Answer { endpoints, until }) }
}

impl Resolver for DnsResolver {
    fn watch(&self, _target: &Target, resolve_now: ResolveNow) -> ResolverStream {
        let watch = Watch {
            resolver: self.clone(),
            resolve_now,
            client: None,
            next: Next::AtOnce,
            failures: 0,
            told: Vec::new(),
        };
        Box::pin(stream::unfold(watch, async |mut watch| {
            let update = watch.next().await;
            Some((update, watch))
        }))
    }

    fn authority(&self, target: &Target) -> Option<String> {
        let _ = target;
        Some(match &self.query {
            // As the target has it, but for an IPv6 address that it has without brackets.
            Query::Host { name, port: DEFAULT_PORT } if name.contains(':') => format!("[{name}]"),
            Query::Host { name, port: DEFAULT_PORT } => name.clone(),
            Query::Host { name, port } if name.contains(':') => format!("[{name}]:{port}"),
            Query::Host { name, port } => format!("{name}:{port}"),
            // The service's own name: whoever answers for DNS must not choose whom TLS trusts.
            Query::Srv { name, .. } => service_of(name).to_owned(),
        })
    }
}

struct Watch {
    resolver: DnsResolver,
    resolve_now: ResolveNow,
    client: Option<Client>,
    next: Next,
    failures: u32,
    /// The last answer, in any order.
    told: Vec<Endpoint>,
}

/// When to ask again.
enum Next {
    AtOnce,
    /// When the answer is too old, or earlier if it is asked for, but not before a certain moment.
    Answered {
        earliest: Instant,
        until: Instant,
    },
    Failed {
        at: Instant,
    },
}

impl Watch {
    async fn next(&mut self) -> ResolverUpdate {
        loop {
            match self.next {
                Next::AtOnce => {}
                Next::Failed { at } => sleep_until(at).await,
                Next::Answered { earliest, until } => tokio::select! {
                    () = sleep_until(until.max(earliest)) => {}
                    () = self.resolve_now.requested() => sleep_until(earliest).await,
                },
            }
            match self.ask().await {
                Ok(answer) => {
                    self.failures = 0;
                    let earliest = Instant::now() + self.resolver.min_interval;
                    self.next = Next::Answered { earliest, until: answer.until };
                    if !same(&answer.endpoints, &self.told) {
                        self.told.clone_from(&answer.endpoints);
                        return ResolverUpdate::endpoints(answer.endpoints);
                    }
                }
                Err(error) => {
                    self.failures += 1;
                    let wait = Backoff::default().delay(self.failures, fastrand::f64());
                    self.next = Next::Failed { at: Instant::now() + wait };
                    return ResolverUpdate::error(error);
                }
            }
        }
    }

    async fn ask(&mut self) -> Result<Answer, String> {
        let client = match self.client.take() {
            Some(client) => client,
            None => self.resolver.client()?,
        };
        let answer = self.resolver.resolve(&client).await?;
        // After an error the system's configuration is read anew.
        self.client = Some(client);
        Ok(answer)
    }
}

/// `echo.example` of `_grpc._tcp.echo.example`.
fn service_of(name: &str) -> &str {
    let mut rest = name;
    while let Some((_, after)) = rest.strip_prefix('_').and_then(|label| label.split_once('.')) {
        rest = after;
    }
    rest.trim_start_matches('_')
}

/// Servers give records in another order each time: that is no news.
fn same(some: &[Endpoint], others: &[Endpoint]) -> bool {
    some.len() == others.len() && some.iter().all(|endpoint| others.contains(endpoint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<DnsResolver, String> {
        let target: Target = text.parse().expect("a target");
        DnsResolver::of(&target).map_err(|error| error.to_string())
    }

    #[test]
    fn a_target_names_a_host_and_perhaps_a_server() {
        let host = |name: &str, port| Query::Host { name: name.to_owned(), port };
        for (text, server, query) in [
            ("dns:///echo.example:50", None, host("echo.example", 50)),
            ("dns:echo.example", None, host("echo.example", 443)),
            ("dns://127.0.0.1:5353/echo", Some("127.0.0.1:5353"), host("echo", 443)),
            ("dns://127.0.0.1/echo:1", Some("127.0.0.1:53"), host("echo", 1)),
            ("dns://[::1]:54/[::2]:7", Some("[::1]:54"), host("::2", 7)),
            ("dns:///::2", None, host("::2", 443)),
        ] {
            let resolver = of(text).expect(text);
            assert_eq!(resolver.server.map(|server| server.to_string()).as_deref(), server, "{text}");
            assert_eq!(resolver.query, query, "{text}");
        }
        let srv = Query::Srv { name: "_grpc._tcp.x".to_owned(), all_priorities: true };
        assert_eq!(of("dns:///_grpc._tcp.x?priorities=all").expect("a resolver").query, srv);
    }

    #[test]
    fn the_authority_is_the_name() {
        for (text, authority) in [
            ("dns:///echo.example:50", "echo.example:50"),
            ("dns:///echo.example", "echo.example"),
            ("dns:///::2", "[::2]"),
            ("::1", "[::1]"),
            ("dns:///[::2]:7", "[::2]:7"),
            ("dns:///_grpc._tcp.echo.example?priorities=all", "echo.example"),
        ] {
            let target: Target = text.parse().expect("a target");
            let found = DnsResolver::of(&target).expect(text).authority(&target);
            assert_eq!(found.as_deref(), Some(authority));
            assert!(found.is_some_and(|text| text.parse::<http::uri::Authority>().is_ok()), "{text}");
        }
    }

    #[test]
    fn bad_targets_are_refused_with_one_sentence() {
        for (text, sentence) in [
            ("dns:///", "names no host: write dns:///name:port"),
            ("dns://server/x", "\"server\" is no DNS server: write its IP address, or ip:port"),
            ("dns:///a:b:c", "has an IPv6 host without brackets"),
            ("dns:///a:http", "has a port that is not a number"),
            ("dns:///a?ttl=1", "has the unknown parameter \"ttl=1\""),
        ] {
            let error = of(text).expect_err(text);
            assert!(error.contains(sentence), "{error}");
        }
    }

    #[test]
    fn the_order_of_records_is_no_news() {
        let [a, b] = ["a:1", "b:1"].map(|text| Endpoint::new(text.parse().expect("an address")));
        assert!(same(&[a.clone(), b.clone()], &[b.clone(), a.clone()]));
        let one = [a.clone()];
        assert!(!same(&[a.clone(), b.clone()], &one));
        assert!(!same(&one, &[b]));
        assert!(!same(&[a.clone(), a.clone().with_weight(2)], &[a.clone(), a]));
    }
}
