//! The channels' side of discovery.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::stream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::StreamExt as _;
use tonic::{Status, Streaming};

use super::api::{Client, KeyValue, RangeRequest, RangeResponse, WatchCreate, WatchRequest, WatchResponse};
use super::attempts::Patience;
use super::cluster::{Etcd, EtcdBuilder};
use super::target;
use crate::backoff::Backoff;
use crate::connectivity::ConnectivityState;
use crate::resolver::{
    Endpoint, ResolveNow, Resolver, ResolverStream, ResolverUpdate, Target, TargetError, endpoint_of,
    register_default,
};

use crate::text::quoted;

/// The endpoints that are registered in etcd under a prefix.
///
/// The prefix is that of the target and a slash: `etcd:///services/echo?endpoints=10.0.0.9:2379` has the
/// keys `services/echo/...` (and `etcd:////services/echo?...` those that begin with a slash). The channel
/// to etcd is hotpick's own, over all the members that `endpoints` names; each may be a URL with `http://` or
/// `https://`. What else a target may say, with `&` between: `ca`, `cert` and `key`, files of PEM for TLS; `user` and
/// `password-file`, for etcd's authentication; `hold`, in seconds, see [`hold`](Self::hold).
///
/// The list is read, and watched from that revision on. When the watch ends, for whatever reason (the
/// member restarts, loses its leader, or has compacted the revision away), the list is read anew; until
/// that works the channel keeps the endpoints it has. A value that is malformed is left out, with a
/// warning.
#[derive(Clone, Debug)]
pub struct EtcdResolver {
    prefix: String,
    etcd: Source,
    hold: Duration,
}

#[derive(Clone, Debug)]
enum Source {
    /// Connected when it is needed.
    At(Box<EtcdBuilder>),
    Through(Etcd),
}

/// See [`EtcdResolver::hold`].
const HOLD: Duration = Duration::from_secs(30);
/// How long the last endpoints are kept, if all are deleted while etcd is watched.
const GRACE: Duration = Duration::from_secs(2);
/// The pauses after failures. The longest is short because a change must be followed soon after etcd is back.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(2));
/// A request to resolve now shortens a pause to this.
const AT_LEAST: Duration = Duration::from_millis(500);

/// Registers the resolver of `etcd` targets.
pub(crate) fn register() {
    register_default("etcd", |target: &Target| -> Result<Box<dyn Resolver>, TargetError> {
        Ok(Box::new(EtcdResolver::of(target)?))
    });
}

impl EtcdResolver {
    /// The endpoints under `prefix`.
    #[must_use]
    pub fn new(etcd: &Etcd, prefix: impl Into<String>) -> Self {
        Self { prefix: with_slash(prefix.into()), etcd: Source::Through(etcd.clone()), hold: HOLD }
    }

    /// How long endpoints are kept that are all gone when the list is read anew, after a time without etcd: 30 s unless
    /// said otherwise, zero for not at all.
    ///
    /// An etcd that has lost its data looks like a service that has gone. The servers are there, and register again
    /// within the time of their lease; those that have are used at once, beside those that are kept. What is
    /// deleted while etcd is watched is not kept; but for the last endpoints, and those for 2 s at most.
    #[must_use]
    pub const fn hold(mut self, time: Duration) -> Self {
        self.hold = time;
        self
    }

    pub(crate) fn of(target: &Target) -> Result<Self, TargetError> {
        let (prefix, etcd, hold) = target::parse(target)?;
        let etcd = Source::At(Box::new(etcd));
        Ok(Self { prefix: with_slash(prefix), etcd, hold: hold.unwrap_or(HOLD) })
    }

    fn client(&self) -> Result<Client, String> {
        match &self.etcd {
            Source::Through(etcd) => Ok(etcd.0.clone()),
            Source::At(members) => {
                let etcd = members.as_ref().clone().connect();
                etcd.map(|etcd| etcd.0).map_err(|error| error.to_string())
            }
        }
    }
}

fn with_slash(mut prefix: String) -> String {
    if !prefix.ends_with('/') {
        prefix.push('/');
    }
    prefix
}

