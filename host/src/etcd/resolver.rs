//! Discovery on the client: a resolver of endpoints that are registered in etcd.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::stream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::StreamExt as _;
use tonic::{Status, Streaming};

use super::api::{Client, KeyValue, RangeRequest, RangeResponse, WatchCreate, WatchRequest, WatchResponse};
use super::attempts::CallTimeouts;
use super::cluster::{Etcd, EtcdBuilder};
use super::target;
use crate::backoff::Backoff;
use crate::connectivity::ConnectivityState;
use crate::resolver::{
    Endpoint, ResolveNow, Resolver, ResolverStream, ResolverUpdate, Target, TargetError, endpoint_of,
    register_default,
};

use crate::text::quoted;

/// A resolver of the endpoints that are registered in etcd under a prefix.
///
/// The prefix is the path of the target and a slash. `etcd:///services/echo?endpoints=10.0.0.9:2379` follows the keys
/// `services/echo/...`. For keys that start with a slash, write `etcd:////services/echo?...`. The resolver opens a
/// channel to all the members that `endpoints` names. Each member is `host:port`, or a URL with `http://` or
/// `https://`.
///
/// The other parameters of a target, separated by `&`:
///
/// - `ca`, `cert` and `key`: PEM files for TLS.
/// - `user` and `password-file`: a login, if etcd's authentication is enabled.
/// - `hold`: seconds, see [`hold`](Self::hold).
///
/// The resolver reads the list, and watches it from that revision on. When the watch ends, for whatever reason (the
/// member restarts, loses its leader, or has compacted the revision), it reads the list again. Until that succeeds the
/// channel keeps its endpoints. A malformed value is skipped, with a warning.
#[derive(Clone, Debug)]
pub struct EtcdResolver {
    prefix: String,
    etcd: Source,
    hold: Duration,
}

#[derive(Clone, Debug)]
enum Source {
    /// Members to connect to on first use.
    At(Box<EtcdBuilder>),
    Through(Etcd),
}

/// Default of [`EtcdResolver::hold`].
const HOLD: Duration = Duration::from_secs(30);
/// How long the last endpoints are kept when all of them are deleted while the watch is open.
const GRACE: Duration = Duration::from_secs(2);
/// First and longest pause after failures. The longest is short, so that changes are seen soon after etcd is back.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(2));
/// Shortest pause when the channel asks for a new answer.
const MIN_PAUSE: Duration = Duration::from_millis(500);

/// Registers the resolver of `etcd` targets.
pub(crate) fn register() {
    register_default("etcd", |target: &Target| -> Result<Box<dyn Resolver>, TargetError> {
        Ok(Box::new(EtcdResolver::of(target)?))
    });
}

impl EtcdResolver {
    /// Creates a resolver of the endpoints under `prefix`.
    #[must_use]
    pub fn new(etcd: &Etcd, prefix: impl Into<String>) -> Self {
        Self { prefix: with_slash(prefix.into()), etcd: Source::Through(etcd.clone()), hold: HOLD }
    }

    /// Sets how long endpoints are kept that are missing when the list is read again after a time without etcd, if
    /// the list is then empty, has an earlier revision, or is of another cluster. By default 30 s; zero keeps none.
    ///
    /// An etcd that has lost its data looks like a service without servers. The servers still run, and register again
    /// within the time of their lease. Those that have registered again are used at once, beside the kept endpoints.
    ///
    /// Endpoints that are deleted while the watch is open are not kept, except the last ones, which are kept for at
    /// most 2 s.
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
                let etcd = members.as_ref().clone().connect_lazy();
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
    /// Consecutive attempts that did not lead to a watch.
    failures: u32,
}

/// The next step.
enum Next {
    Read,
    /// Open a watch from this revision on.
    Open(i64),
    Listen(Box<Watch>),
}

struct Watch {
    answers: Streaming<WatchResponse>,
    /// Keeps the request stream open. etcd ends the watch with the request stream.
    _open: mpsc::Sender<WatchRequest>,
}

