//! Discovery on the server: an entry in etcd that is kept alive.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::{Status, Streaming};

use super::api::{Client, Event, PutRequest, WatchCreate, WatchRequest, WatchResponse};
use super::attempts::CallTimeouts;
use super::cluster::Etcd;
use crate::resolver::endpoint_of;
use crate::supervision::guarded_task;
use crate::text::quoted;

/// A server's entry in etcd, kept alive as long as this value lives.
///
/// When the process dies, the lease expires and etcd deletes the entry. For a graceful shutdown,
/// [revoke](Self::revoke) the entry first, and then drain.
///
/// The lease is renewed every third of its length. A failed renewal is retried within a tenth of the length, at one
/// member after the other, so the entry stays while a quorum of members lives. After an outage of etcd the entry is
/// re-created as soon as etcd is back. An entry that someone deletes is re-created only if its lease is gone, too.
///
/// ```no_run
/// use std::time::Duration;
/// use hotpick::etcd::{Etcd, Registration};
///
/// # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
/// let etcd = Etcd::builder("10.0.0.7:2379,10.0.0.8:2379,10.0.0.9:2379").connect_lazy()?;
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
    /// Registers `endpoint` at `key`, with a lease of length `ttl` (whole seconds, at least 1), and keeps it alive.
    ///
    /// # Errors
    ///
    /// The value is not an endpoint, etcd cannot be reached within 10 s, or etcd rejects the request.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub async fn start(
        etcd: &Etcd,
        key: impl Into<String>,
        endpoint: Value,
        ttl: Duration,
    ) -> Result<Self, Status> {
        endpoint_of(&endpoint).map_err(|error| {
            Status::invalid_argument(format!(
                "cannot register this value in etcd: it is not an endpoint: {error}"
            ))
        })?;
        let entry = Entry {
            client: etcd.0.clone(),
            key: key.into(),
            value: endpoint.to_string(),
            ttl: ttl.as_secs().clamp(1, MAX_TTL),
            lease: fastrand::i64(1..=i64::MAX),
        };
        entry.put(CallTimeouts::COMMON).await?;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(keep(entry, stopped));
        Ok(Self { stop: Some(stop), task })
    }

    /// Removes the entry at once. If etcd cannot be reached within 10 s, the entry stays until its lease expires.
    pub async fn revoke(mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        let _ = (&mut self.task).await;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // As if the process had died: the lease expires. After a revocation the task has ended already.
        self.task.abort();
    }
}

struct Entry {
    client: Client,
    key: String,
    value: String,
    /// Seconds.
    ttl: u64,
    /// Number of the lease. Chosen once and never changed, so that the entry has this lease even if a frozen member
    /// wakes and processes an old attempt.
    lease: i64,
}

/// Length of the longest lease that etcd grants, in seconds.
const MAX_TTL: u64 = 9_000_000_000;
/// Shortest time between two log lines about failed renewals.
const LOG_EVERY: Duration = Duration::from_secs(30);

impl Entry {
    fn ttl(&self) -> Duration {
        Duration::from_secs(self.ttl)
    }

    /// Time limits of a call that keeps the entry alive.
    fn timeouts(&self) -> CallTimeouts {
        let each = (self.ttl() / 10).clamp(Duration::from_millis(100), CallTimeouts::COMMON.each);
        CallTimeouts { whole: self.ttl().min(CallTimeouts::COMMON.whole), each, waits: true }
    }

    /// Creates the lease, and the entry with it.
    async fn put(&self, timeouts: CallTimeouts) -> Result<(), Status> {
        let end = Instant::now() + timeouts.whole;
        self.client.grant(self.ttl.cast_signed(), self.lease, timeouts).await?;
        let timeouts = CallTimeouts { whole: end - Instant::now(), ..timeouts };
        let (key, value) = (self.key.clone().into_bytes(), self.value.clone().into_bytes());
        self.client.put(PutRequest { key, value, lease: self.lease }, timeouts).await.map(drop)
    }

    /// Renews the lease, and re-creates lease and entry if the lease is lost.
    ///
    /// `is_there`: the entry has been put since it was last lost. A live lease alone does not show that.
    async fn renew(&self, is_there: &mut bool) -> Result<Renewed, Status> {
        let lives = self.client.keep_alive(self.lease, self.timeouts()).await? > 0;
        if lives && *is_there {
            return Ok(Renewed::Kept);
        }
        *is_there = false;
        self.put(self.timeouts()).await?;
        *is_there = true;
        Ok(Renewed::Lost)
    }

    /// Opens a watch on the entry. `None`: that failed.
    async fn watch(&self) -> Option<Watch> {
        let (key, range_end) = (self.key.clone().into_bytes(), Vec::new());
        let create = WatchCreate { key, range_end, start_revision: 0 };
        self.client.watch(create, self.timeouts()).await.ok()
    }

    /// Keeps the entry alive, forever.
    async fn stay(&self) {
        let mut failing: Option<Failing> = None;
        let mut watch: Option<Watch> = None;
        // `Registration::start` has put it.
        let mut is_there = true;
        loop {
            // The renewed lease counts from the request at the earliest, not from the answer.
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
                            tracing::info!(%key, ?after, "etcd lease is kept alive again");
                        }
                        (Renewed::Kept, None) => {}
                    }
                    // A former leader that wakes may expire leases that are still valid (etcd's issue 15247). The watch
                    // shows that, so that the entry is re-created at once. Without a watch the next renewal does it.
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
                    let failing = failing.get_or_insert(Failing { since: began, logged: None });
                    if failing.logged.is_none_or(|at| at.elapsed() > LOG_EVERY) {
                        failing.logged = Some(Instant::now());
                        let (key, error) =
                            (quoted(self.key.as_bytes(), 200), quoted(status.message().as_bytes(), 500));
                        tracing::warn!(%key, %error, "etcd lease cannot be kept alive: retrying");
                    }
                    let most = (self.ttl() / 10).min(Duration::from_secs(1));
                    sleep(most.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                }
            }
        }
    }
}

/// Answers of the entry's watch, and the sender that keeps it open.
type Watch = (Streaming<WatchResponse>, mpsc::Sender<WatchRequest>);

impl Entry {
    /// Waits until the watch reports that the entry was deleted; forever if there is no watch or it ends.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe.
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
    /// etcd had lost the lease or the entry, and both have been re-created.
    Lost,
}

struct Failing {
    since: Instant,
    logged: Option<Instant>,
}

async fn keep(entry: Entry, stop: oneshot::Receiver<()>) {
    tokio::select! {
        asked = stop => {
            // An error means that the `Registration` was dropped, and this task is being aborted.
            if asked.is_ok() && let Err(status) = entry.client.revoke(entry.lease, CallTimeouts::COMMON).await {
                let key = quoted(entry.key.as_bytes(), 200);
                let error = quoted(status.message().as_bytes(), 500);
                tracing::warn!(%key, %error, "etcd lease cannot be revoked: it expires by itself");
            }
        }
        () = async {
            while guarded_task("a registration in etcd", entry.stay()).await.is_none() {
                sleep(entry.ttl() / 10).await;
            }
        } => {}
    }
}
