//! One RPC through the proxy.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hotpick::Channel;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, Uri, header};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tonic::Status;
use tonic::body::Body;
use tower_service::Service as _;

/// Sends an RPC of any kind through the channel. Metadata, messages and trailers pass as they are, but for
/// the headers of the connection itself; `:authority` is the channel's.
pub(super) async fn forward(
    mut channel: Channel,
    request: Request<Incoming>,
) -> Result<Response<Forwarded>, Infallible> {
    if !is_grpc(&request) {
        // As gRPC servers answer (`doc/PROTOCOL-HTTP2.md`).
        let mut refused = Response::new(Forwarded(None));
        *refused.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Ok(refused);
    }
    let (mut head, body) = request.into_parts();
    let path = head.uri.path_and_query().cloned();
    head.uri = path.map_or_else(Uri::default, Uri::from);
    head.extensions.clear();
    for name in CONNECTION_HEADERS {
        head.headers.remove(name);
    }
    let response = channel.call(Request::from_parts(head, Body::new(body))).await;
    Ok(match response {
        Ok(response) => response.map(|body| Forwarded(Some(body))),
        Err(status) => status.into_http::<Body>().map(|body| Forwarded(Some(body))),
    })
}

/// Of one connection, and not of the RPC. A request with others of this kind is malformed in HTTP/2 (RFC 9113, 8.2.2),
/// and does not come so far.
const CONNECTION_HEADERS: [HeaderName; 2] = [header::HOST, header::TE];

fn is_grpc(request: &Request<Incoming>) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let is_grpc = |value: &http::HeaderValue| value.as_bytes().starts_with(b"application/grpc");
    request.method() == Method::POST && content_type.is_some_and(is_grpc)
}

/// The body of a response. When it fails underway (its deadline passes, its server is lost), the client is
/// told by trailers: a reset stream would hide the status.
pub(super) struct Forwarded(Option<Body>);

impl http_body::Body for Forwarded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        match ready!(Pin::new(body).poll_frame(cx)) {
            Some(Err(status)) => {
                self.0 = None;
                let mut trailers = HeaderMap::new();
                match status.add_header(&mut trailers) {
                    Ok(()) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                    Err(unspeakable) => Poll::Ready(Some(Err(unspeakable))),
                }
            }
            other => Poll::Ready(other),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        // An error may come in place of what is announced.
        SizeHint::default()
    }
}
