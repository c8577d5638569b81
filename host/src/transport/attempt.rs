//! One attempt of an RPC on a subconn: sent, counted, and ended exactly once.

use std::time::Duration;

use http::Uri;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::connection::{SendError, StreamPermit};
use super::pool::Pool;
use super::replay::ReplayBody;
use crate::call::AttemptRecorder;
use crate::http2::Received;
use crate::subconn::{Done, DoneInfo, SubConn};
use crate::timeout::set_grpc_timeout;
use crate::waiting::Waits;

/// Options of one attempt.
pub(crate) struct AttemptOptions<'a> {
    /// Notified of the end.
    pub(crate) done: Option<Done>,
    /// When the subconn was picked.
    pub(crate) picked_at: Instant,
    pub(crate) deadline: Option<Instant>,
    /// When the request's `grpc-timeout` header was correct. `None`: it has no such header for this deadline.
    pub(crate) timeout_set_at: Option<Instant>,
    /// RPCs in flight that the subconn may have at most.
    pub(crate) max_requests: u32,
    pub(crate) record: &'a AttemptRecorder,
}

/// An attempt in flight. [`end`](Self::end) says how it ended; a drop means that the client gave up, or that
/// the deadline has passed.
pub(crate) struct Attempt {
    open: Option<Open>,
    deadline: Option<Instant>,
}

struct Open {
    subconn: SubConn,
    /// `None` until the attempt is on a connection.
    stream: Option<StreamPermit>,
    done: Option<Done>,
    begun: Instant,
    /// The response headers have arrived.
    responded: bool,
}

/// Sends a request on a subconn, to the request's own authority or else the subconn's, and waits for the response
/// headers. The returned [`Attempt`] counts the RPC as in flight until it is ended or dropped.
pub(crate) async fn send(
    subconn: &SubConn,
    mut request: http::Request<ReplayBody>,
    options: AttemptOptions<'_>,
    waits: &mut Waits<'_>,
) -> Result<(http::Response<Received>, Attempt), SendError> {
    let AttemptOptions { done, picked_at, deadline, timeout_set_at, max_requests, record } = options;
    let failed = |message: String| SendError::Failed(Status::internal(message));
    let Some(pool) = subconn.driver::<Pool>() else {
        return Err(failed(format!("the picker picked {subconn:?}, which has no connections")));
    };
    let mut attempt = Attempt::start(subconn.clone(), done, picked_at, deadline);
    // Counted before the check, so that concurrent RPCs cannot exceed the limit.
    if subconn.in_flight() > max_requests {
        attempt.not_processed();
        return Err(SendError::Dropped(Status::unavailable(format!(
            "{max_requests} RPCs to {} are in flight (max_requests_per_endpoint)",
            pool.authority()
        ))));
    }
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(pool.scheme().clone());
    let own = parts.authority.take().filter(|own| own != pool.authority());
    parts.authority = Some(own.clone().unwrap_or_else(|| pool.authority().clone()));
    *request.uri_mut() = Uri::from_parts(parts).map_err(|error| failed(error.to_string()))?;
    loop {
        let (permit, waited) = match pool.stream(subconn, waits).await {
            Ok(found) => found,
            Err(status) => {
                attempt.not_processed();
                return Err(SendError::Dropped(status));
            }
        };
        let Some((connection, stream)) = permit else {
            attempt.not_processed();
            return Err(SendError::NotSent(Box::new(request)));
        };
        attempt.start_stream(stream, waited);
        if record.is_observed() {
            let now = if waited { record.waited_for_stream(picked_at) } else { picked_at };
            record.sent(now);
        }
        if let Some(own) = &own
            && !connection.may_serve(own)
        {
            let status = Status::unavailable(format!(
                "the RPC has the authority {own}, which is not in the certificate of {}",
                pool.authority()
            ));
            attempt.end(status.code(), None);
            return Err(SendError::Failed(status));
        }
        if let Some(deadline) = deadline {
            let now = Instant::now();
            let left = deadline.saturating_duration_since(now);
            if left.is_zero() {
                // Not sent. The RPC's timer says so within a millisecond.
                std::future::pending::<()>().await;
            }
            let age = timeout_set_at.map(|at| now.saturating_duration_since(at));
            if age.is_none_or(|age| age > Duration::from_millis(1) || age > left / 100) {
                set_grpc_timeout(request.headers_mut(), left);
            }
        }
        match connection.send(request).await {
            Ok(response) => {
                record.responded(attempt.responded());
                return Ok((response, attempt));
            }
            // The connection was lost just now: retried on another one, or on none if it was the last.
            Err(SendError::NotSent(unsent)) => {
                attempt.drop_stream();
                record.not_sent();
                request = *unsent;
            }
            Err(error @ SendError::Unprocessed { .. }) => {
                attempt.not_processed();
                return Err(error);
            }
            Err(SendError::Failed(status)) => {
                attempt.end(status.code(), None);
                return Err(SendError::Failed(status));
            }
            // A connection drops nothing.
            Err(error @ SendError::Dropped(_)) => return Err(error),
        }
    }
}

