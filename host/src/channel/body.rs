//! The body of a response, which records how the RPC ends.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tonic::{Code, Status};

use crate::activity::Active;
use crate::http2::{Received, code_of_http, status_of};
use crate::transport::{Attempt, Replay};

pin_project! {
    /// Passes the body on, and ends the RPC exactly once: at the trailers, at an error, at the deadline, or when the
    /// body is dropped. From then on the body holds no resources of the RPC.
    ///
    /// The deadline is checked only when the body is polled.
    pub(super) struct RpcBody {
        open: Option<Open>,
        #[pin]
        deadline: Option<Sleep>,
    }
}

/// Resources of an RPC in flight.
struct Open {
    inner: Received,
    attempt: Attempt,
    /// Held because the request ends with the response.
    _replay: Replay,
    active: Active,
}

impl RpcBody {
    /// Wraps the body of a response.
    ///
    /// # Errors
    ///
    /// If the response is not a gRPC response: an intermediary has answered with an HTTP status.
    pub(super) fn wrap(
        response: http::Response<Received>,
        mut attempt: Attempt,
        replay: Replay,
        active: Active,
        deadline: impl FnOnce() -> Option<Sleep>,
    ) -> Result<http::Response<tonic::body::Body>, Status> {
        let said = grpc_code(response.headers());
        if said.is_none() && response.status() != StatusCode::OK {
            let status = not_grpc(response.status());
            attempt.end(status.code(), None);
            return Err(status);
        }
        // An RPC without messages can end in its headers ("trailers-only"). A peer that ends it there without a status
        // is not a gRPC server. That is recorded here, because such a body is never read.
        let is_over = response.body().is_end_stream();
        match said {
            Some(code) => attempt.end(code, Some(response.headers())),
            None if is_over => attempt.end(Code::Unknown, None),
            None => {}
        }
        Ok(response.map(|inner| {
            if is_over {
                return tonic::body::Body::empty();
            }
            let open = Some(Open { inner, attempt, _replay: replay, active });
            tonic::body::Body::new(Self { open, deadline: deadline() })
        }))
    }
}

fn not_grpc(status: StatusCode) -> Status {
    Status::new(code_of_http(status), format!("the response is not a gRPC response: HTTP status {status}"))
}

/// Returns the status code of the RPC, if these headers contain it.
fn grpc_code(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|status| Code::from_bytes(status.as_bytes()))
}

impl Body for RpcBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        let Some(open) = this.open else { return Poll::Ready(None) };
        // Checked first: otherwise a stream that is faster than its reader would never reach its deadline.
        if this.deadline.as_pin_mut().is_some_and(|deadline| deadline.poll(cx).is_ready()) {
            open.attempt.give_up(Code::DeadlineExceeded);
            *this.open = None;
            return Poll::Ready(Some(Err(deadline_exceeded(None))));
        }
        let frame = match ready!(Pin::new(&mut open.inner).poll_frame(cx)) {
            Some(Ok(frame)) => match frame.trailers_ref() {
                None => return Poll::Ready(Some(Ok(frame))),
                Some(trailers) => {
                    open.attempt.end(grpc_code(trailers).unwrap_or(Code::Unknown), Some(trailers));
                    Some(Ok(frame))
                }
            },
            Some(Err(error)) => {
                let status = open.active.blame(status_of(&error));
                open.attempt.end(status.code(), None);
                Some(Err(status))
            }
            None => {
                open.attempt.end(Code::Unknown, None);
                None
            }
        };
        *this.open = None;
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.open.as_ref().is_none_or(|open| open.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.open.as_ref().map_or(SizeHint::with_exact(0), |open| open.inner.size_hint())
    }
}

/// Returns the status of an RPC whose deadline has passed, with the last error for which it waited.
pub(super) fn deadline_exceeded(last_error: Option<&Status>) -> Status {
    Status::deadline_exceeded(match last_error {
        None => "deadline exceeded".to_owned(),
        Some(error) => format!("deadline exceeded: latest balancer error: {}", error.message()),
    })
}
