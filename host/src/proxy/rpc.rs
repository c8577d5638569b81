//! One RPC through the proxy.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::Reason;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body::{Frame, SizeHint};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::{Code, Status};
use tower_service::Service as _;

use super::admission::{Admitted, Shared};
use super::health::OwnHealth;
use crate::call::Peer;
use crate::http2::{Outgoing, never_index_malformed};

/// Sends an RPC of any kind through the channel. Metadata, messages and trailers pass unchanged, except for the headers
/// of the connection itself. `:authority` is that of the channel.
///
/// `drains` is cancelled when the client's connection drains.
pub(super) async fn call(
    proxy: Arc<Shared>,
    peer: Peer,
    drains: Arc<CancellationToken>,
    request: Request<Body>,
) -> Response<Answer> {
    let (mut head, body) = request.into_parts();
    if proxy.channel.is_observed() {
        head.extensions.insert(peer);
    }
    if !is_grpc(&head) {
        // As gRPC servers respond (`doc/PROTOCOL-HTTP2.md`).
        let mut refused = Response::new(Answer::nothing());
        *refused.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return refused;
    }
    if let Some(name) = head.headers.keys().find(|name| !is_key(name)) {
        let text = format!("invalid metadata key {name:?}: use a-z, 0-9, '-', '_' and '.'");
        return refuse(&proxy, head, &Status::internal(text));
    }
    let size = size_of(&head);
    if size > proxy.options.max_metadata {
        let limit = proxy.options.max_metadata;
        let text =
            format!("request metadata of {size} bytes exceeds the limit of {limit} bytes (max_metadata)");
        return refuse(&proxy, head, &Status::resource_exhausted(text));
    }
    let is_own = proxy.health.as_ref().filter(|_| OwnHealth::is_asked(head.uri.path()));
    // A probe is answered at the limit as well: the proxy is not ill because it is busy.
    let admitted = if is_own.is_some() { None } else { proxy.admit() };
    if is_own.is_none() && admitted.is_none() {
        let limit = proxy.options.max_rpcs;
        let text = format!("the proxy has {limit} RPCs in flight (max_rpcs)");
        return refuse(&proxy, head, &Status::unavailable(text));
    }
    let path = head.uri.path_and_query().cloned();
    head.uri = path.map_or_else(Uri::default, Uri::from);
    for name in CONNECTION_HEADERS {
        head.headers.remove(name);
    }
    never_index_malformed(&mut head.headers);
    if let Some(health) = is_own {
        let response = health.answer(Request::from_parts(head, body), (*drains).clone()).await;
        return response.map(|body| Answer { body: Some(body), is_late: false, _admitted: None });
    }
    match proxy.channel.clone().call(Request::from_parts(head, body)).await {
        Ok(mut response) => {
            // The body may be shorter: an error replaces the rest.
            response.headers_mut().remove(header::CONTENT_LENGTH);
            never_index_malformed(response.headers_mut());
            response.map(|body| Answer { body: Some(body), is_late: false, _admitted: admitted })
        }
        Err(status) => status_only(&status),
    }
}

/// Headers of a connection, not of the RPC. A request with other headers of this kind is malformed in HTTP/2 (RFC 9113,
/// 8.2.2) and was rejected before.
const CONNECTION_HEADERS: [HeaderName; 2] = [header::HOST, header::TE];

fn is_grpc(head: &Parts) -> bool {
    // `application/grpc`, perhaps with a subtype or parameters. `application/grpc-web` is another protocol.
    let is_grpc = |value: &HeaderValue| {
        let rest = value.as_bytes().strip_prefix(b"application/grpc");
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
    };
    head.method == Method::POST && head.headers.get(header::CONTENT_TYPE).is_some_and(is_grpc)
}

/// Returns whether gRPC allows this metadata key (`doc/PROTOCOL-HTTP2.md`, "Header-Name"). A `|` also marks a key that
/// is invalid in HTTP/2 and was amended (`http2::header_block`): it must not be taken for a different key.
fn is_key(name: &HeaderName) -> bool {
    !name.as_str().as_bytes().contains(&b'|')
}

/// Returns the size of a request's headers in bytes, counted as for SETTINGS_MAX_HEADER_LIST_SIZE (RFC 9113, 6.5.2),
/// but without the authority, which is not used.
fn size_of(head: &Parts) -> usize {
    let path = head.uri.path_and_query().map_or(0, |path| path.as_str().len());
    let headers = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32);
    path + headers.sum::<usize>()
}

/// Returns the response to an RPC that does not reach the channel. Observers are told of it all the same.
fn refuse(proxy: &Shared, head: Parts, status: &Status) -> Response<Answer> {
    proxy.channel.refused(&Request::from_parts(head, Body::empty()), status);
    status_only(status)
}

/// Returns a response that consists only of this status.
fn status_only(status: &Status) -> Response<Answer> {
    let mut response = Response::new(Answer::nothing());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if status.add_header(headers).is_err() {
        headers.clear();
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    response
}

/// Has the values of trailers never indexed that the other side may not be able to read.
pub(super) fn readable(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        never_index_malformed(trailers);
    }
    frame
}

/// The body of a response. If it fails before its end (a deadline, a lost server), the client gets the status in
/// trailers: a reset stream would hide the status.
pub(super) struct Answer {
    body: Option<Body>,
    /// The RPC's deadline has passed.
    is_late: bool,
    _admitted: Option<Admitted>,
}

impl Answer {
    const fn nothing() -> Self {
        Self { body: None, is_late: false, _admitted: None }
    }
}

impl Outgoing for Answer {
    const FAILED: Reason = Reason::INTERNAL_ERROR;
    const GATHERS: bool = true;

    fn is_late(&self) -> bool {
        self.is_late
    }

    /// Always pending: the stream itself reports when the client is gone.
    fn poll_given_up(&self, _cx: &Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        match ready!(Pin::new(body).poll_frame(cx)) {
            Some(Err(status)) => {
                self.body = None;
                self.is_late = status.code() == Code::DeadlineExceeded;
                let mut trailers = HeaderMap::new();
                match status.add_header(&mut trailers) {
                    Ok(()) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                    Err(unspeakable) => Poll::Ready(Some(Err(unspeakable))),
                }
            }
            Some(Ok(frame)) => Poll::Ready(Some(Ok(readable(frame)))),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        // An error may replace the announced rest of the body.
        SizeHint::default()
    }
}
