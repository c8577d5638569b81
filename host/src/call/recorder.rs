//! Records an RPC while it runs. Without an observer a recorder is empty, and its methods return at once.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::HeaderMap;
use http::uri::PathAndQuery;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::observer::CallEvent;
use super::record::{AttemptKind, AttemptRecord, Call, Peer, PickRecord};
use super::recording::{End, Observers, Recording, State};
use crate::load_report::LoadReport;
use crate::picker::{DelayType, Delays};

/// Records one RPC. If it is dropped before [`end`](Self::end), the caller has given up.
#[derive(Debug)]
pub(crate) struct CallRecorder(Option<Arc<Recording>>);

/// Records one attempt. If it is dropped before [`end`](Self::end), the caller has given up, or another attempt was
/// faster.
#[derive(Debug)]
pub(crate) struct AttemptRecorder {
    recording: Option<Arc<Recording>>,
    number: usize,
}

/// Direction of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Request,
    Response,
}

/// Records the messages of one direction of an attempt.
#[derive(Debug)]
pub(crate) struct MessageMeter {
    recording: Arc<Recording>,
    attempt: usize,
    direction: Direction,
}

impl CallRecorder {
    /// Starts the record of an RPC.
    pub(crate) fn start(
        observers: &Observers,
        target: &Arc<str>,
        request: &http::Request<tonic::body::Body>,
        started: Instant,
    ) -> Self {
        if observers.is_empty() {
            return Self(None);
        }
        let path = request.uri().path_and_query().cloned();
        let peer = request.extensions().get::<Peer>().copied();
        Self::begin(observers, target, path, peer, request.headers(), started)
    }

    fn begin(
        observers: &Observers,
        target: &Arc<str>,
        path: Option<PathAndQuery>,
        peer: Option<Peer>,
        metadata: &HeaderMap,
        started: Instant,
    ) -> Self {
        let call = Call { target: Arc::clone(target), peer, started, path };
        let watchers =
            observers.0.iter().filter_map(|observer| observer.call_started(&call, metadata)).collect();
        let state = Mutex::new(State { watchers, ..State::default() });
        Self(Some(Arc::new(Recording { observers: observers.clone(), call, state })))
    }

    pub(crate) const fn is_observed(&self) -> bool {
        self.0.is_some()
    }

    /// Sets the deadline, which decides what a drop means.
    pub(crate) fn set_deadline(&self, deadline: Option<Instant>) {
        if let Some(recording) = &self.0 {
            recording.state().deadline = deadline;
        }
    }

    /// Records that the RPC has waited until the target was resolved.
    pub(crate) fn resolved(&self, waited: Duration) {
        if let Some(recording) = &self.0 {
            let mut state = recording.state();
            state.resolving = waited;
            state.tell(|| CallEvent::Resolved(waited));
        }
    }

    /// Starts the record of an attempt. `previous`: attempts before, without transparent retries.
    pub(crate) fn attempt(&self, kind: AttemptKind, previous: u32, now: Instant) -> AttemptRecorder {
        let Some(recording) = &self.0 else { return AttemptRecorder::default() };
        let record = AttemptRecord::new(kind, previous, now);
        for observer in recording.observers.0.iter() {
            observer.attempt_started(&recording.call, &record);
        }
        let mut state = recording.state();
        let State { attempts, watchers, .. } = &mut *state;
        let number = attempts.len();
        attempts.push(record);
        let record = &attempts[number];
        watchers
            .iter_mut()
            .for_each(|watcher| watcher.on(CallEvent::AttemptStarted { attempt: number, record }));
        state.framings.push(Default::default());
        state.active += 1;
        if let Some(since) = state.idle_since.take() {
            state.retry_delay += now.saturating_duration_since(since);
        }
        AttemptRecorder { recording: Some(Arc::clone(recording)), number }
    }

    /// Records the end of the RPC. `message`: the status message, if this side has made it.
    pub(crate) fn end(&mut self, code: Code, message: Option<&str>, client_ended: bool) {
        if let Some(recording) = self.0.take() {
            recording.end(&mut recording.state(), code, message, client_ended, Instant::now());
        }
    }

    /// Records that the RPC ended with this status, which this side has made.
    pub(crate) fn fail(&mut self, status: &Status, client_ended: bool) {
        self.end(status.code(), Some(status.message()), client_ended);
    }
}

impl Drop for CallRecorder {
    fn drop(&mut self) {
        if let Some(recording) = self.0.take() {
            let code = recording.given_up();
            recording.end(&mut recording.state(), code, None, true, Instant::now());
        }
    }
}

/// Records nothing.
impl Default for AttemptRecorder {
    fn default() -> Self {
        Self { recording: None, number: 0 }
    }
}

impl AttemptRecorder {
    fn change(&self, change: impl FnOnce(&mut AttemptRecord)) {
        if let Some(recording) = &self.recording {
            change(&mut recording.state().attempts[self.number]);
        }
    }