impl Resolver for EtcdResolver {
    fn watch(&self, _target: &Target, resolve_now: ResolveNow) -> ResolverStream {
        let follow = Follow {
            resolver: self.clone(),
            resolve_now,
            client: None,
            list: List::default(),
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
    resolve_now: ResolveNow,
    client: Option<Client>,
    list: List,
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
        // The first failure may be a member that restarts: the next has the same data.
        if self.failures > 1 && matches!(self.next, Next::Read) {
            self.pause().await;
        }
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
                    return ResolverUpdate::error(format!("etcd cannot be followed: {error}"));
                }
            }
        }
    }

    /// Until etcd is tried again: for a time, or until there is a connection again, or someone asks.
    async fn pause(&self) {
        let backoff = Backoff { base: RETRY.0, max: RETRY.1, ..Backoff::default() };
        let connected = async {
            let Some(client) = &self.client else { return std::future::pending().await };
            // As it is now is no news.
            let mut states = std::pin::pin!(client.channel().states().skip(1));
            while let Some(state) = states.next().await {
                if state == ConnectivityState::Ready {
                    return;
                }
            }
            std::future::pending::<()>().await;
        };
        let asked = async {
            sleep(AT_LEAST).await;
            self.resolve_now.requested().await;
        };
        tokio::select! {
            () = sleep(backoff.delay(self.failures - 1, fastrand::f64())) => {}
            () = connected => {}
            () = asked => {}
        }
    }

    fn client(&mut self) -> Result<&Client, String> {
        match &mut self.client {
            Some(client) => Ok(client),
            none => Ok(none.insert(self.resolver.client()?)),
        }
    }

    fn range(&self) -> RangeRequest {
        let key = self.resolver.prefix.clone().into_bytes();
        RangeRequest { range_end: end_of(&key), key, serializable: false }
    }

    /// Reads the whole list.
    async fn read(&mut self) -> Result<ResolverUpdate, String> {
        let range = self.range();
        let known = self.list.origin;
        let origin = |list: &RangeResponse| {
            let header = list.header.clone().unwrap_or_default();
            Origin { cluster: header.cluster_id, revision: header.revision }
        };
        // What a member knows that is behind the others must not take us back to what was before.
        let is_credible = |list: &RangeResponse| known.is_none_or(|known| !origin(list).is_before(known));
        let list = self.client()?.range(range, Patience::LIST, is_credible).await.map_err(said)?;
        let origin = origin(&list);
        self.list.read(&self.resolver.prefix, origin, list.kvs, self.resolver.hold);
        self.next = Next::Open(origin.revision + 1);
        Ok(self.list.update())
    }

    /// Begins to watch what comes after the list.
    async fn open(&mut self, start_revision: i64) -> Result<(), String> {
        let RangeRequest { key, range_end, .. } = self.range();
        let create = WatchCreate { key, range_end, start_revision };
        let (answers, open) = self.client()?.watch(create, Patience::LIST).await.map_err(said)?;
        self.next = Next::Listen(Box::new(Watch { answers, _open: open }));
        Ok(())
    }

    /// Takes in what the watch says next.
    async fn listen(&mut self) -> Result<Option<ResolverUpdate>, String> {
        let Next::Listen(watch) = &mut self.next else { return Ok(None) };
        let answer = tokio::select! {
            biased;
            answer = watch.answers.message() => answer.map_err(said)?.ok_or("the watch ended")?,
            () = self.list.kept_long_enough() => return Ok(Some(self.list.update())),
        };
        if answer.canceled {
            let reason = quoted(answer.cancel_reason.as_bytes(), LONGEST_TEXT);
            tracing::info!(%reason, compacted = answer.compact_revision, "etcd watch cancelled");
            return Err("the watch was cancelled".to_owned());
        }
        if answer.created {
            self.failures = 0;
        }
        if let (Some(origin), Some(header)) = (&mut self.list.origin, &answer.header) {
            origin.revision = origin.revision.max(header.revision);
        }
        if answer.events.is_empty() {
            return Ok(None);
        }
        let changed = answer.events.into_iter().filter_map(|event| {
            let is_there = !event.is_delete();
            event.kv.map(|kv| (is_there, kv))
        });
        self.list.follow(&self.resolver.prefix, changed, self.resolver.hold);
        Ok(Some(self.list.update()))
    }
}

