//! The servers' side of discovery.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::IntervalStream;
use tonic::Status;

use super::PATIENCE;
use super::api::{Client, LeaseId, PutRequest};
use crate::channel::Channel;
use crate::subconn::Backoff;

/// A server's entry in etcd, kept alive as long as this value lives. When its process dies, the entry goes
/// with its lease; a server that leaves in good order [revokes](Self::revoke) it first, and then drains.
///
/// ```no_run
/// use std::time::Duration;
/// use hotpick::{Channel, etcd::Registration};
///
/// # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
/// let etcd = Channel::builder("static:///127.0.0.1:2379").connect()?;
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
    /// Puts `endpoint` at `key`, with a lease of this length (at least a second), and keeps it alive: if
    /// etcd or the connection to it is gone for longer, the entry is put again when it is back.
    ///
    /// # Errors
    ///
    /// etcd cannot be reached within 10 s, or refuses.
    pub async fn start(
        etcd: &Channel,
        key: impl Into<String>,
        endpoint: Value,
        ttl: Duration,
    ) -> Result<Self, Status> {
        let entry = Entry {
            client: Client::new(etcd.clone()),
            key: key.into(),
            value: endpoint.to_string(),
            ttl: ttl.as_secs().clamp(1, LONGEST),
        };
        let lease = entry.put().await?;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(keep(entry, lease, stopped));
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
}

/// The longest lease that etcd gives, in seconds.
const LONGEST: u64 = 9_000_000_000;

impl Entry {
    /// Puts the entry with a new lease.
    async fn put(&self) -> Result<i64, Status> {
        let mut client = self.client.clone();
        let put = async {
            let lease = client.grant(self.ttl.cast_signed()).await?.id;
            let (key, value) = (self.key.clone().into_bytes(), self.value.clone().into_bytes());
            client.put(PutRequest { key, value, lease }).await?;
            Ok(lease)
        };
        timeout(PATIENCE, put)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("etcd does not answer")))
    }

    /// Keeps a lease alive until it, or the stream, is lost; `alive` is called at each answer.
    async fn keep_alive(&self, lease: i64, mut alive: impl FnMut()) -> Status {
        let every = Duration::from_secs(self.ttl) / 3;
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let requests = IntervalStream::new(ticks).map(move |_| LeaseId { id: lease });
        let mut answers = match self.client.clone().keep_alive(requests).await {
            Ok(answers) => answers,
            Err(status) => return status,
        };
        loop {
            match timeout(every + PATIENCE, answers.message()).await {
                Ok(Ok(Some(lease))) if lease.ttl > 0 => alive(),
                Ok(Ok(_)) => return Status::not_found("the lease is gone"),
                Ok(Err(status)) => return status,
                Err(_) => return Status::deadline_exceeded("etcd does not answer"),
            }
        }
    }

    /// Keeps the entry there for ever. `lease` is always the one that it has.
    async fn stay(&self, lease: &AtomicI64) {
        let failures = AtomicU32::new(0);
        loop {
            let current = lease.load(Ordering::Relaxed);
            let status = self.keep_alive(current, || failures.store(0, Ordering::Relaxed)).await;
            tracing::warn!(key = self.key, %status, "etcd lease lost: registering again");
            loop {
                // The first may be a member that restarts: the next has the same data.
                if let failed @ 1.. = failures.fetch_add(1, Ordering::Relaxed) {
                    sleep(Backoff::default().delay(failed, fastrand::f64())).await;
                }
                // The old lease may still live; a new one costs nothing, and the key then follows it.
                match self.put().await {
                    Ok(new) => {
                        lease.store(new, Ordering::Relaxed);
                        break;
                    }
                    Err(status) => tracing::warn!(key = self.key, %status, "etcd cannot be written to"),
                }
            }
        }
    }
}

async fn keep(entry: Entry, lease: i64, stop: oneshot::Receiver<()>) {
    let lease = AtomicI64::new(lease);
    tokio::select! {
        asked = stop => {
            // Without a word, the value was dropped, and this task is being aborted.
            let lease = lease.load(Ordering::Relaxed);
            if asked.is_ok() && let Err(status) = entry.client.clone().revoke(lease).await {
                tracing::warn!(key = entry.key, %status, "etcd lease cannot be revoked: it runs out by itself");
            }
        }
        () = entry.stay(&lease) => {}
    }
}
