//! Sends one RPC: attempts, and what follows each of them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::Either;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};

use super::channel::Shared;
use crate::call::{AttemptKind, AttemptRecorder, CallRecorder, PickRecord};
use crate::http2::{Received, code_of_http, grpc_code};
use crate::picker::{Pick, PickFailure, PickInfo, PickState};
use crate::retry::{CallPolicy, Gate, PREVIOUS_ATTEMPTS, Pushback};
use crate::transport::{self, Attempt, AttemptOptions, Replay, SendError, SendingId};
use crate::waiting::Waits;

/// Maximum number of transparent retries of an RPC, over all of its attempts: the connection ended before the peer
/// processed it. After a refusal there is at most one more: the peer refused only this stream, or ended the connection
/// with an error.
const MAX_TRANSPARENT_RETRIES: usize = 5;
/// Bytes of a request that are kept for transparent retries, if there is no policy.
const KEPT: usize = 64 << 10;

/// Parameters with which an RPC is sent.
pub(super) struct Settings {
    /// Time of the first pick.
    pub(super) now: Instant,
    pub(super) deadline: Option<Instant>,
    pub(super) wait_for_ready: bool,
    /// Time at which the request's own `grpc-timeout` was correct. `None`: another deadline counts.
    pub(super) timeout_set_at: Option<Instant>,
    pub(super) policy: Option<Arc<CallPolicy>>,
    pub(super) gate: Gate,
}

/// Sends the attempts of one RPC.
pub(super) struct Sender<'a> {
    pub(super) channel: &'a Shared,
    pub(super) settings: Settings,
    pub(super) record: &'a CallRecorder,
    head: Parts,
    pub(super) replay: Replay,
    /// Numbers of the subconns that attempts use or have used.
    tried: Mutex<Vec<u32>>,
    /// Number of transparent retries that are left.
    transparent_retries: AtomicUsize,
}

/// An attempt whose response headers have arrived.
pub(super) struct Answered {
    pub(super) response: Response<Received>,
    pub(super) attempt: Attempt,
    pub(super) record: AttemptRecorder,
    pub(super) sending: SendingId,
    subconn: u32,
}

/// An attempt that has failed without response headers.
pub(super) struct Failed {
    pub(super) status: Status,
    /// No further attempt may be made, whatever the policy says.
    pub(super) is_final: bool,
    /// Its last sending of the request. `None`: it was not sent.
    pub(super) sending: Option<SendingId>,
}

pub(super) type AttemptResult = Result<Answered, Failed>;

impl<'a> Sender<'a> {
    #[inline]
    pub(super) fn new(
        channel: &'a Shared,
        request: Request<Body>,
        record: &'a CallRecorder,
        settings: Settings,
    ) -> Self {
        let (mut head, body) = request.into_parts();
        // Extensions are not sent, but would be cloned for each attempt.
        head.extensions.clear();
        let kept = if settings.policy.is_some() { channel.retries.buffer } else { KEPT };
        let replay = Replay::new(body, kept);
        let transparent_retries = AtomicUsize::new(MAX_TRANSPARENT_RETRIES);
        Self { channel, settings, record, head, replay, tried: Mutex::default(), transparent_retries }
    }

    /// Returns the handle of the request, which ends with the response.
    pub(super) fn into_replay(self) -> Replay {
        self.replay
    }

