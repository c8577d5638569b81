//! The service: which path is answered by what.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use hotpick::{Channel, PolicyDir};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{Full, StreamBody};
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, StdError};

use crate::access::{is_bearer, is_local};
use crate::calls::Calls;
use crate::control::{Control, Refused};
use crate::live::{Live, stream};
use crate::subjects::{OwnCounter, Subjects, Watched};
use crate::tap::{Filter, lines};
use crate::{channelz, control, metrics, status};

/// An HTTP service that reports on channels and policies. Cheap to clone.
///
/// Anyone who can reach it can read everything and change nothing. It holds its channels open.
#[derive(Clone)]
pub struct Admin {
    inner: Arc<Inner>,
    /// Whether whoever sends requests may control policies.
    is_trusted: bool,
}

struct Inner {
    subjects: Arc<Subjects>,
    live: Arc<Live>,
    tap: Option<TapAccess>,
    control: Control,
    streams: Arc<AtomicUsize>,
    recordings: Arc<AtomicUsize>,
    /// The last metrics: when they were read, and the text.
    metrics: tokio::sync::Mutex<Option<(Instant, Bytes)>>,
    scrapes: Arc<AtomicUsize>,
    /// Ends with the last clone.
    _tasks: JoinSet<()>,
}

/// Who may listen to RPCs.
#[derive(Debug)]
struct TapAccess {
    /// `None`: anyone.
    token: Option<String>,
}

/// Builds an [`Admin`]. Created by [`Admin::builder`].
#[derive(Debug, Default)]
#[must_use]
pub struct AdminBuilder {
    subjects: Subjects,
    tap: Option<TapAccess>,
    control: Control,
}

impl AdminBuilder {
    /// Sets the policy directory to report on.
    pub fn policies(mut self, policies: &PolicyDir) -> Self {
        self.subjects.policies = Some(policies.clone());
        self
    }

    /// Adds a channel to report on, and the counters that observe its RPCs.
    pub fn channel(mut self, channel: &Channel, calls: &Calls) -> Self {
        self.subjects.channels.push(Watched { channel: channel.clone(), calls: calls.clone() });
        self
    }

    /// Adds a counter of the program's own to `/metrics`. `name` and `help` are those of Prometheus, without `_total`.
    pub fn counter(
        mut self,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        self.subjects.counters.push(OwnCounter { name, help, read: Box::new(read) });
        self
    }

    /// Allows `GET /tap`, which shows each RPC with its method and endpoints; to requests with this bearer token
    /// (`Authorization: Bearer TOKEN`), or to all if it is `None`. Not allowed by default.
    pub fn allow_tap(mut self, token: Option<String>) -> Self {
        self.tap = Some(TapAccess { token });
        self
    }

    /// Allows requests by POST that record policies and steer rollouts, with this bearer token (`Authorization: Bearer
    /// TOKEN`). Not allowed by default. See [`Admin::trusted`] for a listener that needs no token.
    pub fn allow_control(mut self, token: String) -> Self {
        self.control.token = Some(token);
        self
    }

    /// Creates the service, and starts to take samples for the page.
    ///
    /// # Panics
    ///
    /// Panics outside of a Tokio runtime.
    #[must_use]
    pub fn build(self) -> Admin {
        let subjects = Arc::new(self.subjects);
        let mut tasks = JoinSet::new();
        let live = Live::start(Arc::clone(&subjects), &mut tasks);
        let inner = Arc::new(Inner {
            subjects,
            live,
            tap: self.tap,
            control: self.control,
            streams: Arc::default(),
            recordings: Arc::default(),
            metrics: tokio::sync::Mutex::default(),
            scrapes: Arc::default(),
            _tasks: tasks,
        });
        Admin { inner, is_trusted: false }
    }
}

/// Streams at once: open pages, and listeners to RPCs. Further ones are refused.
const MAX_STREAMS: usize = 32;

/// Recordings at once that are being read. Apart from the others, which anyone may open.
const MAX_RECORDINGS: usize = 8;

/// Texts of metrics at once that are being read. A scraper that hangs holds one in memory.
const MAX_SCRAPES: usize = 8;

