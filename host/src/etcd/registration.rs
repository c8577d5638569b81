//! The servers' side of discovery.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::{Status, Streaming};

use super::api::{Client, Event, PutRequest, WatchCreate, WatchRequest, WatchResponse};
use super::attempts::Patience;
use super::cluster::Etcd;
use crate::resolver::endpoint_of;
use crate::supervision::guarded_task;
use crate::text::quoted;

/// A server's entry in etcd, kept alive as long as this value lives. When its process dies, the entry goes
/// with its lease; a server that leaves in good order [revokes](Self::revoke) it first, and then drains.
///
/// The lease is renewed three times in its length, and tried again within a tenth of it, at one member after the other:
/// as long as a quorum of them lives, the entry stays. After a time without etcd it is there again as soon as etcd is.
/// An entry that someone deletes is put again only with its lease.
///
/// ```no_run
/// use std::time::Duration;
/// use hotpick::etcd::{Etcd, Registration};
///
/// # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
/// let etcd = Etcd::builder("10.0.0.7:2379,10.0.0.8:2379,10.0.0.9:2379").connect()?;
/// let endpoint = serde_json::json!({"address": "10.0.0.1", "port": 5001, "color": "red"});
/// let entry = Registration::start(&etcd, "services/echo/red-1", endpoint, Duration::from_secs(10)).await?;
/// // ... serve ...
/// entry.revoke().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Registration {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Registration {
    /// Puts `endpoint` at `key`, with a lease of this length (whole seconds, at least one), and keeps it alive.
    ///
    /// # Errors
    ///
    /// The value is no endpoint, or etcd cannot be reached within 10 s, or refuses.
    pub async fn start(
        etcd: &Etcd,
        key: impl Into<String>,
        endpoint: Value,
        ttl: Duration,
    ) -> Result<Self, Status> {
        endpoint_of(&endpoint).map_err(|error| {
            Status::invalid_argument(format!("what is to be registered is no endpoint: {error}"))
        })?;
        let entry = Entry {
            client: etcd.0.clone(),
            key: key.into(),
            value: endpoint.to_string(),
            ttl: ttl.as_secs().clamp(1, LONGEST),
            lease: fastrand::i64(1..=i64::MAX),
        };
        entry.put(Patience::COMMON).await?;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(keep(entry, stopped));
        Ok(Self { stop: Some(stop), task })
    }

    /// Takes the entry away, at once; if etcd cannot be reached within 10 s, the entry goes when its lease
    /// runs out.
    pub async fn revoke(mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        let _ = (&mut self.task).await;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // As if the process had died: the lease runs out. After a revocation it has ended already.
        self.task.abort();
    }
}

struct Entry {
    client: Client,
    key: String,
    value: String,
    /// Seconds.
    ttl: u64,
    /// Of our own choice, and always the same: whatever attempt a frozen member makes up for when it wakes, the entry
    /// has this lease.
    lease: i64,
}

/// The longest lease that etcd gives, in seconds.
const LONGEST: u64 = 9_000_000_000;
/// How often the log tells that it does not work.
const TELL_EVERY: Duration = Duration::from_secs(30);

impl Entry {
    fn ttl(&self) -> Duration {
        Duration::from_secs(self.ttl)
    }

    /// Of a call on which the entry's life depends.
    fn patience(&self) -> Patience {
        let each = (self.ttl() / 10).clamp(Duration::from_millis(100), Patience::COMMON.each);
        Patience { whole: self.ttl().min(Patience::COMMON.whole), each, waits: true }
    }

    /// Puts the entry, with its lease.
    async fn put(&self, patience: Patience) -> Result<(), Status> {
        let end = Instant::now() + patience.whole;
        self.client.grant(self.ttl.cast_signed(), self.lease, patience).await?;
        let patience = Patience { whole: end - Instant::now(), ..patience };
        let (key, value) = (self.key.clone().into_bytes(), self.value.clone().into_bytes());
        self.client.put(PutRequest { key, value, lease: self.lease }, patience).await.map(drop)
    }

