//! The body of a response, which records how the RPC ends.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tonic::{Code, Status};

use super::sender::Answered;
use crate::activity::Active;
use crate::call::{AttemptRecorder, CallRecorder};
use crate::http2::{Received, code_of_http, grpc_code, status_of};
use crate::retry::{Pushback, Throttled};
use crate::transport::{Attempt, Replay};

pin_project! {
    /// Passes the body on, and ends the RPC exactly once: at the trailers, at an error, at the deadline, or when the
    /// body is dropped. From then on the body holds no resources of the RPC.
    ///
    /// The deadline is checked only when the body is polled.
    struct RpcBody {
        open: Option<Open>,
        #[pin]
        deadline: Option<Sleep>,
    }
}

/// An RPC whose response headers have arrived.
pub(super) struct Begun {
    pub(super) answered: Answered,
    pub(super) replay: Replay,
    pub(super) active: Active,
    pub(super) throttled: Option<Throttled>,
    pub(super) deadline: Option<Sleep>,
}

/// Resources of an RPC in flight, in the order in which they end.
struct Open {
    inner: Received,
    attempt: Attempt,
    attempt_record: AttemptRecorder,
    record: CallRecorder,
    throttled: Option<Throttled>,
    /// Held because the request ends with the response.
    _replay: Replay,
    active: Active,
}

impl Begun {
    /// Returns the response, whose body ends the RPC.
    ///
    /// # Errors
    ///
    /// If the response is not a gRPC response: an intermediary has answered with an HTTP status.
    #[inline]
    pub(super) fn response(
        self,
        mut record: CallRecorder,
    ) -> Result<http::Response<tonic::body::Body>, Status> {
        let Self { answered, replay, active, throttled, deadline } = self;
        let Answered { response, mut attempt, record: mut attempt_record, .. } = answered;
        let said = grpc_code(response.headers());
        if said.is_none() && response.status() != StatusCode::OK {
            let status = not_grpc(response.status());
            let now = attempt.end(status.code(), None);
            attempt_record.end_call(&mut record, now, status.code(), false, None, Some(status.message()));
            return Err(status);
        }
        // An RPC without messages can end in its headers ("trailers-only"). A peer that ends it there without a status
        // is not a gRPC server. That is recorded here, because such a body is never read.
        let is_over = response.body().is_end_stream();
        let code = said.or_else(|| is_over.then_some(Code::Unknown));
        let (head, inner) = response.into_parts();
        let mut open = Open { inner, attempt, attempt_record, record, throttled, _replay: replay, active };
        if let Some(code) = code {
            // A failure was counted when it was decided not to retry it.
            open.throttled = open.throttled.filter(|_| code == Code::Ok);
            open.end(code, said.map(|_| &head.headers));
        }
        let body = if is_over {
            tonic::body::Body::empty()
        } else {
            tonic::body::Body::new(RpcBody { open: Some(open), deadline })
        };
        Ok(http::Response::from_parts(head, body))
    }
}

impl Open {
    fn end(&mut self, code: Code, trailers: Option<&HeaderMap>) {
        let now = self.attempt.end(code, trailers);
        self.attempt_record.end_call(&mut self.record, now, code, false, trailers, None);
        if let Some(throttled) = self.throttled.take() {
            throttled.ended(code, trailers.map_or(Pushback::None, Pushback::of));
        }
    }

    /// The RPC ends with a status that this side has made. `client_ended`: the deadline has passed. Otherwise the stream
    /// has failed.
    fn fail(&mut self, status: &Status, client_ended: bool) {
        let (code, message) = (status.code(), Some(status.message()));
        let now = if client_ended { self.attempt.give_up(code) } else { self.attempt.end(code, None) };
        self.attempt_record.end_call(&mut self.record, now, code, client_ended, None, message);
        if let Some(throttled) = self.throttled.take() {
            throttled.ended(code, Pushback::None);
        }
    }
}

fn not_grpc(status: StatusCode) -> Status {
    Status::new(code_of_http(status), format!("the response is not a gRPC response: HTTP status {status}"))
}

impl Body for RpcBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        let Some(open) = this.open else { return Poll::Ready(None) };
        // Checked first: otherwise a stream that is faster than its reader would never reach its deadline.
        if this.deadline.as_pin_mut().is_some_and(|deadline| deadline.poll(cx).is_ready()) {
            let status = deadline_exceeded(None);
            open.fail(&status, true);
            *this.open = None;
            return Poll::Ready(Some(Err(status)));
        }
        let frame = match ready!(Pin::new(&mut open.inner).poll_frame(cx)) {
            Some(Ok(frame)) => match frame.trailers_ref() {
                None => {
                    if let Some(data) = frame.data_ref() {
                        open.attempt_record.received(data);
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Some(trailers) => {
                    open.end(grpc_code(trailers).unwrap_or(Code::Unknown), Some(trailers));
                    Some(Ok(frame))
                }
            },
            Some(Err(error)) => {
                let status = open.active.blame(status_of(&error));
                open.fail(&status, false);
                Some(Err(status))
            }
            None => {
                open.end(Code::Unknown, None);
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