/// A stream that is counted until it is dropped.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

const JSON: &str = "application/json";
const LINES: &str = "application/x-ndjson";
const EVENTS: &str = "text/event-stream";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TRACE: &str = "application/octet-stream";
const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const PAGE: &str = include_str!("page.html");
const NOT_FOUND: &str = "not found: use /, /channels, /policies, /metrics, /healthz, /readyz, /live, /history or /tap, \
                         or channelz by gRPC\n";

impl Admin {
    /// Starts to build the service.
    pub fn builder() -> AdminBuilder {
        AdminBuilder::default()
    }

    /// Returns the service for those who may control policies without a token: for a Unix socket that only the operator
    /// can open.
    #[must_use]
    pub fn trusted(&self) -> Self {
        Self { is_trusted: true, ..self.clone() }
    }

    /// Answers a request. What a request says beside its method, path, query and token is ignored.
    #[must_use]
    pub async fn answer(
        &self,
        method: &Method,
        path: &str,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Response<Body> {
        if method == Method::POST && matches!(path, "/record" | "/rollout") {
            let controlled = self.control(path, query.unwrap_or_default(), headers).await;
            return controlled.unwrap_or_else(|(status, sentence)| text(status, format!("{sentence}\n")));
        }
        if matches!(path, "/record" | "/rollout") {
            return text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed: use POST\n");
        }
        if method != Method::GET && method != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed: use GET\n");
        }
        let Inner { subjects, live, .. } = &*self.inner;
        match path {
            "/" => page(),
            "/channels" => of(StatusCode::OK, JSON, format!("{:#}\n", status::channels(subjects))),
            "/policies" => of(StatusCode::OK, JSON, format!("{:#}\n", status::policies(subjects))),
            "/metrics" => self.metrics().await,
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" => match subjects.not_ready() {
                none if none.is_empty() => text(StatusCode::OK, "ready\n"),
                why => text(StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", why.join("\n"))),
            },
            "/live" => {
                self.streaming(EVENTS, || Body::new(StreamBody::new(Box::pin(stream(Arc::clone(live))))))
            }
            "/history" => {
                let (channel, endpoints) = history_query(query.unwrap_or_default());
                of(StatusCode::OK, JSON, live.endpoints(channel, &endpoints).to_string())
            }
            "/tap" => self.tap(query.unwrap_or_default(), headers),
            _ => text(StatusCode::NOT_FOUND, NOT_FOUND),
        }
    }

    async fn control(&self, path: &str, query: &str, headers: &HeaderMap) -> Result<Response<Body>, Refused> {
        self.inner.control.admit(headers, self.is_trusted)?;
        let policies = self.inner.subjects.policies.as_ref();
        match path {
            "/record" => {
                let trace = control::record(policies, query)?;
                Ok(stream_of(&self.inner.recordings, MAX_RECORDINGS, TRACE, || control::body(trace)))
            }
            _ => {
                let said = control::steer(policies, query).await?;
                Ok(text(StatusCode::OK, format!("{said}\n")))
            }
        }
    }

