//! The admin listener: status of policies and channels as JSON, and metrics for Prometheus.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

use super::metrics;
use super::status::{self, Subjects};

/// Maximum number of concurrent connections.
const MAX_CONNECTIONS: usize = 64;
/// Maximum duration of a connection. A client that hangs takes up one connection for this long.
const MAX_DURATION: Duration = Duration::from_secs(60);

/// A bound admin listener.
pub(super) struct Admin(TcpListener);

impl Admin {
    /// Listens on `host:port`. Anyone who can connect can read everything and change nothing.
    pub(super) async fn bind(address: &str) -> anyhow::Result<Self> {
        TcpListener::bind(address).await.map(Self).with_context(|| format!("cannot listen on {address}"))
    }

    /// Returns the bound address, or the error as text if the system does not report it.
    pub(super) fn address(&self) -> String {
        self.0.local_addr().map_or_else(|error| error.to_string(), |address| address.to_string())
    }

    /// Serves until the proxy drains. Open connections are not waited for.
    pub(super) async fn serve(self, subjects: Subjects, drain: CancellationToken) {
        drain.run_until_cancelled_owned(self.serve_on(subjects)).await;
    }

    async fn serve_on(self, subjects: Subjects) {
        let subjects = Arc::new(subjects);
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            // Further connections wait in the kernel's queue.
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            let stream = match self.0.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let subjects = Arc::clone(&subjects);
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let answer = answer(&subjects, &request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                let mut server = http1::Builder::new();
                let connection =
                    server.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
                match tokio::time::timeout(MAX_DURATION, connection).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "admin connection ended"),
                    Err(_) => tracing::debug!(after = ?MAX_DURATION, "admin connection timed out"),
                }
                drop(permit);
            });
        }
    }
}

const JSON: &str = "application/json";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

fn answer(subjects: &Subjects, request: &Request<Incoming>) -> Response<Body> {
    let (status, kind, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/policies") => (StatusCode::OK, JSON, format!("{:#}\n", status::json(subjects))),
        (&Method::GET, "/metrics") => match metrics::text(subjects) {
            Ok(text) => (StatusCode::OK, OPEN_METRICS, text),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
        },
        (&Method::GET, _) => {
            (StatusCode::NOT_FOUND, TEXT, "not found: use /policies or /metrics\n".to_owned())
        }
        _ => (StatusCode::METHOD_NOT_ALLOWED, TEXT, "method not allowed: use GET\n".to_owned()),
    };
    let mut response = Response::new(Body::new(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
