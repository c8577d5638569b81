//! The body of a response, which learns how the RPC ended.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::{Code, Status};

use crate::activity::Active;
use crate::subconn::{Call, Replay, ResponseBody, status_of};

pin_project! {
    /// Passes the body on, and ends the [`Call`] exactly once: at the trailers, at an error, at the
    /// deadline, or when it is dropped.
    pub(super) struct RpcBody {
        #[pin]
        inner: ResponseBody,
        call: Call,
        // The request ends with the response.
        _replay: Replay,
        active: Active,
        #[pin]
        deadline: Option<Sleep>,
    }
}

impl RpcBody {
    pub(super) fn wrap(
        response: http::Response<ResponseBody>,
        mut call: Call,
        replay: Replay,
        active: Active,
        deadline: Option<Instant>,
    ) -> http::Response<tonic::body::Body> {
        // An RPC without messages can end in its headers ("trailers-only").
        if let Some(code) = grpc_code(response.headers()) {
            call.end(code, Some(response.headers()));
        }
        response.map(|inner| {
            tonic::body::Body::new(Self {
                inner,
                call,
                _replay: replay,
                active,
                deadline: deadline.map(sleep_until),
            })
        })
    }
}

/// How the RPC ended, if these headers say it.
fn grpc_code(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|status| Code::from_bytes(status.as_bytes()))
}

impl Body for RpcBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        // First, or a stream that is faster than its reader would never be late.
        if this.deadline.as_pin_mut().is_some_and(|deadline| deadline.poll(cx).is_ready()) {
            this.call.give_up(Code::DeadlineExceeded);
            return Poll::Ready(Some(Err(super::deadline_exceeded(None))));
        }
        if let Poll::Ready(frame) = this.inner.poll_frame(cx) {
            return Poll::Ready(match frame {
                Some(Ok(frame)) => {
                    if let Some(trailers) = frame.trailers_ref() {
                        this.call.end(grpc_code(trailers).unwrap_or(Code::Unknown), Some(trailers));
                    }
                    Some(Ok(frame))
                }
                Some(Err(error)) => {
                    let status = this.active.blame(status_of(&error));
                    this.call.end(status.code(), None);
                    Some(Err(status))
                }
                None => {
                    this.call.end(Code::Unknown, None);
                    None
                }
            });
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
