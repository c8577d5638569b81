//! The admin listener: serves [`Admin`] by HTTP/1 and HTTP/2.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use hotpick::net::Io;
use hotpick_admin::Admin;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

use super::LOG;
use super::socket::{Access, Socket};

/// Maximum number of concurrent connections.
const MAX_CONNECTIONS: usize = 64;
/// Time for the first request of a connection, and for the head of each further one.
const HEAD: Duration = Duration::from_secs(5);
/// Maximum duration of a connection without a stream. A client that hangs takes up one connection for this long.
const MAX_DURATION: Duration = Duration::from_secs(60);

/// A bound admin listener.
pub(crate) struct AdminListener(Socket);

impl AdminListener {
    /// Listens on `host:port`. Anyone who can connect can read everything and change nothing.
    pub(crate) async fn bind(address: &str) -> anyhow::Result<Self> {
        let socket = Socket::bind(address, Access::Everyone).await;
        socket.map(Self).with_context(|| format!("cannot listen on {address}"))
    }

    /// Listens on a Unix socket that only the user of this process can open.
    pub(crate) async fn bind_control(path: &Path) -> anyhow::Result<Self> {
        let socket = Socket::bind_unix(path, Access::Owner).await;
        socket.map(Self).with_context(|| format!("cannot listen on {path:?}"))
    }

    /// Returns the bound address, or the error as text if the system does not report it.
    pub(crate) fn address(&self) -> String {
        self.0.address()
    }

    /// Returns whether only this machine can connect.
    pub(super) fn is_loopback(&self) -> bool {
        self.0.is_local()
    }

    /// Serves until the proxy drains. Open connections are not waited for.
    pub(crate) async fn serve(self, admin: Admin, drain: CancellationToken) {
        drain.clone().run_until_cancelled_owned(self.serve_on(admin, drain)).await;
    }

    async fn serve_on(self, admin: Admin, drain: CancellationToken) {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut silent = Silent::default();
        loop {
            let stream = match self.0.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(target: LOG, %error, "cannot accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            if permits.available_permits() == 0 {
                silent.end_oldest();
            }
            // Further connections wait in the kernel's queue.
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            let (admin, end, asked) = (admin.clone(), drain.child_token(), Asked::default());
            silent.add(asked.clone(), end.clone());
            tokio::spawn(async move {
                end.run_until_cancelled_owned(serve_connection(stream, admin, &asked)).await;
                asked.set();
                drop(permit);
            });
        }
    }
}

/// Whether a connection has asked for something, or has ended.
#[derive(Clone, Default)]
struct Asked(Arc<AtomicBool>);

impl Asked {
    fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The connections that have not asked for anything, oldest first. When all connections are in use, one of these makes
/// room: whoever opens connections and is silent must not keep probes out.
#[derive(Default)]
struct Silent(VecDeque<(Asked, CancellationToken)>);

impl Silent {
    fn add(&mut self, asked: Asked, end: CancellationToken) {
        self.0.retain(|(asked, _)| !asked.get());
        self.0.push_back((asked, end));
    }

    fn end_oldest(&mut self) {
        self.0.retain(|(asked, _)| !asked.get());
        if let Some((_, end)) = self.0.pop_front() {
            end.cancel();
        }
    }
}

async fn serve_connection(stream: Box<dyn Io>, admin: Admin, has_asked: &Asked) {
    // A page or a tap takes as long as someone looks at it.
    let is_streaming = Arc::new(AtomicBool::new(false));
    let (seen, asked) = (Arc::clone(&is_streaming), has_asked.clone());
    let service = service_fn(move |request: http::Request<Incoming>| {
        asked.set();
        seen.fetch_or(matches!(request.uri().path(), "/live" | "/tap" | "/record"), Ordering::Relaxed);
        let answer = admin.clone().call(request);
        async move { answer.await.map_err(|never: Infallible| never) }
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    server.http2().timer(TokioTimer::new()).max_concurrent_streams(16).max_local_error_reset_streams(64);
    let connection = server.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // A connection that asks nothing must not keep the probes of others out for long.
    match tokio::time::timeout(HEAD, &mut connection).await {
        Err(_) if has_asked.get() => {}
        Err(_) => {
            tracing::debug!(target: LOG, after = ?HEAD, "admin connection without a request");
            return;
        }
        Ok(ended) => {
            if let Err(error) = ended {
                tracing::debug!(target: LOG, error, "admin connection ended");
            }
            return;
        }
    }
    loop {
        match tokio::time::timeout(MAX_DURATION, &mut connection).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                tracing::debug!(target: LOG, error, "admin connection ended");
                return;
            }
            Err(_) if is_streaming.load(Ordering::Relaxed) => {}
            Err(_) => {
                tracing::debug!(target: LOG, after = ?MAX_DURATION, "admin connection timed out");
                return;
            }
        }
    }
}
