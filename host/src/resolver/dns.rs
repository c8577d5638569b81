//! `dns:///name:port`: endpoints from DNS.

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

/// A resolver of DNS names: `dns:///name:port`, or `dns://server:53/name:port` to query a certain server.
///
/// Each A and AAAA record is an endpoint. The default port is 443.
///
/// The name of a service, such as `_grpc._tcp.echo.example`, is looked up as SRV records, which have
/// ports and weights. Only the records of the best priority are used (RFC 2782). With `?priorities=all` all records are
/// used, and each endpoint has the attribute `priority`.
///
/// The name is resolved again when the time to live of its records has expired, and when a connection is lost or cannot
/// be made. The time from an answer to the next query is at least [`min_interval`](Self::min_interval). After an error
/// the default [`Backoff`] applies. An error, or the answer that the name does not exist, leaves the endpoints as they
/// are.
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
    /// Creates a resolver of this target, whatever its scheme.
    ///
    /// # Errors
    ///
    /// The target has no valid name, the server is not an IP address, or a parameter is unknown.
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
                        invalid(format!("{text:?} is not a DNS server: write its IP address, or ip:port"))
                    })?,
            ),
        };
        let (name, parameters) = target.endpoint().split_once('?').unwrap_or((target.endpoint(), ""));
        let query = if is_service(name) {
            if name.contains(':') {
                return Err(invalid(
                    "names a service, whose records have the ports: write it without one".to_owned(),
                ));
            }
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

    /// Sets the shortest time from an answer to the next query. By default 30 s, at most one year.
    #[must_use]
    pub fn min_interval(mut self, interval: Duration) -> Self {
        // An instant that is too far in the future overflows.
        self.min_interval = interval.min(Duration::from_secs(86_400 * 365));
        self
    }

    fn client(&self) -> Result<Client, String> {
        let failed =
            |error: hickory_resolver::net::NetError| format!("cannot set up the DNS client: {error}");
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
        // No cache: a query is made because the last answer may be out of date.
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

/// Parses `name:port`, a name, or an IP address with or without a port.
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

/// Returns whether this is the name of a service, `_service._protocol.name` (RFC 2782). Hosts may begin with an underscore,
/// too.
fn is_service(name: &str) -> bool {
    name.starts_with('_') && name.split_once('.').is_some_and(|(_, rest)| rest.starts_with('_'))
}

struct Answer {
    endpoints: Vec<Endpoint>,
    /// When the first of its records expires.
    until: Instant,
}

/// Parses a name. hickory would parse text as the name of a host, which has no underscores; those of container networks
/// have (`my_svc`).
fn name_of(text: &str) -> Result<Name, String> {
    Name::from_ascii(text).map_err(|error| error.to_string())
}

async fn lookup(client: &Client, name: &str) -> Result<(Vec<IpAddr>, Instant), String> {
    let failed = |error: String| format!("DNS lookup of {name:?}: {error}");
    let found = match name.parse::<IpAddr>() {
        Ok(_) => client.lookup_ip(name).await,
        Err(_) => client.lookup_ip(name_of(name).map_err(failed)?).await,
    };
    let found = found.map_err(|error| failed(error.to_string()))?;
    let ips: Vec<_> = found.iter().collect();
    if ips.is_empty() {
        return Err(failed("no address found".to_owned()));
    }
    Ok((ips, found.valid_until().into()))
}

async fn resolve_srv(client: &Client, name: &str, all_priorities: bool) -> Result<Answer, String> {
    let failed = |error: String| format!("DNS lookup of {name:?}: {error}");
    let found = client.lookup(name_of(name).map_err(failed)?, RecordType::SRV).await;
    let found = found.map_err(|error| failed(error.to_string()))?;
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
    let mut last_error = "no SRV record found".to_owned();
    let targets = join_all(records.iter().map(async |srv| {
        // The target of a record is a full name: no search domain is tried.
        (srv, lookup(client, &srv.target.to_string()).await)
    }));
    for (srv, found) in targets.await {
        match found {
            // A target that cannot be resolved does not affect the others.
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
            last: Vec::new(),
        };
        Box::pin(stream::unfold(watch, async |mut watch| {
            let update = watch.next().await;
            Some((update, watch))
        }))
    }

    fn authority(&self, target: &Target) -> Option<String> {
        let _ = target;
        Some(match &self.query {
            // As in the target, but an IPv6 address gets brackets.
            Query::Host { name, port: DEFAULT_PORT } if name.contains(':') => format!("[{name}]"),
            Query::Host { name, port: DEFAULT_PORT } => name.clone(),
            Query::Host { name, port } if name.contains(':') => format!("[{name}]:{port}"),
            Query::Host { name, port } => format!("{name}:{port}"),
            // The name of the service, not of a record: a DNS server must not choose whom TLS trusts.
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
    /// Endpoints of the last answer.
    last: Vec<Endpoint>,
}

/// When to make the next query.
enum Next {
    AtOnce,
    /// When the answer expires, or earlier on request; but not before `earliest`.
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
                    if !same(&answer.endpoints, &self.last) {
                        self.last.clone_from(&answer.endpoints);
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
        // Kept only after a success, so that the system's DNS configuration is read again after an error.
        self.client = Some(client);
        Ok(answer)
    }
}

/// Returns the domain of an SRV name: `echo.example` for `_grpc._tcp.echo.example`.
fn service_of(name: &str) -> &str {
    let mut rest = name;
    while let Some((_, after)) = rest.strip_prefix('_').and_then(|label| label.split_once('.')) {
        rest = after;
    }
    rest.trim_start_matches('_')
}

/// Returns whether two lists are equal in any order. DNS servers rotate the order of records.
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
    fn a_target_has_a_host_and_optionally_a_server() {
        let host = |name: &str, port| Query::Host { name: name.to_owned(), port };
        for (text, server, query) in [
            ("dns:///echo.example:50", None, host("echo.example", 50)),
            ("dns:echo.example", None, host("echo.example", 443)),
            ("dns://127.0.0.1:5353/echo", Some("127.0.0.1:5353"), host("echo", 443)),
            ("dns://127.0.0.1/echo:1", Some("127.0.0.1:53"), host("echo", 1)),
            ("dns://[::1]:54/[::2]:7", Some("[::1]:54"), host("::2", 7)),
            ("dns:///::2", None, host("::2", 443)),
            ("dns:///_x_:50", None, host("_x_", 50)),
            ("dns:///_x.example", None, host("_x.example", 443)),
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
    fn invalid_targets_are_rejected_with_one_sentence() {
        for (text, sentence) in [
            ("dns:///", "names no host: write dns:///name:port"),
            ("dns://server/x", "\"server\" is not a DNS server: write its IP address, or ip:port"),
            ("dns:///a:b:c", "has an IPv6 host without brackets"),
            ("dns:///a:http", "has a port that is not a number"),
            ("dns:///_grpc._tcp.a:80", "names a service, whose records have the ports: write it without one"),
            ("dns:///a?ttl=1", "has the unknown parameter \"ttl=1\""),
        ] {
            let error = of(text).expect_err(text);
            assert!(error.contains(sentence), "{error}");
        }
    }

    #[test]
    fn the_order_of_records_does_not_matter() {
        let [a, b] = ["a:1", "b:1"].map(|text| Endpoint::new(text.parse().expect("an address")));
        assert!(same(&[a.clone(), b.clone()], &[b.clone(), a.clone()]));
        let one = [a.clone()];
        assert!(!same(&[a.clone(), b.clone()], &one));
        assert!(!same(&one, &[b]));
        assert!(!same(&[a.clone(), a.clone().with_weight(2)], &[a.clone(), a]));
    }
}