/// What is known to lie under the prefix.
#[derive(Debug, Default)]
struct List {
    /// By key; none of a value that is malformed.
    found: Found,
    /// Of which cluster, and as of when.
    origin: Option<Origin>,
    kept: Option<Kept>,
}

type Found = BTreeMap<Vec<u8>, Option<Endpoint>>;

#[derive(Clone, Copy, Debug)]
struct Origin {
    cluster: u64,
    revision: i64,
}

impl Origin {
    const fn is_before(self, other: Self) -> bool {
        self.cluster == other.cluster && self.revision < other.revision
    }
}

/// What was there before etcd was gone, and is not there now.
#[derive(Debug)]
struct Kept {
    found: Found,
    until: Instant,
}

/// Bytes of a text of others in the log.
const LONGEST_TEXT: usize = 200;
/// Malformed values that the log tells of one by one, of each answer.
const TOLD: usize = 5;

impl List {
    /// The whole list has been read.
    fn read(&mut self, prefix: &str, origin: Origin, kvs: Vec<KeyValue>, hold: Duration) {
        let before = std::mem::take(&mut self.found);
        self.change(prefix, kvs.into_iter().map(|kv| (true, kv)));
        let was = self.origin.replace(origin).unwrap_or(origin);
        let what = match () {
            () if was.cluster != origin.cluster => "this is another etcd cluster",
            () if origin.is_before(was) => "etcd has lost data: its revision is lower",
            () if has_some(&before) && !has_some(&self.found) => {
                "all have been deleted, or their leases have run out"
            }
            // What is not all of it, of the same etcd and later, is taken at its word.
            () => return,
        };
        let lost = self.keep(before, hold);
        if lost > 0 {
            let (clusters, revisions) = ((was.cluster, origin.cluster), (was.revision, origin.revision));
            tracing::warn!(
                prefix,
                kept = lost,
                ?hold,
                ?clusters,
                ?revisions,
                "etcd has lost endpoints: {what}"
            );
        }
    }

    /// Keeps what is not found any more, beside what is kept already. Gives how many those are.
    fn keep(&mut self, before: Found, hold: Duration) -> usize {
        let lost: Found = before
            .into_iter()
            .filter(|(key, value)| value.is_some() && !self.found.contains_key(key))
            .collect();
        let count = lost.len();
        if count > 0 && !hold.is_zero() {
            let until = Instant::now() + hold;
            let kept = self.kept.get_or_insert_with(|| Kept { found: Found::new(), until });
            kept.until = until;
            kept.found.extend(lost);
        }
        count
    }

    /// The watch says what has been put, and what has been deleted (`false`).
    fn follow(&mut self, prefix: &str, changed: impl Iterator<Item = (bool, KeyValue)>, hold: Duration) {
        let before = self.found.clone();
        self.change(prefix, changed);
        if self.kept.is_none() && has_some(&before) && !has_some(&self.found) {
            // Perhaps it is their leases that were lost, and they register again at once.
            let hold = hold.min(GRACE);
            let kept = self.keep(before, hold);
            tracing::info!(prefix, kept, ?hold, "the last endpoints of etcd have been deleted");
        }
    }