impl Attempt {
    fn start(subconn: SubConn, done: Option<Done>, picked_at: Instant, deadline: Option<Instant>) -> Self {
        subconn.counters().start(picked_at);
        Self {
            open: Some(Open { subconn, stream: None, done, begun: picked_at, responded: false }),
            deadline,
        }
    }

    /// Records that the attempt has a stream, for which it may have waited.
    fn start_stream(&mut self, stream: StreamPermit, waited: bool) {
        if let Some(open) = &mut self.open {
            open.stream = Some(stream);
            if waited {
                open.begun = Instant::now();
            }
        }
    }

    /// Records that the request was not sent on this stream.
    fn drop_stream(&mut self) {
        if let Some(open) = &mut self.open {
            open.stream = None;
        }
    }

    /// Records that the response headers have arrived.
    fn responded(&mut self) -> Instant {
        let now = Instant::now();
        if let Some(open) = &mut self.open {
            open.responded = true;
            open.subconn.counters().responded(open.begun, now);
        }
        now
    }

    /// Records that the request was never sent, or that the peer did not process it.
    fn not_processed(&mut self) {
        if let Some(open) = self.open.take() {
            open.subconn.counters().not_sent(open.responded);
            open.finish(End { code: None, client_ended: false, trailers: None }, Instant::now());
        }
    }

    /// Records the end of the RPC, with the trailers if it got that far. Returns the time.
    pub(crate) fn end(&mut self, code: Code, trailers: Option<&http::HeaderMap>) -> Instant {
        self.ended(End { code: Some(code), client_ended: false, trailers })
    }

    /// Records that the client gave up, and with which code. Returns the time.
    pub(crate) fn give_up(&mut self, code: Code) -> Instant {
        self.ended(End { code: Some(code), client_ended: true, trailers: None })
    }

    fn ended(&mut self, end: End<'_>) -> Instant {
        let now = Instant::now();
        if let Some(open) = self.open.take() {
            let code = end.code.unwrap_or(Code::Unknown);
            open.subconn.counters().end(code, end.client_ended, open.responded, open.begun, now);
            open.finish(end, now);
        }
        now
    }
}

struct End<'a> {
    code: Option<Code>,
    client_ended: bool,
    trailers: Option<&'a http::HeaderMap>,
}

impl Open {
    fn finish(self, end: End<'_>, now: Instant) {
        let Self { stream, done, begun, .. } = self;
        drop(stream);
        if let Some(done) = done {
            let End { code, client_ended, trailers } = end;
            let latency = now.saturating_duration_since(begun);
            done.notify(&DoneInfo { code, client_ended, trailers, latency });
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        match &self.open {
            None => {}
            Some(open) if open.stream.is_none() => self.not_processed(),
            Some(_) if self.deadline.is_some_and(|at| at <= Instant::now()) => {
                _ = self.give_up(Code::DeadlineExceeded);
            }
            Some(_) => _ = self.give_up(Code::Cancelled),
        }
    }
}
