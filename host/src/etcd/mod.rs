//! Discovery by etcd: servers [register](Registration) themselves under a prefix, with a lease; channels to
//! `etcd:///prefix?endpoints=host:port,host:port` follow what is there.
//!
//! A value is a JSON object: `address` as `host:port`, or a host beside a `port`; perhaps a `weight`; and
//! every other member becomes an attribute of the endpoint:
//!
//! ```json
//! {"address": "10.0.0.1", "port": 5001, "weight": 2, "color": "red"}
//! ```

mod api;
mod registration;

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use self::api::{Client, KeyValue, RangeRequest, WatchCreate, WatchRequest, WatchResponse};
use crate::channel::Channel;
use crate::resolver::{
    Endpoint, ResolveNow, Resolver, ResolverStream, ResolverUpdate, Target, TargetError, endpoint_of,
};
use crate::subconn::{Backoff, SubConnOptions};

pub use self::registration::Registration;

/// How long etcd may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The endpoints that are registered in etcd under a prefix.
///
/// The prefix is that of the target and a slash: `etcd:///services/echo?endpoints=10.0.0.9:2379` has the
/// keys `services/echo/...` (and `etcd:////services/echo?...` those that begin with a slash). The channel
/// to etcd is hotpick's own, over all the members that `endpoints` names.
///
/// The list is read, and watched from that revision on. When the watch ends, for whatever reason (the
/// member restarts, loses its leader, or has compacted the revision away), the list is read anew; until
/// that works the channel keeps the endpoints it has. A value that is malformed is left out, with a
/// warning.
#[derive(Clone, Debug)]
pub struct EtcdResolver {
    prefix: String,
    etcd: Etcd,
}

#[derive(Clone, Debug)]
enum Etcd {
    /// A channel is made when it is needed.
    At(Target),
    Through(Channel),
}

impl EtcdResolver {
    /// The endpoints under `prefix`, from the etcd at the other end of a channel, which may have TLS and
    /// whatever else it needs.
    #[must_use]
    pub fn new(etcd: Channel, prefix: impl Into<String>) -> Self {
        Self { prefix: with_slash(prefix.into()), etcd: Etcd::Through(etcd) }
    }

    pub(crate) fn of(target: &Target) -> Result<Self, TargetError> {
        let invalid = |reason: &str| TargetError::invalid(target, reason);
        const FORM: &str = "write etcd:///prefix?endpoints=host:port,host:port";
        if !target.authority().is_empty() {
            return Err(invalid(&format!("has a host: {FORM}")));
        }
        let (prefix, endpoints) = target
            .endpoint()
            .split_once("?endpoints=")
            .ok_or_else(|| invalid(&format!("does not say where etcd is: {FORM}")))?;
        if prefix.is_empty() {
            return Err(invalid(&format!("names no prefix: {FORM}")));
        }
        let members: Target = format!("static:///{endpoints}").parse()?;
        members.resolver().map_err(|error| TargetError::invalid(target, error))?;
        Ok(Self { prefix: with_slash(prefix.to_owned()), etcd: Etcd::At(members) })
    }

    fn client(&self) -> Result<Client, String> {
        let channel = match &self.etcd {
            Etcd::Through(channel) => channel.clone(),
            Etcd::At(members) => {
                // A member that is stuck, but whose TCP is not, would leave the watch without a word. etcd
                // allows a PING every 5 s.
                let keep_alive_interval = Some(Duration::from_secs(10));
                let options = SubConnOptions { keep_alive_interval, ..SubConnOptions::default() };
                let builder = Channel::builder(members.to_string()).subconn_options(options);
                builder.connect().map_err(|error| error.to_string())?
            }
        };
        Ok(Client::new(channel))
    }
}

fn with_slash(mut prefix: String) -> String {
    if !prefix.ends_with('/') {
        prefix.push('/');
    }
    prefix
}

impl Resolver for EtcdResolver {
    fn watch(&self, _target: &Target, _resolve_now: ResolveNow) -> ResolverStream {
        let follow = Follow {
            resolver: self.clone(),
            client: None,
            found: BTreeMap::new(),
            next: Next::Read,
            failures: 0,
        };
        Box::pin(stream::unfold(follow, async |mut follow| {
            let update = follow.next().await;
            Some((update, follow))
        }))
    }
}

struct Follow {
    resolver: EtcdResolver,
    client: Option<Client>,
    /// By key; none of a value that is malformed.
    found: BTreeMap<Vec<u8>, Option<Endpoint>>,
    next: Next,
    /// Attempts in a row that led to no watch.
    failures: u32,
}

/// What is to be done next.
enum Next {
    Read,
    /// Watch, from this revision on.
    Open(i64),
    Listen(Box<Watch>),
}

struct Watch {
    answers: Streaming<WatchResponse>,
    /// The request stream ends with it, and the watch with that.
    _open: mpsc::Sender<WatchRequest>,
}

