//! Records an RPC while it runs. Without an observer a recorder is empty, and its methods return at once.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::HeaderMap;
use http::uri::PathAndQuery;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::messages::Framing;
use super::observer::CallEvent;
use super::record::{AttemptKind, AttemptRecord, Call, Messages, Peer, PickRecord};
use super::recording::{End, Observers, Recording, State};
use crate::load_report::LoadReport;
use crate::picker::{DelayType, Delays};

/// Records one RPC. If it is dropped before [`end`](Self::end), the caller has given up.
#[derive(Debug, Default)]
pub(crate) struct CallRecorder(Option<Arc<Recording>>);

/// Records one attempt. If it is dropped before [`end`](Self::end), the caller has given up, or another attempt was
/// faster.
#[derive(Debug)]
pub(crate) struct AttemptRecorder {
    recording: Option<Arc<Recording>>,
    number: usize,
    /// What was received so far. It becomes part of the record when the attempt ends.
    received: Messages,
    framing: Framing,
}

/// Records the messages of the request of an attempt, which another task sends.
#[derive(Debug)]
pub(crate) struct MessageMeter {
    recording: Arc<Recording>,
    attempt: usize,
    framing: Framing,
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
        let watchers: Vec<_> =
            observers.0.iter().filter_map(|observer| observer.call_started(&call, metadata)).collect();
        let is_watched = !watchers.is_empty();
        let state = Mutex::new(State { watchers, ..State::default() });
        Self(Some(Arc::new(Recording { observers: observers.clone(), call, is_watched, state })))
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
        state.active += 1;
        if let Some(since) = state.idle_since.take() {
            state.retry_delay += now.saturating_duration_since(since);
        }
        AttemptRecorder::of(Some(Arc::clone(recording)), number)
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
        Self::of(None, 0)
    }
}

impl AttemptRecorder {
    fn of(recording: Option<Arc<Recording>>, number: usize) -> Self {
        Self { recording, number, received: Messages::default(), framing: Framing::default() }
    }

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
        let recording = Arc::clone(self.recording.as_ref()?);
        Some(MessageMeter { recording, attempt: self.number, framing: Framing::default() })
    }

    /// Records the next data of the response.
    #[inline]
    pub(crate) fn received(&mut self, data: &[u8]) {
        if self.recording.is_some() {
            self.count_received(data);
        }
    }

    fn count_received(&mut self, data: &[u8]) {
        let Self { recording, number, received, framing } = self;
        let watched = recording.as_ref().filter(|recording| recording.is_watched);
        framing.feed(data, |size| {
            let sequence = received.count;
            received.count += 1;
            received.bytes += size;
            if let Some(recording) = watched {
                recording.state().tell(|| CallEvent::MessageReceived { attempt: *number, sequence, size });
            }
        });
    }

    /// Records the end of the attempt, with the trailers if it got that far.
    pub(crate) fn end(&mut self, code: Code, trailers: Option<&HeaderMap>) {
        if let Some(recording) = self.recording.take() {
            let load = trailers.and_then(LoadReport::of_trailers);
            let end = End { code, client_ended: false, load, received: Some(self.received) };
            recording.end_attempt(&mut recording.state(), self.number, end, Instant::now());
        }
    }

    /// Records the end of the attempt and of its RPC. `message`: the status message, if this side has made it.
    #[inline]
    pub(crate) fn end_call(
        &mut self,
        call: &mut CallRecorder,
        now: Instant,
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
        let mut state = recording.state();
        let load = trailers.and_then(LoadReport::of_trailers);
        let end = End { code, client_ended, load, received: Some(self.received) };
        recording.end_attempt(&mut state, self.number, end, now);
        recording.end(&mut state, code, message, client_ended, now);
    }
}

impl MessageMeter {
    /// Records the next data.
    pub(crate) fn data(&mut self, data: &[u8]) {
        let Self { recording, attempt, framing } = self;
        let attempt = *attempt;
        framing.feed(data, |size| {
            let mut state = recording.state();
            let State { attempts, watchers, .. } = &mut *state;
            let record = &mut attempts[attempt];
            if record.ended.is_some() {
                return;
            }
            let sequence = record.request.count;
            record.request.count += 1;
            record.request.bytes += size;
            for watcher in watchers {
                watcher.on(CallEvent::MessageSent { attempt, sequence, size });
            }
        });
    }
}

impl Drop for AttemptRecorder {
    fn drop(&mut self) {
        if let Some(recording) = self.recording.take() {
            let (code, received) = (recording.given_up(), Some(self.received));
            let end = End { code, client_ended: true, load: None, received };
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