    pub(crate) const fn is_observed(&self) -> bool {
        self.recording.is_some()
    }

    /// Records where the attempt goes, and lets watchers add metadata.
    pub(crate) fn picked(&self, pick: PickRecord, metadata: &mut HeaderMap) {
        let Some(recording) = &self.recording else { return };
        let mut state = recording.state();
        let State { attempts, watchers, .. } = &mut *state;
        let record = &mut attempts[self.number];
        record.pick = Some(pick);
        for watcher in watchers {
            watcher.on(CallEvent::Sending { attempt: self.number, record, metadata });
        }
    }

    /// Records that the attempt has waited for a stream, since this moment. Returns the time.
    pub(crate) fn waited_for_stream(&self, since: Instant) -> Instant {
        let now = Instant::now();
        if let Some(recording) = &self.recording {
            let mut state = recording.state();
            let reason = "all streams that the servers allow are in use".to_owned();
            state.delay(self.number, DelayType::StreamLimit, reason, since);
            state.end_delay(self.number, now);
        }
        now
    }

    /// Records that the attempt is sent.
    pub(crate) fn sent(&self, now: Instant) {
        self.change(|attempt| attempt.sent = Some(now));
    }

    /// Records that the attempt was not sent after all: another connection is needed.
    pub(crate) fn not_sent(&self) {
        self.change(|attempt| attempt.sent = None);
    }

    /// Records that the response headers have arrived.
    pub(crate) fn responded(&self, now: Instant) {
        self.change(|attempt| attempt.responded = Some(now));
    }

    /// Returns a meter of the request's messages. `None`: nobody observes the RPC.
    pub(crate) fn request_meter(&self) -> Option<MessageMeter> {
        self.meter(Direction::Request)
    }

    /// Returns a meter of the response's messages. `None`: nobody observes the RPC.
    pub(crate) fn response_meter(&self) -> Option<MessageMeter> {
        self.meter(Direction::Response)
    }

    fn meter(&self, direction: Direction) -> Option<MessageMeter> {
        let recording = Arc::clone(self.recording.as_ref()?);
        Some(MessageMeter { recording, attempt: self.number, direction })
    }

    /// Records the end of the attempt, with the trailers if it got that far.
    pub(crate) fn end(&mut self, code: Code, trailers: Option<&HeaderMap>) {
        if let Some(recording) = self.recording.take() {
            let end = End { code, client_ended: false, load: trailers.and_then(LoadReport::of_trailers) };
            recording.end_attempt(&mut recording.state(), self.number, end, Instant::now());
        }
    }

    /// Records the end of the attempt and of its RPC. `message`: the status message, if this side has made it.
    pub(crate) fn end_call(
        &mut self,
        call: &mut CallRecorder,
        code: Code,
        client_ended: bool,
        trailers: Option<&HeaderMap>,
        message: Option<&str>,
    ) {
        let Some(recording) = self.recording.take() else {
            // Not observed, or the attempt has ended before.
            return call.end(code, message, client_ended);
        };
        call.0 = None;
        let now = Instant::now();
        let mut state = recording.state();
        let end = End { code, client_ended, load: trailers.and_then(LoadReport::of_trailers) };
        recording.end_attempt(&mut state, self.number, end, now);
        recording.end(&mut state, code, message, client_ended, now);
    }
}

impl MessageMeter {
    /// Records the next data.
    pub(crate) fn data(&mut self, data: &[u8]) {
        let Self { recording, attempt, direction } = self;
        let attempt = *attempt;
        let mut state = recording.state();
        let State { attempts, framings, watchers, .. } = &mut *state;
        let record = &mut attempts[attempt];
        let (messages, framing) = match direction {
            Direction::Request => (&mut record.request, &mut framings[attempt][0]),
            Direction::Response => (&mut record.response, &mut framings[attempt][1]),
        };
        if record.ended.is_some() {
            return;
        }
        framing.feed(data, |size| {
            let sequence = messages.count;
            messages.count += 1;
            messages.bytes += size;
            for watcher in watchers.iter_mut() {
                watcher.on(match direction {
                    Direction::Request => CallEvent::MessageSent { attempt, sequence, size },
                    Direction::Response => CallEvent::MessageReceived { attempt, sequence, size },
                });
            }
        });
    }
}

impl Drop for AttemptRecorder {
    fn drop(&mut self) {
        if let Some(recording) = self.recording.take() {
            let end = End { code: recording.given_up(), client_ended: true, load: None };
            recording.end_attempt(&mut recording.state(), self.number, end, Instant::now());
        }
    }
}

impl Delays for AttemptRecorder {
    fn begin(&self, delay: DelayType, reason: &dyn fmt::Display) {
        if let Some(recording) = &self.recording {
            recording.state().delay(self.number, delay, reason.to_string(), Instant::now());
        }
    }

    fn end(&self) {
        if let Some(recording) = &self.recording {
            let mut state = recording.state();
            if !state.delays.is_empty() {
                state.end_delay(self.number, Instant::now());
            }
        }
    }
}