    /// Sends the RPC, until it is answered or has failed for good. [`finish`](Self::finish) says what to make of it.
    #[inline]
    pub(super) fn send<'s>(
        &'s self,
        picking: &'s mut PickState,
        waits: &'s mut Waits<'a>,
    ) -> impl Future<Output = AttemptResult> + use<'s, 'a> {
        match self.settings.policy.as_deref() {
            // Not within another future: a result is copied at each level.
            None => Either::Left(self.attempt(AttemptKind::Original, 0, self.settings.now, picking, waits)),
            // Boxed, so that RPCs without a policy do not pay for their size.
            Some(policy) => Either::Right(Box::pin(async move {
                match policy {
                    CallPolicy::Retry(policy) => self.retry(policy, picking, waits).await,
                    CallPolicy::Hedging(policy) => self.hedge(policy).await,
                }
            })),
        }
    }

    /// Returns the response, or the status of an RPC that has failed for good.
    #[inline]
    pub(super) fn finish(&self, sent: AttemptResult) -> Result<Answered, Status> {
        match sent {
            Ok(answered) => {
                self.replay.commit(answered.sending);
                Ok(answered)
            }
            // An error of the caller's request body says more than the resulting end of the stream.
            Err(failed) => Err(self.replay.take_error().unwrap_or(failed.status)),
        }
    }

    /// Makes one attempt: picks a subconn and sends the request, re-picking until it is written. Sends it again if it was
    /// written but the peer did not process it (gRFC A6, "transparent retries"), as often as [`MAX_TRANSPARENT_RETRIES`]
    /// allows. `previous`: attempts before this one.
    pub(super) async fn attempt(
        &self,
        kind: AttemptKind,
        previous: u32,
        now: Instant,
        picking: &mut PickState,
        waits: &mut Waits<'_>,
    ) -> AttemptResult {
        let Settings { deadline, wait_for_ready, timeout_set_at, .. } = self.settings;
        let (mut kind, mut now) = (kind, now);
        let mut tried = if previous == 0 { Vec::new() } else { self.tried() };
        'attempt: loop {
            let mut record = self.record.attempt(kind, previous, now);
            let Some(mut body) = self.replay.start() else {
                // Asked before; the body has grown meanwhile.
                let text = "the request is too large to be sent again (buffer)";
                return Err(Failed::of(Status::unavailable(text), true, None, record));
            };
            let sending = body.sending();
            if record.is_observed() {
                body.measure(record.request_meter());
            }
            loop {
                let mut info = PickInfo {
                    method: self.head.uri.path(),
                    metadata: &self.head.headers,
                    now,
                    begun: self.settings.now,
                    deadline,
                    wait_for_ready,
                    attempt: previous,
                    tried: &tried,
                    requeued: picking.not_sent,
                    #[cfg(feature = "testing")]
                    past: None,
                };
                let mut pick =
                    match self.channel.published.cell.pick_with(&mut info, picking, &record, waits).await {
                        Ok(pick) => pick,
                        Err(PickFailure { status, is_drop }) => {
                            return Err(Failed::of(status, is_drop, Some(sending), record));
                        }
                    };
                let picked_at = info.now;
                if matches!(self.settings.policy.as_deref(), Some(CallPolicy::Hedging(_))) {
                    // Other attempts are picked while this one is in flight.
                    self.has_tried(pick.subconn.id());
                }

                // Clones the head, because metadata that the policy adds belongs to this attempt alone.
                let mut sent = Request::from_parts(self.head.clone(), body);
                self.amend(sent.headers_mut(), &mut pick, previous);
                if record.is_observed() {
                    let notes = pick.notes.take().map(|notes| *notes).unwrap_or_default();
                    let pick = PickRecord {
                        subconn: pick.subconn.clone(),
                        policy: notes.policy.or_else(|| picking.policy.take()),
                        by: pick.by,
                        explanation: notes.explanation,
                    };
                    record.picked(pick, sent.headers_mut());
                }
                let options = AttemptOptions {
                    done: pick.done,
                    picked_at,
                    deadline,
                    timeout_set_at,
                    max_requests: self.channel.max_requests_per_endpoint,
                    record: &record,
                };
                let (status, refused) = match transport::send(&pick.subconn, sent, options, waits).await {
                    Ok((response, attempt)) => {
                        let subconn = pick.subconn.id();
                        return Ok(Answered { response, attempt, record, sending, subconn });
                    }
                    Err(SendError::NotSent(unsent)) => {
                        body = unsent.into_body();
                        picking.not_sent = true;
                        now = Instant::now();
                        continue;
                    }
                    Err(SendError::Dropped(status)) => {
                        return Err(Failed::of(status, true, Some(sending), record));
                    }
                    Err(SendError::Failed(status)) => {
                        let status = self.channel.activity.blame(status);
                        self.has_tried(pick.subconn.id());
                        return Err(Failed::of(status, false, Some(sending), record));
                    }
                    Err(SendError::Unprocessed { status, refused }) => {
                        (self.channel.activity.blame(status), refused)
                    }
                };
                self.has_tried(pick.subconn.id());
                let may_repeat = self.replay.is_kept() && !self.channel.activity.is_closed();
                if !may_repeat || !self.take_transparent_retry(refused) {
                    return Err(Failed::of(status, false, Some(sending), record));
                }
                record.end(status.code(), None);
                self.replay.end(sending);
                (kind, now) = (AttemptKind::TransparentRetry, Instant::now());
                tried = self.tried();
                continue 'attempt;
            }
        }
    }

    /// Takes one of the RPC's transparent retries. After a refusal at most one is left, so as not to press a server that
    /// refuses.
    fn take_transparent_retry(&self, refused: bool) -> bool {
        let take = |left: usize| if refused { left.min(1) } else { left }.checked_sub(1);
        self.transparent_retries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Adds to the headers of an attempt what the policy and gRFC A6 say.
    fn amend(&self, headers: &mut HeaderMap, pick: &mut Pick, previous: u32) {
        // Replaces the caller's metadata: with two `authorization` headers it would be undefined which one counts.
        for (name, _) in &pick.metadata {
            headers.remove(name);
        }
        for (name, value) in pick.metadata.drain(..) {
            headers.append(name, value);
        }
        if previous > 0 {
            self.count_attempts(headers, previous);
        }
    }

    /// Sets the number of attempts before this one, added to the caller's own: the caller may be a client of a proxy that
    /// retries as well.
    fn count_attempts(&self, headers: &mut HeaderMap, previous: u32) {
        let own = headers.get(PREVIOUS_ATTEMPTS).and_then(|own| own.to_str().ok()?.parse::<u32>().ok());
        headers.insert(PREVIOUS_ATTEMPTS, HeaderValue::from(own.unwrap_or(0).saturating_add(previous)));
    }

    fn tried(&self) -> Vec<u32> {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records that an attempt uses this subconn, so that further attempts avoid it.
    pub(super) fn has_tried(&self, subconn: u32) {
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        if !tried.contains(&subconn) {
            tried.push(subconn);
        }
    }
}

impl Answered {
    /// Returns the code with which the response failed in its headers, and the server's pushback. `None`: the response has
    /// only begun, or is OK: the RPC is committed to this attempt.
    pub(super) fn failure(&self) -> Option<(Code, Pushback)> {
        let headers = self.response.headers();
        let code = match grpc_code(headers) {
            Some(code) => code,
            None if self.response.status() != http::StatusCode::OK => code_of_http(self.response.status()),
            None => return None,
        };
        (code != Code::Ok).then(|| (code, Pushback::of(headers)))
    }

    /// Ends the attempt, which has failed in its headers.
    pub(super) fn end(&mut self, code: Code) {
        self.attempt.end(code, Some(self.response.headers()));
        self.record.end(code, Some(self.response.headers()));
    }

    /// Returns the number of the subconn that it went to.
    pub(super) const fn subconn(&self) -> u32 {
        self.subconn
    }
}

impl Failed {
    /// An attempt has failed, and its record ends.
    fn of(status: Status, is_final: bool, sending: Option<SendingId>, mut record: AttemptRecorder) -> Self {
        record.end(status.code(), None);
        Self { status, is_final, sending }
    }

    /// The channel is being closed: no further attempt is made.
    pub(super) fn closing(channel: &Shared) -> Self {
        let status = channel.activity.blame(Status::unavailable("the channel is closed"));
        Self { status, is_final: true, sending: None }
    }

    pub(super) fn nothing_sent() -> Self {
        let status = Status::internal("an RPC ended without an attempt");
        Self { status, is_final: true, sending: None }
    }
}