impl Follow {
    async fn next(&mut self) -> ResolverUpdate {
        loop {
            let done = match &mut self.next {
                Next::Read => self.read().await.map(Some),
                Next::Open(revision) => {
                    let revision = *revision;
                    self.open(revision).await.map(|()| None)
                }
                Next::Listen(_) => self.listen().await,
            };
            match done {
                Ok(Some(update)) => return update,
                Ok(None) => {}
                Err(error) => {
                    self.next = Next::Read;
                    self.failures += 1;
                    // The first may be a member that restarts: the next has the same data.
                    if self.failures > 1 {
                        let wait = Backoff::default().delay(self.failures - 1, fastrand::f64());
                        tokio::time::sleep(wait).await;
                    }
                    return ResolverUpdate::error(format!("etcd cannot be followed: {error}"));
                }
            }
        }
    }

    fn client(&mut self) -> Result<&mut Client, String> {
        match &mut self.client {
            Some(client) => Ok(client),
            none => Ok(none.insert(self.resolver.client()?)),
        }
    }

    fn range(&self) -> RangeRequest {
        let key = self.resolver.prefix.clone().into_bytes();
        RangeRequest { range_end: end_of(&key), key }
    }

    /// Reads the whole list.
    async fn read(&mut self) -> Result<ResolverUpdate, String> {
        let range = self.range();
        let list = self.client()?.range(range).await.map_err(said)?;
        self.found.clear();
        list.kvs.into_iter().for_each(|kv| self.take(kv));
        self.next = Next::Open(list.header.map_or(0, |header| header.revision) + 1);
        Ok(self.update())
    }

    /// Begins to watch what comes after the list.
    async fn open(&mut self, start_revision: i64) -> Result<(), String> {
        let RangeRequest { key, range_end } = self.range();
        let (open, requests) = mpsc::channel(1);
        // There is room for one.
        let _ = open.try_send(WatchRequest { create: Some(WatchCreate { key, range_end, start_revision }) });
        let answers = self.client()?.watch(ReceiverStream::new(requests)).await.map_err(said)?;
        self.next = Next::Listen(Box::new(Watch { answers, _open: open }));
        Ok(())
    }

    /// Takes in what the watch says next.
    async fn listen(&mut self) -> Result<Option<ResolverUpdate>, String> {
        let Next::Listen(watch) = &mut self.next else { return Ok(None) };
        let answer = watch.answers.message().await.map_err(said)?;
        let answer = answer.ok_or("the watch ended")?;
        if answer.canceled {
            tracing::info!(
                reason = answer.cancel_reason,
                compacted = answer.compact_revision,
                "etcd watch cancelled"
            );
            return Err("the watch was cancelled".to_owned());
        }
        if answer.created {
            self.failures = 0;
        }
        if answer.events.is_empty() {
            return Ok(None);
        }
        for event in answer.events {
            match event.kv {
                Some(kv) if event.kind == 0 => self.take(kv),
                Some(kv) => drop(self.found.remove(&kv.key)),
                None => {}
            }
        }
        Ok(Some(self.update()))
    }

    fn take(&mut self, kv: KeyValue) {
        let value = serde_json::from_slice(&kv.value).map_err(|error| error.to_string());
        let endpoint = value.and_then(|value| endpoint_of(&value));
        if let Err(error) = &endpoint {
            let key = String::from_utf8_lossy(&kv.key);
            tracing::warn!(%key, error, "etcd has a value that is no endpoint");
        }
        self.found.insert(kv.key, endpoint.ok());
    }

    fn update(&self) -> ResolverUpdate {
        ResolverUpdate::endpoints(self.found.values().flatten().cloned().collect::<Vec<_>>())
    }
}

fn said(status: Status) -> String {
    status.message().to_owned()
}

/// The first key that does not begin with `prefix`.
fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // Of nothing but 0xff: to the end of all keys, as etcd says it.
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_next_key() {
        assert_eq!(end_of(b"a/"), b"a0");
        assert_eq!(end_of(&[1, 255]), [2]);
        assert_eq!(end_of(&[255, 255]), [0]);
    }

    #[test]
    fn a_target_names_a_prefix_and_the_members() {
        let of = |text: &str| {
            let target: Target = text.parse().expect("a target");
            EtcdResolver::of(&target).map(|resolver| resolver.prefix).map_err(|error| error.to_string())
        };
        assert_eq!(of("etcd:///services/echo?endpoints=a:1,b:2").as_deref(), Ok("services/echo/"));
        assert_eq!(of("etcd:////echo/?endpoints=a:1").as_deref(), Ok("/echo/"));
        for (text, sentence) in [
            ("etcd:///echo", "does not say where etcd is"),
            ("etcd:///?endpoints=a:1", "names no prefix"),
            ("etcd://a:1/echo", "has a host"),
            ("etcd:///echo?endpoints=a", "address \"a\" has no port"),
        ] {
            assert!(of(text).is_err_and(|error| error.contains(sentence)), "{text}");
        }
    }
}
