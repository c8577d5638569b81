//! The servers' side of discovery.

use std::sync::Arc;
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
            ttl: i64::try_from(ttl.as_secs().max(1)).unwrap_or(i64::MAX),
        };
        let entry = Arc::new(entry);
        let lease = entry.put().await?;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(keep(entry, lease, stopped));
        Ok(Self { stop: Some(stop), task })
    }

    /// Takes the entry away, at once.
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
    ttl: i64,
}

impl Entry {
    /// Puts the entry with a new lease.
    async fn put(&self) -> Result<i64, Status> {
        let mut client = self.client.clone();
        let lease = client.grant(self.ttl).await?.id;
        let (key, value) = (self.key.clone().into_bytes(), self.value.clone().into_bytes());
        client.put(PutRequest { key, value, lease }).await?;
        Ok(lease)
    }

    /// Keeps a lease alive until it, or the stream, is lost.
    async fn keep_alive(&self, lease: i64) -> Result<(), Status> {
        let every = Duration::from_secs(self.ttl.unsigned_abs()) / 3;
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let requests = IntervalStream::new(ticks).map(move |_| LeaseId { id: lease });
        let mut answers = self.client.clone().keep_alive(requests).await?;
        loop {
            let answer = timeout(every + PATIENCE, answers.message())
                .await
                .map_err(|_| Status::deadline_exceeded("etcd is silent"))?;
            match answer? {
                Some(lease) if lease.ttl > 0 => {}
                _ => return Err(Status::not_found("the lease is gone")),
            }
        }
    }
}

async fn keep(entry: Arc<Entry>, mut lease: i64, mut stop: oneshot::Receiver<()>) {
    let mut failures = 0;
    loop {
        tokio::select! {
            asked = &mut stop => {
                // Without a word, the value was dropped, and this task is being aborted.
                if asked.is_ok() && let Err(error) = entry.client.clone().revoke(lease).await {
                    tracing::warn!(key = entry.key, %error, "etcd lease cannot be revoked: it runs out by itself");
                }
                return;
            }
            kept = entry.keep_alive(lease) => if let Err(error) = kept {
                tracing::warn!(key = entry.key, %error, "etcd lease lost: registering again");
            },
        }
        // The old lease may still live; a new one costs nothing, and the key then follows it.
        loop {
            match entry.put().await {
                Ok(new) => {
                    failures = 0;
                    lease = new;
                    break;
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(key = entry.key, %error, "etcd cannot be written to");
                    tokio::select! {
                        _ = &mut stop => return,
                        () = sleep(Backoff::default().delay(failures, fastrand::f64())) => {}
                    }
                }
            }
        }
    }
}