    /// Has the lease begin anew, and the entry if it is lost. `is_there`: it has been put since it was last lost; a lease
    /// that lives says nothing of that.
    async fn renew(&self, is_there: &mut bool) -> Result<Renewed, Status> {
        let lives = self.client.keep_alive(self.lease, self.patience()).await? > 0;
        if lives && *is_there {
            return Ok(Renewed::Kept);
        }
        *is_there = false;
        self.put(self.patience()).await?;
        *is_there = true;
        Ok(Renewed::Lost)
    }

    /// Follows what becomes of the entry, if that can be.
    async fn watch(&self) -> Option<Watch> {
        let (key, range_end) = (self.key.clone().into_bytes(), Vec::new());
        let create = WatchCreate { key, range_end, start_revision: 0 };
        self.client.watch(create, self.patience()).await.ok()
    }

    /// Keeps the entry there for ever.
    async fn stay(&self) {
        let mut failing: Option<Failing> = None;
        let mut watch: Option<Watch> = None;
        // It has been put before this begins.
        let mut is_there = true;
        loop {
            // What has been renewed lives from when it was asked for, at the earliest.
            let began = Instant::now();
            match self.renew(&mut is_there).await {
                Ok(renewed) => {
                    let key = quoted(self.key.as_bytes(), 200);
                    match (renewed, failing.take()) {
                        (Renewed::Lost, _) => {
                            tracing::warn!(%key, "etcd had lost the lease: registered again");
                        }
                        (Renewed::Kept, Some(failing)) => {
                            let after = failing.since.elapsed();
                            tracing::info!(%key, ?after, "etcd lease kept alive again");
                        }
                        (Renewed::Kept, None) => {}
                    }
                    // A member that was the leader, and wakes, may take leases for run out that are not (etcd's issue
                    // 15247): what is lost is put at once. That it cannot be watched holds up nothing.
                    let lost = async {
                        if watch.is_none() {
                            watch = self.watch().await;
                        }
                        self.deleted(&mut watch).await;
                    };
                    tokio::select! {
                        () = sleep_until(began + self.ttl() / 3) => {}
                        () = lost => {}
                    }
                }
                Err(status) => {
                    let failing = failing.get_or_insert(Failing { since: began, told: None });
                    if failing.told.is_none_or(|at| at.elapsed() > TELL_EVERY) {
                        failing.told = Some(Instant::now());
                        let (key, error) =
                            (quoted(self.key.as_bytes(), 200), quoted(status.message().as_bytes(), 500));
                        tracing::warn!(%key, %error, "etcd lease cannot be kept alive: tried again and again");
                    }
                    let most = (self.ttl() / 10).min(Duration::from_secs(1));
                    sleep(most.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                }
            }
        }
    }
}

/// The entry's watch, and what keeps it open.
type Watch = (Streaming<WatchResponse>, mpsc::Sender<WatchRequest>);

impl Entry {
    /// The entry has been deleted; for ever nothing when that is not known. Cancel-safe.
    async fn deleted(&self, watch: &mut Option<Watch>) {
        while let Some((answers, _)) = watch {
            match answers.message().await {
                Ok(Some(answer)) if !answer.canceled => {
                    if answer.events.iter().any(Event::is_delete) {
                        return;
                    }
                }
                ended => {
                    if let Ok(Some(answer)) = ended {
                        self.client.cancelled(&answer.cancel_reason);
                    }
                    *watch = None;
                }
            }
        }
        std::future::pending::<()>().await;
    }
}

enum Renewed {
    Kept,
    /// etcd did not have it any more; it does now.
    Lost,
}

struct Failing {
    since: Instant,
    told: Option<Instant>,
}

async fn keep(entry: Entry, stop: oneshot::Receiver<()>) {
    tokio::select! {
        asked = stop => {
            // Without a word, the value was dropped, and this task is being aborted.
            if asked.is_ok() && let Err(status) = entry.client.revoke(entry.lease, Patience::COMMON).await {
                let key = quoted(entry.key.as_bytes(), 200);
                let error = quoted(status.message().as_bytes(), 500);
                tracing::warn!(%key, %error, "etcd lease cannot be revoked: it runs out by itself");
            }
        }
        () = async {
            while guarded_task("a registration in etcd", entry.stay()).await.is_none() {
                sleep(entry.ttl() / 10).await;
            }
        } => {}
    }
}