    /// Takes in what has been put, and what has been deleted (`false`).
    fn change(&mut self, prefix: &str, changed: impl Iterator<Item = (bool, KeyValue)>) {
        let mut malformed = 0;
        for (is_there, KeyValue { key, value }) in changed {
            if let Some(kept) = &mut self.kept {
                kept.found.remove(&key);
            }
            if !is_there {
                self.found.remove(&key);
                continue;
            }
            let endpoint = serde_json::from_slice(&value).map_err(|error| error.to_string());
            let endpoint = endpoint.and_then(|value| endpoint_of(&value));
            if let Err(error) = &endpoint {
                malformed += 1;
                if malformed <= TOLD {
                    let (key, error) = (quoted(&key, LONGEST_TEXT), quoted(error.as_bytes(), LONGEST_TEXT));
                    tracing::warn!(%key, %error, "etcd has a value that is no endpoint");
                }
            }
            self.found.insert(key, endpoint.ok());
        }
        if malformed > TOLD {
            let more = malformed - TOLD;
            tracing::warn!(prefix, more, "etcd has more values that are no endpoints");
        }
    }

    /// The time for which endpoints are kept is over; for ever nothing if none are. Cancel-safe.
    async fn kept_long_enough(&mut self) {
        let Some(kept) = &self.kept else { return std::future::pending().await };
        sleep_until(kept.until).await;
        let gone = kept.found.len();
        self.kept = None;
        tracing::warn!(gone, "endpoints that etcd does not have any more are not kept any longer");
    }

    fn update(&self) -> ResolverUpdate {
        let kept = self.kept.iter().flat_map(|kept| &kept.found);
        // In the order of their keys: that a list is kept does not make it another.
        let all: BTreeMap<_, _> = self.found.iter().chain(kept).collect();
        ResolverUpdate::endpoints(all.into_values().flatten().cloned().collect::<Vec<_>>())
    }
}

fn has_some(found: &Found) -> bool {
    found.values().any(Option::is_some)
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

    fn put(key: &str, port: u16) -> KeyValue {
        KeyValue { key: key.into(), value: format!("{{\"address\": \"a:{port}\"}}").into() }
    }

    fn ports(list: &List) -> Vec<u16> {
        let endpoints = list.update().endpoints.expect("a list");
        let port = |endpoint: &Endpoint| endpoint.addresses()[0].to_string()[2..].parse().expect("a port");
        endpoints.iter().map(port).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn endpoints_that_are_all_gone_are_kept_for_a_while() {
        let origin = |revision| Origin { cluster: 1, revision };
        let mut list = List::default();
        list.read("p", origin(5), vec![put("1", 1), put("2", 2), put("3", 3)], HOLD);
        assert_eq!(ports(&list), [1, 2, 3]);
        list.read("p", origin(1), vec![], HOLD);
        assert_eq!(ports(&list), [1, 2, 3]);
        // One that registers again is used as it is now; one that is deleted is gone.
        list.change("p", [(true, put("2", 9)), (false, put("3", 0))].into_iter());
        assert_eq!(ports(&list), [1, 9]);
        let begin = Instant::now();
        list.kept_long_enough().await;
        assert_eq!((ports(&list), begin.elapsed()), (vec![9], HOLD));
        // So are the last that are deleted, but not for as long.
        list.follow("p", [(false, put("2", 0))].into_iter(), HOLD);
        assert_eq!(ports(&list), [9]);
        list.kept_long_enough().await;
        assert_eq!((ports(&list), begin.elapsed()), (vec![], HOLD + GRACE));
        // What is not all of it is taken at its word, of the same etcd.
        list.read("p", origin(9), vec![put("1", 1), put("2", 2)], HOLD);
        list.read("p", origin(11), vec![put("1", 1)], HOLD);
        assert_eq!(ports(&list), [1]);
        list.read("p", origin(12), vec![], Duration::ZERO);
        assert_eq!(ports(&list), [0; 0]);

        // Of one that has lost its data, or is another, it is not: others may register again as the first did.
        list.read("p", origin(20), vec![put("1", 1), put("2", 2), put("3", 3)], HOLD);
        list.read("p", origin(2), vec![put("1", 1)], HOLD);
        assert_eq!(ports(&list), [1, 2, 3]);
        tokio::time::advance(HOLD / 2).await;
        // And a second time, before that is over.
        list.read("p", Origin { cluster: 2, revision: 3 }, vec![], HOLD);
        assert_eq!(ports(&list), [1, 2, 3]);
        list.kept_long_enough().await;
        assert_eq!(ports(&list), [0; 0]);
    }
}