    /// Writes the metrics on a thread that serves no RPCs; one text at a time, which all share that have asked meanwhile.
    async fn metrics(&self) -> Response<Body> {
        let counted = Counted(Arc::clone(&self.inner.scrapes));
        if self.inner.scrapes.fetch_add(1, Ordering::Relaxed) >= MAX_SCRAPES {
            return text(StatusCode::SERVICE_UNAVAILABLE, format!("{MAX_SCRAPES} others read the metrics\n"));
        }
        let asked = Instant::now();
        let mut last = self.inner.metrics.lock().await;
        let metrics = match &*last {
            Some((read, metrics)) if *read > asked => metrics.clone(),
            _ => {
                let (read, subjects) = (Instant::now(), Arc::clone(&self.inner.subjects));
                let written = tokio::task::spawn_blocking(move || metrics::text(&subjects)).await;
                let metrics = match written {
                    Ok(Ok(metrics)) => Bytes::from(metrics),
                    Ok(Err(error)) => return text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
                    Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
                };
                last.insert((read, metrics)).1.clone()
            }
        };
        drop(last);
        let body = Body::new(Full::new(metrics));
        let mut response = Response::new(Body::new(Held { body, _counted: counted }));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(OPEN_METRICS));
        response
    }

    fn tap(&self, query: &str, headers: &HeaderMap) -> Response<Body> {
        let Some(access) = &self.inner.tap else {
            return text(
                StatusCode::FORBIDDEN,
                "tap is off: set tap = true in [admin] of the sidecar's configuration\n",
            );
        };
        match &access.token {
            Some(token) if !is_bearer(headers, token) => {
                return text(
                    StatusCode::UNAUTHORIZED,
                    "tap needs the token: send Authorization: Bearer TOKEN\n",
                );
            }
            // A page of another site could otherwise read it in the browser of someone on this machine: by its name,
            // which its DNS server has changed to a loopback address.
            None if !is_local(headers) => {
                return text(
                    StatusCode::FORBIDDEN,
                    "tap without a token is for localhost or an IP address\n",
                );
            }
            _ => {}
        }
        match Filter::parse(query) {
            Ok(filter) => {
                let taps: Vec<_> =
                    self.inner.subjects.channels.iter().map(|watched| watched.calls.tap().listen()).collect();
                self.streaming(LINES, || Body::new(StreamBody::new(Box::pin(lines(taps, filter)))))
            }
            Err(sentence) => text(StatusCode::BAD_REQUEST, format!("{sentence}\n")),
        }
    }

    fn streaming(&self, kind: &'static str, body: impl FnOnce() -> Body) -> Response<Body> {
        stream_of(&self.inner.streams, MAX_STREAMS, kind, body)
    }
}

/// Returns a response with a body that is counted until it ends.
fn stream_of(
    streams: &Arc<AtomicUsize>,
    most: usize,
    kind: &'static str,
    body: impl FnOnce() -> Body,
) -> Response<Body> {
    let counted = Counted(Arc::clone(streams));
    // Counted before the check, so that concurrent requests cannot exceed the limit.
    if streams.fetch_add(1, Ordering::Relaxed) >= most {
        return text(StatusCode::SERVICE_UNAVAILABLE, format!("{most} others read: try again later\n"));
    }
    let mut response = Response::new(Body::new(Held { body: body(), _counted: counted }));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A body with the permit of its stream.
struct Held {
    body: Body,
    _counted: Counted,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, tonic::Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
}

impl<B> tower_service::Service<Request<B>> for Admin
where
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let kind = request.headers().get(header::CONTENT_TYPE);
        if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
            let (subjects, live) = (Arc::clone(&self.inner.subjects), Arc::clone(&self.inner.live));
            return Box::pin(async move { Ok(channelz::answer(subjects, live, request).await) });
        }
        let (admin, (head, _)) = (self.clone(), request.into_parts());
        Box::pin(async move {
            let uri = &head.uri;
            Ok(admin.answer(&head.method, uri.path(), uri.query(), &head.headers).await)
        })
    }
}

/// Returns the channel and the endpoints of a request for histories; at most 50 endpoints.
fn history_query(query: &str) -> (usize, Vec<u32>) {
    let mut channel = 0;
    let mut endpoints = Vec::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "channel" => channel = value.parse().unwrap_or(usize::MAX),
            "endpoints" => {
                endpoints.extend(value.split(',').filter_map(|id| id.parse::<u32>().ok()).take(50));
            }
            _ => {}
        }
    }
    (channel, endpoints)
}

fn page() -> Response<Body> {
    let mut response = of(StatusCode::OK, HTML, PAGE);
    // All of it is in the page. A text of a server that became part of the page by mistake could not do anything.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                  img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    of(status, TEXT, text)
}

fn of(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(text.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Admin({} channels)", self.inner.subjects.channels.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_for_histories_is_bounded() {
        assert_eq!(history_query("channel=1&endpoints=7,x,8"), (1, vec![7, 8]));
        assert_eq!(history_query("").1, Vec::<u32>::new());
        let many = format!("endpoints={}", (0..1000).map(|id| id.to_string()).collect::<Vec<_>>().join(","));
        assert_eq!(history_query(&many).1.len(), 50);
    }
}