impl Follow {
    async fn next(&mut self) -> ResolverUpdate {
        // After the first failure the next member is asked at once: a restart of one member is common.
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
                    return ResolverUpdate::error(format!("cannot follow the endpoints in etcd: {error}"));
                }
            }
        }
    }

    /// Waits before the next attempt: for the backoff, until a connection is READY again, or until the channel asks for
    /// a new answer.
    async fn pause(&self) {
        let backoff = Backoff { base: RETRY.0, max: RETRY.1, ..Backoff::default() };
        let connected = async {
            let Some(client) = &self.client else { return std::future::pending().await };
            // Skips the current state: only a change to READY ends the pause.
            let mut states = std::pin::pin!(client.channel().states().skip(1));
            while let Some(state) = states.next().await {
                if state == ConnectivityState::Ready {
                    return;
                }
            }
            std::future::pending::<()>().await;
        };
        let asked = async {
            sleep(MIN_PAUSE).await;
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

    /// Reads the list.
    async fn read(&mut self) -> Result<ResolverUpdate, String> {
        let range = self.range();
        let known = self.list.origin;
        let origin = |list: &RangeResponse| {
            let header = list.header.clone().unwrap_or_default();
            Origin { cluster: header.cluster_id, revision: header.revision }
        };
        // A member that lags behind the others must not bring back an earlier list.
        let is_credible = |list: &RangeResponse| known.is_none_or(|known| !origin(list).is_before(known));
        let list = self.client()?.range(range, CallTimeouts::LIST, is_credible).await.map_err(message_of)?;
        let origin = origin(&list);
        self.list.read(&self.resolver.prefix, origin, list.kvs, self.resolver.hold);
        self.next = Next::Open(origin.revision + 1);
        Ok(self.list.update())
    }

    /// Opens a watch for the changes after the list.
    async fn open(&mut self, start_revision: i64) -> Result<(), String> {
        let RangeRequest { key, range_end, .. } = self.range();
        let create = WatchCreate { key, range_end, start_revision };
        let (answers, open) = self.client()?.watch(create, CallTimeouts::LIST).await.map_err(message_of)?;
        self.next = Next::Listen(Box::new(Watch { answers, _open: open }));
        Ok(())
    }

    /// Waits for the next answer of the watch, and applies its changes to the list.
    async fn listen(&mut self) -> Result<Option<ResolverUpdate>, String> {
        let Next::Listen(watch) = &mut self.next else { return Ok(None) };
        let answer = tokio::select! {
            biased;
            answer = watch.answers.message() => answer.map_err(message_of)?.ok_or("etcd ended the watch")?,
            () = self.list.hold_expired() => return Ok(Some(self.list.update())),
        };
        if answer.canceled {
            let reason = quoted(answer.cancel_reason.as_bytes(), MAX_TEXT);
            tracing::info!(%reason, compacted = answer.compact_revision, "etcd watch cancelled");
            return Err("etcd cancelled the watch".to_owned());
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

/// The known endpoints under the prefix.
#[derive(Debug, Default)]
struct List {
    /// By key; `None` for a malformed value.
    found: Found,
    /// Cluster and revision of the list. `None`: no list has been read yet.
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

/// Endpoints that etcd no longer has, which are still used for a while.
#[derive(Debug)]
struct Kept {
    found: Found,
    until: Instant,
}

/// Bytes of a foreign text in the log.
const MAX_TEXT: usize = 200;
/// Malformed values of one answer that are logged one by one.
const MAX_LOGGED: usize = 5;

impl List {
    /// Replaces the list with one that was read. Keeps the missing endpoints if etcd may have lost them.
    fn read(&mut self, prefix: &str, origin: Origin, kvs: Vec<KeyValue>, hold: Duration) {
        let before = std::mem::take(&mut self.found);
        self.change(prefix, kvs.into_iter().map(|kv| (true, kv)));
        let was = self.origin.replace(origin).unwrap_or(origin);
        let reason = match () {
            () if was.cluster != origin.cluster => "another etcd cluster answers",
            () if origin.is_before(was) => "its revision is lower than before",
            () if has_some(&before) && !has_some(&self.found) => {
                "all of them were deleted, or their leases expired"
            }
            // A shorter, but not empty list of the same cluster at a later revision is believed.
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
                "etcd has lost endpoints: {reason}"
            );
        }
    }

    /// Keeps the endpoints that are missing now, beside those that are kept already. Returns how many are missing.
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

    /// Applies changes that the watch reports: put (`true`) or deleted (`false`).
    fn follow(&mut self, prefix: &str, changed: impl Iterator<Item = (bool, KeyValue)>, hold: Duration) {
        let before = self.found.clone();
        self.change(prefix, changed);
        if self.kept.is_none() && has_some(&before) && !has_some(&self.found) {
            // etcd may have lost their leases; then the servers register again at once.
            let hold = hold.min(GRACE);
            let kept = self.keep(before, hold);
            tracing::info!(prefix, kept, ?hold, "last endpoints in etcd deleted");
        }
    }

    /// Applies changes: put (`true`) or deleted (`false`).
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
                if malformed <= MAX_LOGGED {
                    let (key, error) = (quoted(&key, MAX_TEXT), quoted(error.as_bytes(), MAX_TEXT));
                    tracing::warn!(%key, %error, "etcd value is not an endpoint: ignored");
                }
            }
            self.found.insert(key, endpoint.ok());
        }
        if malformed > MAX_LOGGED {
            let more = malformed - MAX_LOGGED;
            tracing::warn!(prefix, more, "more etcd values are not endpoints: ignored");
        }
    }

    /// Waits until the kept endpoints expire, and drops them. Waits forever if none are kept.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe.
    async fn hold_expired(&mut self) {
        let Some(kept) = &self.kept else { return std::future::pending().await };
        sleep_until(kept.until).await;
        let gone = kept.found.len();
        self.kept = None;
        tracing::warn!(gone, "kept endpoints expired: etcd no longer has them");
    }

    fn update(&self) -> ResolverUpdate {
        let kept = self.kept.iter().flat_map(|kept| &kept.found);
        // Sorted by key, so that an endpoint has the same place whether it is found or kept.
        let all: BTreeMap<_, _> = self.found.iter().chain(kept).collect();
        ResolverUpdate::endpoints(all.into_values().flatten().cloned().collect::<Vec<_>>())
    }
}

fn has_some(found: &Found) -> bool {
    found.values().any(Option::is_some)
}

fn message_of(status: Status) -> String {
    status.message().to_owned()
}

/// Returns the first key after all keys that start with `prefix`.
fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // The prefix is empty or all 0xff. For etcd, a zero byte means the end of the key space.
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
        // A server that registers again is used with its new value; a deleted one is removed.
        list.change("p", [(true, put("2", 9)), (false, put("3", 0))].into_iter());
        assert_eq!(ports(&list), [1, 9]);
        let begin = Instant::now();
        list.hold_expired().await;
        assert_eq!((ports(&list), begin.elapsed()), (vec![9], HOLD));
        // The last endpoints are kept when they are deleted, but for a shorter time.
        list.follow("p", [(false, put("2", 0))].into_iter(), HOLD);
        assert_eq!(ports(&list), [9]);
        list.hold_expired().await;
        assert_eq!((ports(&list), begin.elapsed()), (vec![], HOLD + GRACE));
        // A shorter list of the same cluster is believed.
        list.read("p", origin(9), vec![put("1", 1), put("2", 2)], HOLD);
        list.read("p", origin(11), vec![put("1", 1)], HOLD);
        assert_eq!(ports(&list), [1]);
        list.read("p", origin(12), vec![], Duration::ZERO);
        assert_eq!(ports(&list), [0; 0]);

        // A shorter list is not believed from a cluster that lost data, or another one: servers may register again.
        list.read("p", origin(20), vec![put("1", 1), put("2", 2), put("3", 3)], HOLD);
        list.read("p", origin(2), vec![put("1", 1)], HOLD);
        assert_eq!(ports(&list), [1, 2, 3]);
        tokio::time::advance(HOLD / 2).await;
        // A second loss, before the first hold is over.
        list.read("p", Origin { cluster: 2, revision: 3 }, vec![], HOLD);
        assert_eq!(ports(&list), [1, 2, 3]);
        list.hold_expired().await;
        assert_eq!(ports(&list), [0; 0]);
    }
}
